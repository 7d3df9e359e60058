{{ config(
  materialized='incremental', full_refresh=false, on_schema_change='append_new_columns',
  unique_key=['custom_role_mapping_name', 'valid_from']
) }}
{{ propel_auth.history(
  'custom_role_mappings', 'custom_role_mappings', ['custom_role_mapping_name'], ['num_orgs_subscribed'], [], none
) }}
