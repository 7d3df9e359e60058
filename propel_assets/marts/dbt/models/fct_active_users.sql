{{ propel_auth.active_in_periods(ref('fct_user_activity_daily'), 'user_id', 'active_users') }}
