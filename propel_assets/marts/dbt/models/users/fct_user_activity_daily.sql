{{ config(
  materialized='incremental', full_refresh=false, on_schema_change='append_new_columns', unique_key=['user_id', 'day']
) }}

with seen as (
  select user_id, day, max(is_signup) as is_signup
  from (
    select user_id, {{ propel_auth.utc_day('last_active_at') }} as day, 0 as is_signup
    from {{ propel_auth.raw('user_query') }} as last_activity
    where last_active_at is not null
    union all
    select user_id, {{ propel_auth.utc_day('created_at') }}, 1
    from {{ propel_auth.raw('user_query') }} as signups
    where created_at is not null
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
cross join (select {{ propel_auth.as_of('user_query') }} as as_of) as latest_load
cross join (select min(day) as first_day from {{ ref('user_loads') }}) as loads
{% if is_incremental() %}
left join {{ this }} as known on known.user_id = seen.user_id and known.day = seen.day
where known.user_id is null
{% endif %}
