{{ propel_auth.active_per_period('Weekly', 'week') }}
