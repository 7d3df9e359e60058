with latest as (
  {{ propel_auth.latest_versions(ref('orgs_history'), 'org_id') }}
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
  latest.created_at,
  {{ propel_auth.utc_day('latest.created_at') }} as created_day,
  latest.first_valid_from as first_seen_at,
  latest.valid_to is not null as is_deleted,
  latest.valid_to as deleted_seen_at,
  latest_load.as_of
from latest
cross join (select {{ propel_auth.as_of('org_query') }} as as_of) as latest_load
left join {{ propel_auth.raw('org_by_id') }} as details
  on details.org_id = latest.org_id and latest.valid_to is null
