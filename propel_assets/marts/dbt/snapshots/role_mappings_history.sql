{% snapshot role_mappings_history %}
{{ config(unique_key='custom_role_mapping_name', strategy='check', check_cols='all', hard_deletes='invalidate') }}
select
  custom_role_mapping_name,
  num_orgs_subscribed
from {{ propel_auth.raw_for_history('custom_role_mappings') }} as mappings
{% endsnapshot %}
