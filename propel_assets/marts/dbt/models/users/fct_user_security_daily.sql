{{ config(
  materialized='incremental', full_refresh=false, on_schema_change='append_new_columns',
  incremental_strategy=propel_auth.replace_day(), unique_key='day',
  partition_by={'field': 'day', 'data_type': 'date'} if target.type == 'bigquery' else none
) }}

with latest_load as (
  select {{ propel_auth.as_of('user_query') }} as as_of
),

known as (
  {{ propel_auth.known_columns(['enabled', 'mfa_enabled', 'locked', 'email_confirmed', 'last_active_at']) }}
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
  case when known.has_enabled then counted.enabled_users end as enabled_users,
  case when known.has_enabled and known.has_mfa_enabled then counted.users_with_mfa end as users_with_mfa,
  case
    when known.has_mfa_enabled then {{ propel_auth.share('counted.users_with_mfa', 'counted.enabled_users') }}
  end as mfa_adoption,
  case when known.has_enabled then counted.disabled_users end as disabled_users,
  case when known.has_locked then counted.locked_users end as locked_users,
  case when known.has_email_confirmed then counted.unconfirmed_users end as unconfirmed_users,
  case when known.has_enabled and known.has_last_active_at then counted.dormant_users_90d end as dormant_users_90d,
  latest_load.as_of
from latest_load
cross join counted
cross join known
where latest_load.as_of is not null
