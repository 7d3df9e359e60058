with latest as (
  {{ propel_auth.latest_versions(ref('users_history'), 'user_id') }}
)

select
  latest.user_id,
  latest.email,
  lower({{ dbt.split_part('latest.email', "'@'", 2) }}) as email_domain,
  case
    when lower({{ dbt.split_part('latest.email', "'@'", 2) }}) in ({{ propel_auth.listed(propel_auth.free_domains()) }})
      then 'free'
    else 'corporate'
  end as email_domain_class,
  latest.username,
  latest.first_name,
  latest.last_name,
  latest.email_confirmed,
  latest.has_password,
  latest.mfa_enabled,
  latest.enabled,
  latest.locked,
  latest.properties,
  latest.legacy_user_id,
  latest.created_at,
  {{ propel_auth.utc_day('latest.created_at') }} as signup_day,
  users.last_active_at,
  {{ propel_auth.with_zone('latest.first_valid_from') }} as first_seen_at,
  latest.dbt_valid_to is not null as is_deleted,
  {{ propel_auth.with_zone('latest.dbt_valid_to') }} as deleted_seen_at,
  {{ propel_auth.as_of('user_query') }} as as_of
from latest
left join {{ propel_auth.raw('user_query') }} as users
  on users.user_id = latest.user_id and latest.dbt_valid_to is null
