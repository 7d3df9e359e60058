{{ propel_auth.active_in_periods(ref('fct_org_activity_daily'), 'org_id', 'active_orgs') }}
