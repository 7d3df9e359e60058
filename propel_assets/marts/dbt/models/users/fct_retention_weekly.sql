with last_seen_days as (
  select user_id, max(day) as last_day
  from {{ ref('fct_user_activity_daily') }}
  group by user_id
),

users as (
  select
    users.user_id,
    {{ propel_auth.period_start('week', 'users.signup_day') }} as cohort_week,
    users.signup_day,
    users.created_at,
    users.as_of,
    case
      -- Of a deleted user, only the day of the last activity is known: at least until 00:00 UTC of that day.
      when users.is_deleted and last_seen_days.last_day = users.signup_day then 0
      when users.is_deleted
        then
          24 * {{ dbt.datediff('users.signup_day', 'last_seen_days.last_day', 'day') }}
          - cast(
            mod({{ propel_auth.whole(propel_auth.epoch('users.created_at')) }}, 86400) as {{ propel_auth.type_double() }}
          ) / 3600
      else {{ propel_auth.hours_between('users.created_at', 'users.last_active_at') }}
    end as active_hours
  from {{ ref('dim_user') }} as users
  left join last_seen_days on last_seen_days.user_id = users.user_id
  where users.created_at is not null
),

cohorts as (
  select cohort_week, count(*) as cohort_users, max(created_at) as last_signup, max(as_of) as as_of
  from users
  group by cohort_week
),

weeks as (
  {%- for week in range(53) %}
  select {{ week }} as weeks_after{{ " union all" if not loop.last }}
  {%- endfor %}
),

counted as (
  select
    cohorts.cohort_week,
    weeks.weeks_after,
    cohorts.cohort_users,
    cohorts.last_signup,
    cohorts.as_of,
    count(case when users.active_hours >= 168 * weeks.weeks_after then 1 end) as active_at_or_after_users
  from cohorts
  cross join weeks
  inner join users on users.cohort_week = cohorts.cohort_week
  where {{ propel_auth.plus_days('cohorts.last_signup', '7 * weeks.weeks_after') }} <= cohorts.as_of
  group by cohorts.cohort_week, weeks.weeks_after, cohorts.cohort_users, cohorts.last_signup, cohorts.as_of
),

bounds as (
  select min(day) as first_day from {{ ref('user_loads') }}
)

select
  counted.cohort_week,
  counted.weeks_after,
  counted.cohort_users,
  counted.active_at_or_after_users,
  {{ propel_auth.share('counted.active_at_or_after_users', 'counted.cohort_users') }} as active_at_or_after_share,
  {{ propel_auth.whole(
    'floor(' ~ propel_auth.hours_between('counted.last_signup', 'counted.as_of') ~ ' / 168)'
  ) }} - counted.weeks_after as weeks_observed,
  {{ propel_auth.plus_days('counted.last_signup', '7 * counted.weeks_after + 7') }} <= counted.as_of as is_complete,
  counted.cohort_week < bounds.first_day as is_before_first_load
from counted
cross join bounds
