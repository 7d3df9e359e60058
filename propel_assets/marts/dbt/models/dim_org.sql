with latest as (
  {{ propel_auth.latest_versions(ref('orgs_history'), 'org_id') }}
)

select
  latest.org_id,
  latest.name,
  details.domain,
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
  {{ propel_auth.with_zone('latest.first_valid_from') }} as first_seen_at,
  latest.dbt_valid_to is not null as is_deleted,
  {{ propel_auth.with_zone('latest.dbt_valid_to') }} as deleted_seen_at,
  {{ propel_auth.as_of('org_query') }} as as_of
from latest
left join {{ propel_auth.raw('org_by_id') }} as details
  on details.org_id = latest.org_id and latest.dbt_valid_to is null
