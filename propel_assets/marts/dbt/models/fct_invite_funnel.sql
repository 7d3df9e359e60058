{{ config(materialized='incremental', unique_key=['org_id', 'invitee_email', 'created_at']) }}

with reading as (
  select {{ propel_auth.as_of('pending_org_invites') }} as as_of
),

invites as (
  select
    pending.org_id,
    pending.invitee_email,
    pending.created_at,
    pending.expires_at,
    pending.role_in_org,
    pending.inviter_user_id,
    reading.as_of as first_seen_at,
    reading.as_of as last_seen_at,
    true as is_pending
  from {{ propel_auth.raw('pending_org_invites') }} as pending
  cross join reading
),

{% if is_incremental() -%}
known as (
  select
    org_id, invitee_email, created_at, expires_at, role_in_org, inviter_user_id, first_seen_at, last_seen_at,
    accepted_seen_at
  from {{ this }}
),

all_invites as (
  select
    invites.org_id, invites.invitee_email, invites.created_at, invites.expires_at, invites.role_in_org,
    invites.inviter_user_id,
    coalesce(known.first_seen_at, invites.first_seen_at) as first_seen_at,
    invites.last_seen_at,
    invites.is_pending,
    known.accepted_seen_at
  from invites
  left join known
    on known.org_id = invites.org_id
    and known.invitee_email = invites.invitee_email
    and known.created_at = invites.created_at

  union all

  select
    known.org_id, known.invitee_email, known.created_at, known.expires_at, known.role_in_org,
    known.inviter_user_id, known.first_seen_at, known.last_seen_at, false, known.accepted_seen_at
  from known
  left join invites
    on invites.org_id = known.org_id
    and invites.invitee_email = known.invitee_email
    and invites.created_at = known.created_at
  where invites.org_id is null
),
{%- else -%}
all_invites as (
  select invites.*, cast(null as {{ propel_auth.type_time() }}) as accepted_seen_at from invites
),
{%- endif %}

members as (
  select distinct memberships.org_id, lower(users.email) as email
  from {{ propel_auth.raw('org_membership') }} as memberships
  inner join {{ propel_auth.raw('user_query') }} as users on users.user_id = memberships.user_id
),

judged as (
  select
    all_invites.*,
    reading.as_of,
    coalesce(all_invites.accepted_seen_at, case when members.email is not null then reading.as_of end) as accepted_at
  from all_invites
  cross join reading
  left join members
    on members.org_id = all_invites.org_id
    and members.email = lower(all_invites.invitee_email)
    and not all_invites.is_pending
)

select
  org_id,
  invitee_email,
  created_at,
  expires_at,
  role_in_org,
  inviter_user_id,
  first_seen_at,
  last_seen_at,
  case
    when is_pending and expires_at <= as_of then 'expired'
    when is_pending then 'pending'
    when accepted_at is not null then 'accepted'
    when expires_at <= as_of then 'expired'
    else 'vanished'
  end as status,
  accepted_at as accepted_seen_at,
  case when accepted_at is not null then {{ propel_auth.days_between('created_at', 'last_seen_at') }} end as days_to_accept_at_least,
  case when accepted_at is not null then {{ propel_auth.days_between('created_at', 'accepted_at') }} end as days_to_accept_at_most
from judged
