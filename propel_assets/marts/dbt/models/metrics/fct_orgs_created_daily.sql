{{ propel_auth.created_per_day(
  ref('dim_org'), 'created_day', metric='orgs_created', conditions={'orgs_deleted_since': 'is_deleted'},
  loads=ref('org_loads')
) }}
