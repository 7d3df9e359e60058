with invites as (
  select org_id, invitee_email, created_at, status from {{ ref('fct_invite_funnel') }}
),

users as (
  select user_id, lower(email) as email, is_deleted from {{ ref('dim_user') }}
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
    users.user_id,
    users.is_deleted,
    min(case when events.event_type = 'user.added_to_org' then events.received_at end) as joined_at,
    min(case when events.event_type = 'user.login' then events.received_at end) as first_login_at,
    min(events.received_at) as first_event_at
  from invites
  cross join bounds
  left join users on users.email = lower(invites.invitee_email)
  left join events
    on events.user_id = users.user_id
    and events.received_at >= invites.created_at
    and (
      events.event_type = 'user.login'
      or (events.event_type = 'user.added_to_org' and events.org_id = invites.org_id)
    )
  where invites.created_at >= bounds.first_event_at
  group by
    invites.org_id, invites.invitee_email, invites.created_at, invites.status, users.user_id, users.is_deleted
),

-- An address can have had several users: the first one to join or log in.
ranked as (
  select
    invitees.*,
    row_number() over (
      partition by org_id, invitee_email, created_at
      order by
        case when first_event_at is null then 1 else 0 end,
        first_event_at,
        case when is_deleted then 1 else 0 end,
        user_id
    ) as age
  from invitees
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
from ranked
where age = 1
