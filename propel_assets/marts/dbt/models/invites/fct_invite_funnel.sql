{{ config(
  materialized='incremental', full_refresh=false, on_schema_change='append_new_columns',
  unique_key=['org_id', 'invitee_email', 'created_at']
) }}
{%- set facts = [
  'org_id', 'invitee_email', 'created_at', 'expires_at', 'role_in_org', 'inviter_user_id'
] %}
{%- set has_decisions = is_incremental() and propel_auth.has_column(this, 'decided_seen_at') %}

with latest_load as (
  select {{ propel_auth.as_of('pending_org_invites') }} as as_of
),

pending as (
  select {{ facts | join(', ') }}
  from {{ propel_auth.raw('pending_org_invites') }} as raw_invites
),

invites as (
  select
    {%- for fact in facts %}
    pending.{{ fact }},
    {%- endfor %}
    {%- if is_incremental() %}
    coalesce(known.first_seen_at, latest_load.as_of) as first_seen_at,
    {%- else %}
    latest_load.as_of as first_seen_at,
    {%- endif %}
    latest_load.as_of as last_seen_at,
    cast(null as {{ propel_auth.type_time() }}) as gone_seen_at,
    cast(null as {{ propel_auth.type_time() }}) as decided_seen_at,
    cast(null as {{ dbt.type_string() }}) as decided_status,
    cast(null as {{ propel_auth.type_time() }}) as decided_accepted_seen_at
  from pending
  cross join latest_load
  {%- if is_incremental() %}
  left join {{ this }} as known
    on known.org_id = pending.org_id
    and known.invitee_email = pending.invitee_email
    and known.created_at = pending.created_at

  union all

  select
    {%- for fact in facts %}
    known.{{ fact }},
    {%- endfor %}
    known.first_seen_at,
    known.last_seen_at,
    coalesce(known.gone_seen_at, latest_load.as_of) as gone_seen_at,
    {%- if has_decisions %}
    known.decided_seen_at,
    known.status as decided_status,
    known.accepted_seen_at as decided_accepted_seen_at
    {%- else %}
    cast(null as {{ propel_auth.type_time() }}) as decided_seen_at,
    cast(null as {{ dbt.type_string() }}) as decided_status,
    cast(null as {{ propel_auth.type_time() }}) as decided_accepted_seen_at
    {%- endif %}
  from {{ this }} as known
  cross join latest_load
  left join pending
    on pending.org_id = known.org_id
    and pending.invitee_email = known.invitee_email
    and pending.created_at = known.created_at
  where pending.org_id is null
  {%- endif %}
),

ordered as (
  select
    invites.*,
    lead(created_at) over (partition by org_id, lower(invitee_email) order by created_at) as next_created_at
  from invites
),

-- The membership may have been read before or after the invites of the same refresh: until the first load of users
-- after the invite was gone.
decisive_loads as (
  select gone.gone_seen_at, min(loads.read_at) as read_at
  from (select distinct gone_seen_at from invites where gone_seen_at is not null) as gone
  left join {{ ref('user_loads') }} as loads on loads.read_at >= gone.gone_seen_at
  group by gone.gone_seen_at
),

joined as (
  select memberships.org_id, lower(users.email) as email, memberships.valid_from as joined_seen_at
  from {{ ref('memberships_history') }} as memberships
  inner join {{ ref('dim_user') }} as users on users.user_id = memberships.user_id
),

accepted as (
  select
    ordered.org_id,
    ordered.invitee_email,
    ordered.created_at,
    min(joined.joined_seen_at) as accepted_seen_at
  from ordered
  inner join decisive_loads on decisive_loads.gone_seen_at = ordered.gone_seen_at
  inner join joined
    on joined.org_id = ordered.org_id
    and joined.email = lower(ordered.invitee_email)
    and joined.joined_seen_at > ordered.last_seen_at
    and (decisive_loads.read_at is null or joined.joined_seen_at <= decisive_loads.read_at)
    and (ordered.next_created_at is null or joined.joined_seen_at < ordered.next_created_at)
  group by ordered.org_id, ordered.invitee_email, ordered.created_at
),

outcomes as (
  -- A decided outcome is kept: the address of a user can change, and so can the privacy policy.
  select
    ordered.*,
    coalesce(ordered.decided_seen_at, accepted.accepted_seen_at, decisive_loads.read_at) as outcome_decided_seen_at,
    case when ordered.decided_seen_at is null then accepted.accepted_seen_at else ordered.decided_accepted_seen_at end
      as accepted_seen_at,
    case
      when ordered.decided_seen_at is not null then ordered.decided_status
      when ordered.gone_seen_at is null and ordered.expires_at <= latest_load.as_of then 'expired'
      when ordered.gone_seen_at is null then 'pending'
      when accepted.accepted_seen_at is not null then 'accepted'
      when ordered.next_created_at <= ordered.gone_seen_at and ordered.next_created_at < ordered.expires_at then 'replaced'
      when ordered.expires_at <= ordered.gone_seen_at then 'expired'
      else 'vanished'
    end as status
  from ordered
  cross join latest_load
  left join decisive_loads on decisive_loads.gone_seen_at = ordered.gone_seen_at
  left join accepted
    on accepted.org_id = ordered.org_id
    and accepted.invitee_email = ordered.invitee_email
    and accepted.created_at = ordered.created_at
)

select
  {%- for fact in facts %}
  outcomes.{{ fact }},
  {%- endfor %}
  outcomes.first_seen_at,
  outcomes.last_seen_at,
  outcomes.gone_seen_at,
  outcomes.outcome_decided_seen_at as decided_seen_at,
  outcomes.status,
  outcomes.created_at < first_load.read_at as is_before_first_load,
  outcomes.accepted_seen_at,
  case
    when outcomes.accepted_seen_at is not null
      then {{ propel_auth.hours_between(propel_auth.not_after('outcomes.created_at', 'outcomes.last_seen_at'), 'outcomes.last_seen_at') }}
  end as hours_to_accept_at_least,
  case
    when outcomes.accepted_seen_at is not null
      then {{ propel_auth.hours_between(propel_auth.not_after('outcomes.created_at', 'outcomes.accepted_seen_at'), 'outcomes.accepted_seen_at') }}
  end as hours_to_accept_at_most,
  latest_load.as_of
from outcomes
cross join latest_load
cross join (select min(read_at) as read_at from {{ ref('user_loads') }}) as first_load
where latest_load.as_of is not null
