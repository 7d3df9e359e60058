with daily as (
  {{ propel_auth.active_per_period('Daily', 'day') }}
),

activity as (
  select user_id, day from {{ ref('fct_user_activity_daily') }}
),

loads as (
  select distinct day from {{ ref('user_loads') }}
)
{%- for days in (7, 30) %},

last_{{ days }}_days as (
  -- Exact at the time of a load: a user active in the days before it was last active in them.
  select loads.day, count(distinct activity.user_id) as active_users
  from loads
  inner join activity
    on activity.day <= loads.day
    and activity.day > cast({{ dbt.dateadd('day', -days, 'loads.day') }} as date)
  group by loads.day
)
{%- endfor %}

select
  daily.day,
  daily.active_users,
  daily.provider_active_users,
  daily.active_orgs,
  daily.provider_active_orgs,
  last_7_days.active_users as active_users_7d,
  last_30_days.active_users as active_users_30d,
  -- Without a load on the next day, activity between the load and the end of the day may not have been seen.
  case
    when next_loads.day is not null then {{ propel_auth.share('daily.active_users', 'last_30_days.active_users') }}
  end as stickiness,
  daily.days_read > 0 as has_load,
  daily.is_complete,
  daily.provider_is_complete,
  daily.is_lower_bound
from daily
left join last_7_days on last_7_days.day = daily.day
left join last_30_days on last_30_days.day = daily.day
left join loads as next_loads on next_loads.day = cast({{ dbt.dateadd('day', 1, 'daily.day') }} as date)
