with latest_load as (
  select {{ propel_auth.as_of('user_query') }} as as_of
),

latest as (
  select
    versions.*,
    -- A hashed address has no domain.
    nullif(lower({{ dbt.split_part('versions.email', "'@'", 2) }}), '') as email_domain,
    {{ propel_auth.not_after('versions.created_at', 'latest_load.as_of') }} as signed_up_at
  from ({{ propel_auth.latest_versions(ref('users_history'), 'user_id') }}) as versions
  cross join latest_load
),

free_domains as (
  select domain from {{ ref('free_mail_domains') }}
  {%- for domain in var('propel_auth_more_free_domains') %}
  union all
  select '{{ domain | lower }}'
  {%- endfor %}
)

select
  latest.user_id,
  latest.email,
  latest.email_domain,
  case
    when latest.email_domain is null then null
    when latest.email_domain in (select domain from free_domains) then 'free'
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
  latest.signed_up_at as created_at,
  {{ propel_auth.utc_day('latest.signed_up_at') }} as signup_day,
  {{ propel_auth.not_after('users.last_active_at', 'latest_load.as_of') }} as last_active_at,
  latest.first_valid_from as first_seen_at,
  latest.valid_to is not null as is_deleted,
  latest.valid_to as deleted_seen_at,
  latest_load.as_of
from latest
cross join latest_load
left join {{ propel_auth.raw('user_query') }} as users
  on users.user_id = latest.user_id and latest.valid_to is null
