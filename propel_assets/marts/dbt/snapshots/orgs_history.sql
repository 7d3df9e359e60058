{% snapshot orgs_history %}
{{ config(unique_key='org_id', strategy='check', check_cols='all', hard_deletes='invalidate') }}
select
  org_id,
  name,
  is_saml_configured,
  max_users,
  {{ propel_auth.json_text('metadata') }} as metadata,
  custom_role_mapping_name,
  legacy_org_id,
  created_at
from {{ propel_auth.raw_for_history('org_query') }} as orgs
{% endsnapshot %}
