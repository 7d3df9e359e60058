{{ config(
  materialized='incremental', full_refresh=false, on_schema_change='append_new_columns',
  unique_key=['user_id', 'org_id', 'valid_from']
) }}
-- Without the name and the metadata of the org: a renamed org would add a version to each of its memberships.
{{ propel_auth.history(
  'org_membership', 'user_query', ['user_id', 'org_id'],
  ['org_role_structure', 'user_role', 'legacy_org_id'],
  ['additional_roles', 'inherited_user_roles_plus_current_role', 'user_permissions'],
  'user_loads',
) }}
