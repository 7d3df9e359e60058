with latest_load as (
  select {{ propel_auth.as_of('org_query') }} as as_of
),

latest as (
  select versions.*, {{ propel_auth.not_after('versions.created_at', 'latest_load.as_of') }} as known_created_at
  from ({{ propel_auth.latest_versions(ref('orgs_history'), 'org_id') }}) as versions
  cross join latest_load
)

select
  latest.org_id,
  latest.name,
  details.domain,
  coalesce({{ propel_auth.json_field('latest.metadata', var('propel_auth_plan_key')) }}, 'none') as plan,
  latest.max_users,
  latest.is_saml_configured,
  details.is_saml_in_test_mode,
  details.domain_autojoin,
  details.domain_restrict,
  details.isolated,
  latest.custom_role_mapping_name,
  latest.metadata,
  latest.legacy_org_id,
  latest.known_created_at as created_at,
  {{ propel_auth.utc_day('latest.known_created_at') }} as created_day,
  latest.first_valid_from as first_seen_at,
  latest.valid_to is not null as is_deleted,
  latest.valid_to as deleted_seen_at,
  latest_load.as_of
from latest
cross join latest_load
left join {{ propel_auth.raw('org_by_id') }} as details
  on details.org_id = latest.org_id and latest.valid_to is null
