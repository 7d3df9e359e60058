{{ config(
  materialized='incremental', full_refresh=false, on_schema_change='append_new_columns', unique_key='read_at'
) }}
-- Built after the histories, so that a load in it is in them.
-- depends_on: {{ ref('users_history') }}, {{ ref('memberships_history') }}
select
  latest_load.read_at,
  {{ propel_auth.utc_day('latest_load.read_at') }} as day,
  {{ propel_auth.full_load_started_at('user_query') }} as full_load_started_at
from (select {{ propel_auth.as_of('user_query') }} as read_at) as latest_load
where latest_load.read_at is not null
