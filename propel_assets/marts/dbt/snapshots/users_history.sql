{% snapshot users_history %}
{{ config(unique_key='user_id', strategy='check', check_cols='all', hard_deletes='invalidate') }}
select
  user_id,
  email,
  email_confirmed,
  has_password,
  locked,
  enabled,
  mfa_enabled,
  can_create_orgs,
  update_password_required,
  username,
  first_name,
  last_name,
  picture_url,
  {{ propel_auth.json_text('properties') }} as properties,
  {{ propel_auth.json_text('metadata') }} as metadata,
  created_at,
  legacy_user_id,
  impersonator_user_id
from {{ propel_auth.raw_for_history('user_query') }} as users
{% endsnapshot %}
