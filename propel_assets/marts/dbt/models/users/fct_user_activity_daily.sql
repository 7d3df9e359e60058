{{ config(
  materialized='incremental', full_refresh=false, on_schema_change='append_new_columns', unique_key=['user_id', 'day']
) }}

with latest_load as (
  select {{ propel_auth.as_of('user_query') }} as as_of
),

times as (
  select user_id, last_active_at as active_at, 0 as is_signup
  from {{ propel_auth.raw('user_query') }} as last_activity
  where last_active_at is not null
  union all
  select user_id, created_at, 1
  from {{ propel_auth.raw('user_query') }} as signups
  where created_at is not null
),

seen as (
  select user_id, day, max(is_signup) as is_signup
  from (
    select
      times.user_id,
      {{ propel_auth.utc_day(propel_auth.not_after('times.active_at', 'latest_load.as_of')) }} as day,
      times.is_signup
    from times
    cross join latest_load
  ) as days
  group by user_id, day
)

select
  seen.user_id,
  seen.day,
  seen.is_signup = 1 as is_signup_day,
  seen.day < loads.first_day as is_before_first_load,
  latest_load.as_of as observed_at
from seen
cross join latest_load
cross join (select min(day) as first_day from {{ ref('user_loads') }}) as loads
{% if is_incremental() %}
left join {{ this }} as known on known.user_id = seen.user_id and known.day = seen.day
where known.user_id is null
{% endif %}
