with logins as (
  select user_id, received_at, {{ propel_auth.utc_day('received_at') }} as day
  from {{ propel_auth.raw('auth_event') }} as raw_events
  where event_type = 'user.login' and user_id is not null
)

select
  user_id,
  day,
  count(*) as logins,
  min(received_at) as first_login_at,
  max(received_at) as last_login_at
from logins
group by user_id, day
