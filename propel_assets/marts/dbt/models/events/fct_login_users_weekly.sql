{{ propel_auth.login_users_per_period('Weekly', 'week') }}
