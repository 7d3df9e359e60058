{{ config(
  materialized='incremental', incremental_strategy=propel_auth.replace_day(), unique_key='day',
  partition_by={'field': 'day', 'data_type': 'date'} if target.type == 'bigquery' else none
) }}

with today as (
  select seats.*
  from {{ ref('fct_seat_usage') }} as seats
  where seats.day = {{ propel_auth.utc_day(propel_auth.as_of('org_membership')) }}
),

before as (
  select seats.org_id, seats.members
  from {{ ref('fct_seat_usage') }} as seats
  cross join (select max(day) as day from today) as last_reading
  where seats.day = cast({{ dbt.dateadd('day', -28, 'last_reading.day') }} as date)
),

measured as (
  select
    today.org_id,
    today.day,
    today.name,
    today.members,
    {{ propel_auth.share('today.active_members_30d', 'today.members') }} as active_ratio,
    today.pending_invites,
    today.last_active_at,
    before.members as members_28d_ago,
    today.members - before.members as member_trend_28d,
    {{ dbt.datediff(propel_auth.utc_day('today.last_active_at'), 'today.day', 'day') }} as days_since_activity
  from today
  left join before on before.org_id = today.org_id
)

select
  org_id,
  day,
  name,
  members,
  case
    when members = 0 then '0'
    when members = 1 then '1'
    when members <= 5 then '2-5'
    when members <= 20 then '6-20'
    when members <= 100 then '21-100'
    else 'over 100'
  end as size_band,
  active_ratio,
  members_28d_ago,
  member_trend_28d,
  pending_invites,
  last_active_at,
  days_since_activity,
  members = 1 as is_single_user,
  members = 0 as is_ghost,
  members > 0 and coalesce(days_since_activity > 30, true) as is_dormant,
  case
    when members = 0 then 0.0
    else
      50 * coalesce(active_ratio, 0)
      + case when members > 1 then 20 else 0 end
      + case when coalesce(days_since_activity, 999) <= 7 then 15 else 0 end
      + case when coalesce(member_trend_28d, 0) >= 0 then 15 else 0 end
  end as score
from measured
