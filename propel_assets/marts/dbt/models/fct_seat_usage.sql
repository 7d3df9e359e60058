{{ config(
  materialized='incremental', incremental_strategy=propel_auth.replace_day(), unique_key='day',
  partition_by={'field': 'day', 'data_type': 'date'} if target.type == 'bigquery' else none
) }}

with reading as (
  select
    {{ propel_auth.as_of('org_membership') }} as as_of
),

members as (
  select
    memberships.org_id,
    count(*) as members,
    {%- for days in (30, 60, 90) %}
    count(case when users.last_active_at >= {{ propel_auth.plus_days('reading.as_of', -days) }} then 1 end) as active_{{ days }}d,
    {%- endfor %}
    max(users.last_active_at) as last_active_at
  from {{ propel_auth.raw('org_membership') }} as memberships
  inner join {{ propel_auth.raw('user_query') }} as users on users.user_id = memberships.user_id
  cross join reading
  group by memberships.org_id
),

invites as (
  select invites.org_id, count(*) as pending_invites
  from {{ propel_auth.raw('pending_org_invites') }} as invites
  cross join reading
  where invites.expires_at > reading.as_of
  group by invites.org_id
)

select
  orgs.org_id,
  {{ propel_auth.utc_day('reading.as_of') }} as day,
  orgs.name,
  coalesce(members.members, 0) as members,
  coalesce(members.active_30d, 0) as active_members_30d,
  coalesce(members.members - members.active_30d, 0) as idle_seats_30d,
  coalesce(members.members - members.active_60d, 0) as idle_seats_60d,
  coalesce(members.members - members.active_90d, 0) as idle_seats_90d,
  coalesce(invites.pending_invites, 0) as pending_invites,
  orgs.max_users,
  {{ propel_auth.share('coalesce(members.members, 0)', 'orgs.max_users') }} as utilisation,
  orgs.max_users - coalesce(members.members, 0) as headroom,
  coalesce(coalesce(members.members, 0) > orgs.max_users, false) as over_cap,
  members.last_active_at
from {{ propel_auth.raw('org_query') }} as orgs
cross join reading
left join members on members.org_id = orgs.org_id
left join invites on invites.org_id = orgs.org_id
where reading.as_of is not null
