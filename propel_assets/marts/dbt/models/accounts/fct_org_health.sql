{{ config(
  materialized='incremental', full_refresh=false, on_schema_change='append_new_columns',
  incremental_strategy=propel_auth.replace_day(), unique_key='day',
  partition_by={'field': 'day', 'data_type': 'date'} if target.type == 'bigquery' else none
) }}

with days as (
  select max(day) as day from {{ ref('fct_org_daily') }}
),

base_days as (
  -- The latest day with a load at or before 28 days ago.
  select max(orgs.day) as day
  from {{ ref('fct_org_daily') }} as orgs
  cross join days
  where orgs.day <= cast({{ dbt.dateadd('day', -28, 'days.day') }} as date)
),

today as (
  select orgs.* from {{ ref('fct_org_daily') }} as orgs inner join days on days.day = orgs.day
),

base as (
  select orgs.org_id, orgs.day, orgs.members
  from {{ ref('fct_org_daily') }} as orgs
  inner join base_days on base_days.day = orgs.day
),

measured as (
  select
    today.org_id,
    today.day,
    today.name,
    today.plan,
    today.size_band,
    today.members,
    today.active_members_30d,
    {{ propel_auth.share('today.active_members_30d', 'today.members') }} as active_share,
    {{ dbt.datediff('base.day', 'today.day', 'day') }} as trend_days,
    base.members as members_at_trend_start,
    today.members - base.members as member_trend,
    today.pending_invites,
    today.last_active_at,
    {{ propel_auth.hours_between('today.last_active_at', 'today.as_of') }} / 24 as days_since_activity,
    today.as_of
  from today
  left join base on base.org_id = today.org_id
)

select
  org_id,
  day,
  name,
  plan,
  size_band,
  members,
  active_members_30d,
  active_share,
  trend_days,
  members_at_trend_start,
  member_trend,
  pending_invites,
  last_active_at,
  days_since_activity,
  members = 1 as is_single_user,
  members = 0 as has_no_members,
  members > 0 and active_members_30d = 0 as is_dormant_30d,
  case
    when members = 0 then 0.0
    when active_share is not null
      then 50 * active_share
      + case when members > 1 then 20 else 0 end
      + case when days_since_activity <= 7 then 15 else 0 end
      + case when coalesce(member_trend, 0) >= 0 then 15 else 0 end
  end as score,
  as_of
from measured
