{{ config(
  materialized='incremental', full_refresh=false, on_schema_change='append_new_columns',
  incremental_strategy=propel_auth.replace_day(), unique_key='day',
  partition_by={'field': 'day', 'data_type': 'date'} if target.type == 'bigquery' else none
) }}

with latest_load as (
  select {{ propel_auth.as_of('user_query') }} as as_of
),

counted as (
  select
    count(*) as users,
    count(case when users.enabled then 1 end) as enabled_users,
    count(case when users.enabled and users.mfa_enabled then 1 end) as users_with_mfa,
    count(case when not users.enabled then 1 end) as disabled_users,
    count(case when users.locked then 1 end) as locked_users,
    count(case when not users.email_confirmed then 1 end) as unconfirmed_users,
    count(
      case when users.enabled and users.last_active_at < {{ propel_auth.plus_days('latest_load.as_of', -90) }} then 1 end
    ) as dormant_users_90d
  from {{ propel_auth.raw('user_query') }} as users
  cross join latest_load
)

select
  {{ propel_auth.utc_day('latest_load.as_of') }} as day,
  counted.users,
  counted.enabled_users,
  counted.users_with_mfa,
  {{ propel_auth.share('counted.users_with_mfa', 'counted.enabled_users') }} as mfa_adoption,
  counted.disabled_users,
  counted.locked_users,
  counted.unconfirmed_users,
  counted.dormant_users_90d,
  latest_load.as_of
from latest_load
cross join counted
where latest_load.as_of is not null
