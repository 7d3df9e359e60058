with activity as (
  select distinct user_id, cast({{ dbt.date_trunc('month', 'day') }} as date) as month
  from {{ ref('fct_user_activity_daily') }}
),

readings as (
  select
    cast({{ dbt.date_trunc('month', 'min(' ~ propel_auth.utc_day('observed_at') ~ ')') }} as date) as first_month,
    cast({{ dbt.date_trunc('month', 'max(' ~ propel_auth.utc_day('observed_at') ~ ')') }} as date) as last_month
  from {{ ref('fct_user_activity_daily') }}
),

signups as (
  select user_id, cast({{ dbt.date_trunc('month', 'signup_day') }} as date) as signup_month
  from {{ ref('dim_user') }}
),

active as (
  select
    activity.user_id,
    activity.month,
    signups.signup_month,
    previous.user_id is not null as was_active_before
  from activity
  inner join signups on signups.user_id = activity.user_id
  left join activity as previous
    on previous.user_id = activity.user_id
    and previous.month = cast({{ dbt.dateadd('month', -1, 'activity.month') }} as date)
),

lost as (
  select
    cast({{ dbt.dateadd('month', 1, 'activity.month') }} as date) as month,
    count(*) as churned
  from activity
  left join activity as following
    on following.user_id = activity.user_id
    and following.month = cast({{ dbt.dateadd('month', 1, 'activity.month') }} as date)
  where following.user_id is null
  group by 1
),

counted as (
  select
    month,
    count(*) as active_users,
    count(case when signup_month = month then 1 end) as new_users,
    count(case when signup_month < month and was_active_before then 1 end) as retained_users,
    count(case when signup_month < month and not was_active_before then 1 end) as resurrected_users
  from active
  group by month
)

select
  counted.month,
  counted.active_users,
  counted.new_users,
  case when counted.month > readings.first_month then counted.retained_users end as retained_users,
  case when counted.month > readings.first_month then counted.resurrected_users end as resurrected_users,
  case when counted.month > readings.first_month then coalesce(lost.churned, 0) end as churned_users,
  case
    when counted.month > readings.first_month
      then {{ propel_auth.share('counted.new_users + counted.resurrected_users', 'lost.churned') }}
  end as quick_ratio,
  counted.month < readings.last_month as is_completed
from counted
cross join readings
left join lost on lost.month = counted.month
where counted.month >= readings.first_month
