{{ config(
  materialized='incremental', full_refresh=false, on_schema_change='append_new_columns',
  unique_key=['org_id', 'valid_from']
) }}
{{ propel_auth.history(
  'org_query', 'org_query', ['org_id'],
  ['name', 'is_saml_configured', 'max_users', 'custom_role_mapping_name', 'legacy_org_id', 'created_at'],
  ['metadata'], 'org_loads',
) }}
