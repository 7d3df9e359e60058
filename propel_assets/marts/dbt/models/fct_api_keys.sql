{{ config(
  materialized='incremental', incremental_strategy=propel_auth.replace_day(), unique_key='day',
  partition_by={'field': 'day', 'data_type': 'date'} if target.type == 'bigquery' else none
) }}

with reading as (
  select {{ propel_auth.as_of('end_user_api_keys') }} as as_of
),

all_keys as (
  select api_key_id, created_at, expires_at, user_id, org_id, display_name, false as is_archived
  from {{ propel_auth.raw('end_user_api_keys') }} as active_keys
  union all
  select api_key_id, created_at, expires_at, user_id, org_id, display_name, true
  from {{ propel_auth.raw('end_user_api_keys_archived') }} as archived_keys
  where api_key_id not in (select api_key_id from {{ propel_auth.raw('end_user_api_keys') }} as active_keys)
),

calls as (
  select
    api_key_id,
    sum(
      case
        when usage.date >= {{ propel_auth.utc_day(propel_auth.plus_days('reading.as_of', -30)) }} then usage.count
        else 0
      end
    ) as calls_30d
  from {{ propel_auth.raw('end_user_api_key_usage') }} as usage
  cross join reading
  where api_key_id <> 'all'
  group by api_key_id
)

select
  all_keys.api_key_id,
  {{ propel_auth.utc_day('reading.as_of') }} as day,
  all_keys.display_name,
  case
    when all_keys.user_id is not null and all_keys.org_id is not null then 'user in org'
    when all_keys.user_id is not null then 'user'
    when all_keys.org_id is not null then 'org'
    else 'none'
  end as owner_kind,
  all_keys.user_id,
  all_keys.org_id,
  case
    when all_keys.is_archived then 'archived'
    when all_keys.expires_at <= reading.as_of then 'expired'
    else 'active'
  end as status,
  all_keys.created_at,
  all_keys.expires_at,
  {{ propel_auth.days_between('all_keys.created_at', 'reading.as_of') }} as age_days,
  {{ propel_auth.days_between('reading.as_of', 'all_keys.expires_at') }} as expires_in_days,
  all_keys.expires_at is null as never_expires,
  coalesce(
    not all_keys.is_archived and all_keys.expires_at > reading.as_of
    and all_keys.expires_at <= {{ propel_auth.plus_days('reading.as_of', 30) }}, false
  ) as expires_within_30d,
  all_keys.created_at < {{ propel_auth.plus_days('reading.as_of', -365) }} as is_older_than_365d,
  all_keys.user_id is not null and coalesce(not users.enabled, true) as is_orphan,
  cast(calls.calls_30d as {{ dbt.type_bigint() }}) as calls_30d
from all_keys
cross join reading
left join {{ propel_auth.raw('user_query') }} as users on users.user_id = all_keys.user_id
left join calls on calls.api_key_id = all_keys.api_key_id
where reading.as_of is not null
