select message_id, user_id, impersonator_user_id, received_at as reported_at
from {{ propel_auth.raw('auth_event') }} as raw_events
where event_type = 'user.impersonated'
