with latest as (
  {{ propel_auth.latest_versions(ref('memberships_history'), 'user_id, org_id') }}
)

select
  latest.user_id,
  latest.org_id,
  latest.org_role_structure,
  latest.user_role,
  latest.additional_roles,
  latest.inherited_user_roles_plus_current_role as inherited_roles,
  latest.user_permissions as permissions,
  latest.first_valid_from as first_seen_at,
  latest.valid_to is not null as is_deleted,
  latest.valid_to as deleted_seen_at,
  latest_load.as_of
from latest
cross join (select {{ propel_auth.as_of('user_query') }} as as_of) as latest_load
