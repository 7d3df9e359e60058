with users as (
  select
    users.user_id,
    users.email,
    users.created_at,
    users.signup_day,
    users.is_deleted,
    users.deleted_seen_at,
    users.as_of,
    {{ propel_auth.period_start('week', propel_auth.utc_day('bounds.first_load')) }} as first_week
  from {{ ref('dim_user') }} as users
  cross join (select min(read_at) as first_load from {{ ref('user_loads') }}) as bounds
  -- Of users who signed up before the first load, the order of the steps is unknown.
  where users.created_at > bounds.first_load
),

first_orgs as (
  select user_id, min(joined_seen_at) as seen_at from {{ ref('fct_membership_spells') }} group by user_id
),

first_returns as (
  select activity.user_id, min(activity.day) as day
  from {{ ref('fct_user_activity_daily') }} as activity
  inner join users on users.user_id = activity.user_id and activity.day > users.signup_day
  group by activity.user_id
),

first_invites as (
  -- An address can have had several users, one after the other.
  select users.user_id, min(invites.accepted_seen_at) as seen_at
  from users
  inner join {{ ref('fct_invite_funnel') }} as invites
    on lower(invites.invitee_email) = lower(users.email)
    and invites.accepted_seen_at >= users.created_at
    and (users.deleted_seen_at is null or invites.accepted_seen_at < users.deleted_seen_at)
  where invites.status = 'accepted'
  group by users.user_id
),

first_mfa as (
  select user_id, min(valid_from) as seen_at
  from {{ ref('users_history') }}
  where mfa_enabled
  group by user_id
)

select
  users.user_id,
  users.created_at,
  users.signup_day,
  {{ propel_auth.period_start('week', 'users.signup_day') }} as signup_week,
  {{ propel_auth.period_start('week', 'users.signup_day') }} = users.first_week as is_week_of_first_load,
  {{ propel_auth.whole('floor(' ~ propel_auth.hours_between('users.created_at', 'users.as_of') ~ ' / 24)') }} as days_observed,
  users.is_deleted,
  first_orgs.seen_at as first_org_seen_at,
  {{ propel_auth.hours_between('users.created_at', 'first_orgs.seen_at') }} as hours_to_first_org_at_most,
  first_returns.day as first_return_day,
  {{ dbt.datediff('users.signup_day', 'first_returns.day', 'day') }} as days_to_first_return_at_most,
  first_invites.seen_at as first_accepted_invite_seen_at,
  {{ propel_auth.hours_between('users.created_at', 'first_invites.seen_at') }} as hours_to_first_accepted_invite_at_most,
  first_mfa.seen_at as mfa_seen_at,
  {{ propel_auth.hours_between('users.created_at', 'first_mfa.seen_at') }} as hours_to_mfa_at_most,
  users.as_of
from users
left join first_orgs on first_orgs.user_id = users.user_id
left join first_returns on first_returns.user_id = users.user_id
left join first_invites on first_invites.user_id = users.user_id
left join first_mfa on first_mfa.user_id = users.user_id
