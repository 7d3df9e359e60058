with invites as (
  select org_id, invitee_email, created_at, status from {{ ref('fct_invite_funnel') }}
),

users as (
  select user_id, lower(email) as email from {{ ref('dim_user') }} where not is_deleted
),

events as (
  select event_type, user_id, org_id, received_at from {{ propel_auth.raw('auth_event') }} as raw_events
),

bounds as (
  select min(received_at) as first_event_at from events
),

invitees as (
  select
    invites.org_id,
    invites.invitee_email,
    invites.created_at,
    invites.status,
    min(users.user_id) as user_id,
    min(joins.received_at) as joined_at,
    min(logins.received_at) as first_login_at
  from invites
  cross join bounds
  left join users on users.email = lower(invites.invitee_email)
  left join events as joins
    on joins.event_type = 'user.added_to_org'
    and joins.user_id = users.user_id
    and joins.org_id = invites.org_id
    and joins.received_at >= invites.created_at
  left join events as logins
    on logins.event_type = 'user.login'
    and logins.user_id = users.user_id
    and logins.received_at >= invites.created_at
  where invites.created_at >= bounds.first_event_at
  group by invites.org_id, invites.invitee_email, invites.created_at, invites.status
)

select
  org_id,
  invitee_email,
  created_at,
  status,
  user_id,
  joined_at,
  first_login_at,
  {{ propel_auth.hours_between('created_at', 'joined_at') }} as hours_to_join,
  {{ propel_auth.hours_between('created_at', 'first_login_at') }} as hours_to_first_login
from invitees
