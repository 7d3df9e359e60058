with latest as (
  {{ propel_auth.latest_versions(ref('memberships_history'), 'user_id, org_id') }}
)

select
  user_id,
  org_id,
  org_name,
  org_role_structure,
  user_role,
  additional_roles,
  inherited_user_roles_plus_current_role as inherited_roles,
  user_permissions as permissions,
  {{ propel_auth.with_zone('first_valid_from') }} as first_seen_at,
  dbt_valid_to is not null as is_deleted,
  {{ propel_auth.with_zone('dbt_valid_to') }} as deleted_seen_at,
  {{ propel_auth.as_of('org_membership') }} as as_of
from latest
