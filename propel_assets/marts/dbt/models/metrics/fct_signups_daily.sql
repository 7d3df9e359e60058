{{ propel_auth.created_per_day(
  ref('dim_user'), 'signup_day', metric='signups',
  conditions={
    'signups_free_domain': "email_domain_class = 'free'",
    'signups_corporate_domain': "email_domain_class = 'corporate'",
    'signups_with_password': 'has_password',
    'signups_deleted_since': 'is_deleted',
  },
  loads=ref('user_loads')
) }}
