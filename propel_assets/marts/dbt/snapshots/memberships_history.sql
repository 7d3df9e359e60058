{% snapshot memberships_history %}
{{ config(unique_key=['user_id', 'org_id'], strategy='check', check_cols='all', hard_deletes='invalidate') }}
select
  user_id,
  org_id,
  org_name,
  {{ propel_auth.json_text('org_metadata') }} as org_metadata,
  url_safe_org_name,
  org_role_structure,
  user_role,
  {{ propel_auth.json_text('inherited_user_roles_plus_current_role') }} as inherited_user_roles_plus_current_role,
  {{ propel_auth.json_text('user_permissions') }} as user_permissions,
  {{ propel_auth.json_text('additional_roles') }} as additional_roles,
  legacy_org_id
from {{ propel_auth.raw_for_history('org_membership') }} as memberships
{% endsnapshot %}
