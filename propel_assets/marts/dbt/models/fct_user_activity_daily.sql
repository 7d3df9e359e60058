{{ config(materialized='incremental', unique_key=['user_id', 'day']) }}

with seen as (
  select
    user_id,
    {{ propel_auth.utc_day('last_active_at') }} as day,
    {{ propel_auth.as_of('user_query') }} as observed_at
  from {{ propel_auth.raw('user_query') }} as users
  where last_active_at is not null
)

select seen.user_id, seen.day, seen.observed_at
from seen
{% if is_incremental() %}
left join {{ this }} as known on known.user_id = seen.user_id and known.day = seen.day
where known.user_id is null
{% endif %}
