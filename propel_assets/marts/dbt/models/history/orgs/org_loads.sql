{{ config(
  materialized='incremental', full_refresh=false, on_schema_change='append_new_columns', unique_key='read_at'
) }}
-- Built after the history, so that a load in it is in the history.
-- depends_on: {{ ref('orgs_history') }}
select latest_load.read_at, {{ propel_auth.full_load_started_at('org_query') }} as full_load_started_at
from (select {{ propel_auth.as_of('org_query') }} as read_at) as latest_load
where latest_load.read_at is not null
