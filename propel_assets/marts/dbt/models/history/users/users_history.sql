{{ config(
  materialized='incremental', full_refresh=false, on_schema_change='append_new_columns',
  unique_key=['user_id', 'valid_from']
) }}
{{ propel_auth.history(
  'user_query', 'user_query', ['user_id'],
  [
    'email', 'email_confirmed', 'has_password', 'locked', 'enabled', 'mfa_enabled', 'can_create_orgs',
    'update_password_required', 'username', 'first_name', 'last_name', 'picture_url', 'created_at', 'legacy_user_id',
    'impersonator_user_id',
  ],
  ['properties', 'metadata'],
  'user_loads',
) }}
