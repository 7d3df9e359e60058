{{ propel_auth.active_per_period('Monthly', 'month') }}
