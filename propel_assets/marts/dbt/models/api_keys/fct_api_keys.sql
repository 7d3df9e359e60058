{{ config(
  materialized='incremental', full_refresh=false, on_schema_change='append_new_columns',
  incremental_strategy=propel_auth.replace_day(), unique_key='day',
  partition_by={'field': 'day', 'data_type': 'date'} if target.type == 'bigquery' else none,
  pre_hook="{% if is_incremental() %}update {{ this }} set owner_kind = 'user_in_org' where owner_kind = 'user in org'{% endif %}"
) }}

with latest_load as (
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

judged as (
  select
    all_keys.api_key_id,
    all_keys.display_name,
    all_keys.user_id,
    all_keys.org_id,
    {{ propel_auth.not_after('all_keys.created_at', 'latest_load.as_of') }} as created_at,
    all_keys.expires_at,
    latest_load.as_of,
    case
      when all_keys.is_archived then 'archived'
      when all_keys.expires_at <= latest_load.as_of then 'expired'
      else 'active'
    end as status,
    case
      when all_keys.user_id is null then null
      when deleted_users.user_id is not null then 'owner_deleted'
      when users.user_id is null and all_keys.created_at < users_read.started_at then 'owner_deleted'
      when not users.enabled then 'owner_disabled'
      when
        users.user_id is not null
        and all_keys.org_id is not null
        and memberships.user_id is null
        and all_keys.created_at < users_read.started_at
        then 'owner_left_org'
    end as orphan_reason
  from all_keys
  cross join latest_load
  -- The user or the membership of a newer key may not be loaded yet.
  cross join (select {{ propel_auth.full_load_started_at('user_query') }} as started_at) as users_read
  left join {{ ref('dim_user') }} as deleted_users
    on deleted_users.user_id = all_keys.user_id and deleted_users.is_deleted
  left join {{ propel_auth.raw('user_query') }} as users on users.user_id = all_keys.user_id
  left join {{ propel_auth.raw('org_membership') }} as memberships
    on memberships.user_id = all_keys.user_id and memberships.org_id = all_keys.org_id
)

select
  api_key_id,
  {{ propel_auth.utc_day('as_of') }} as day,
  display_name,
  case
    when user_id is not null and org_id is not null then 'user_in_org'
    when user_id is not null then 'user'
    when org_id is not null then 'org'
    else 'none'
  end as owner_kind,
  user_id,
  org_id,
  status,
  created_at,
  expires_at,
  {{ propel_auth.hours_between('created_at', 'as_of') }} / 24 as age_days,
  {{ propel_auth.hours_between('as_of', 'expires_at') }} / 24 as days_until_expiry,
  expires_at is null as never_expires,
  coalesce(status = 'active' and expires_at <= {{ propel_auth.plus_days('as_of', 30) }}, false) as expires_within_30d,
  created_at < {{ propel_auth.plus_days('as_of', -365) }} as is_older_than_365d,
  orphan_reason is not null as is_orphan,
  orphan_reason,
  as_of
from judged
where as_of is not null
