{{ propel_auth.login_users_per_period('Monthly', 'month') }}
