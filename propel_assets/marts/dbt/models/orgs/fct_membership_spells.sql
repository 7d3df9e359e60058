with versions as (
  select
    memberships.*,
    lag(memberships.valid_to) over (
      partition by memberships.user_id, memberships.org_id order by memberships.valid_from
    ) as previous_valid_to
  from {{ ref('memberships_history') }} as memberships
),

numbered as (
  select
    versions.*,
    sum(case when previous_valid_to = valid_from then 0 else 1 end) over (
      partition by user_id, org_id order by valid_from rows between unbounded preceding and current row
    ) as spell
  from versions
),

ranked as (
  select
    numbered.*,
    row_number() over (partition by user_id, org_id, spell order by valid_from) as version_number,
    row_number() over (partition by user_id, org_id, spell order by valid_from desc) as version_number_from_end
  from numbered
),

spells as (
  select
    user_id,
    org_id,
    {{ propel_auth.whole('spell') }} as spell,
    min(valid_from) as joined_seen_at,
    max(case when version_number = 1 then user_role end) as first_role,
    max(case when version_number_from_end = 1 then user_role end) as last_role,
    max(case when version_number_from_end = 1 then additional_roles end) as last_additional_roles,
    max(case when version_number_from_end = 1 then valid_to end) as left_seen_at
  from ranked
  group by user_id, org_id, spell
),

joined_before as (
  {{ propel_auth.previous_loads('spells', 'joined_seen_at') }}
),

left_before as (
  {{ propel_auth.previous_loads('(select left_seen_at from spells where left_seen_at is not null) as ended', 'left_seen_at') }}
),

-- Users can be loaded without orgs: the next load of orgs shows that the org was deleted.
next_org_loads as (
  select left_before.at, min(loads.read_at) as next_read_at
  from left_before
  left join {{ ref('org_loads') }} as loads on loads.read_at >= left_before.at
  group by left_before.at
),

deleted_users as (
  select user_id, deleted_seen_at from {{ ref('dim_user') }} where is_deleted
),

deleted_orgs as (
  select org_id, deleted_seen_at from {{ ref('dim_org') }} where is_deleted
),

-- The deletion of an org ends its last memberships: a member who left at an earlier load had left.
last_departures as (
  select org_id, max(left_seen_at) as left_seen_at from spells group by org_id
)

select
  spells.user_id,
  spells.org_id,
  spells.spell,
  joined_before.previous_read_at as joined_after,
  spells.joined_seen_at,
  spells.first_role,
  spells.last_role,
  spells.last_additional_roles,
  spells.left_seen_at is null as is_current,
  left_before.previous_read_at as left_after,
  spells.left_seen_at,
  case
    when spells.left_seen_at is null then null
    when deleted_users.deleted_seen_at = spells.left_seen_at then 'user_deleted'
    when
      last_departures.left_seen_at = spells.left_seen_at
      and deleted_orgs.deleted_seen_at > left_before.previous_read_at
      and (next_org_loads.next_read_at is null or deleted_orgs.deleted_seen_at <= next_org_loads.next_read_at)
      then 'org_deleted'
    else 'left'
  end as reason
from spells
left join joined_before on joined_before.at = spells.joined_seen_at
left join left_before on left_before.at = spells.left_seen_at
left join next_org_loads on next_org_loads.at = spells.left_seen_at
left join deleted_users on deleted_users.user_id = spells.user_id
left join deleted_orgs on deleted_orgs.org_id = spells.org_id
left join last_departures on last_departures.org_id = spells.org_id
