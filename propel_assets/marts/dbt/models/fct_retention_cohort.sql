with users as (
  select
    user_id,
    cast({{ dbt.date_trunc('week', 'signup_day') }} as date) as cohort_week,
    signup_day,
    created_at,
    last_active_at,
    as_of
  from {{ ref('dim_user') }}
  where not is_deleted
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

rolling as (
  select
    cohorts.cohort_week,
    weeks.weeks_after,
    cohorts.cohort_users,
    {{ propel_auth.plus_days('cohorts.last_signup', '7 * weeks.weeks_after + 7') }} <= cohorts.as_of as is_over,
    count(case when users.last_active_at >= {{ propel_auth.plus_days('users.created_at', '7 * weeks.weeks_after') }} then 1 end) as retained_users
  from cohorts
  cross join weeks
  inner join users on users.cohort_week = cohorts.cohort_week
  where {{ propel_auth.plus_days('cohorts.last_signup', '7 * weeks.weeks_after') }} <= cohorts.as_of
  group by cohorts.cohort_week, weeks.weeks_after, cohorts.cohort_users, cohorts.last_signup, cohorts.as_of
),

active_weeks as (
  select distinct
    users.cohort_week,
    users.user_id,
    cast(floor({{ dbt.datediff('users.signup_day', 'activity.day', 'day') }} / 7.0) as {{ dbt.type_bigint() }}) as weeks_after
  from users
  inner join {{ ref('fct_user_activity_daily') }} as activity on activity.user_id = users.user_id
),

bounded as (
  select cohort_week, weeks_after, count(*) as retained_users
  from active_weeks
  group by cohort_week, weeks_after
),

readings as (
  select cohorts.cohort_week, {{ dbt.datediff('cohorts.cohort_week', 'observed.day', 'day') }} as days_after
  from cohorts
  cross join (
    select distinct {{ propel_auth.utc_day('observed_at') }} as day from {{ ref('fct_user_activity_daily') }}
  ) as observed
),

covered as (
  -- Who signed up on the Sunday begins and ends each week six days after who did on the Monday: 13 days in all.
  select rolling.cohort_week, rolling.weeks_after, count(*) as days_read
  from rolling
  inner join readings
    on readings.cohort_week = rolling.cohort_week
    and readings.days_after between 7 * rolling.weeks_after and 7 * rolling.weeks_after + 12
  group by rolling.cohort_week, rolling.weeks_after
)

select
  rolling.cohort_week,
  rolling.weeks_after,
  rolling.cohort_users,
  rolling.retained_users,
  {{ propel_auth.share('rolling.retained_users', 'rolling.cohort_users') }} as retention,
  case
    when rolling.is_over and covered.days_read > 0 then coalesce(bounded.retained_users, 0)
  end as bounded_retained_users,
  case
    when rolling.is_over and covered.days_read > 0
      then {{ propel_auth.share('coalesce(bounded.retained_users, 0)', 'rolling.cohort_users') }}
  end as bounded_retention,
  {{ propel_auth.share('coalesce(covered.days_read, 0)', '13') }} as bounded_coverage
from rolling
left join bounded on bounded.cohort_week = rolling.cohort_week and bounded.weeks_after = rolling.weeks_after
left join covered on covered.cohort_week = rolling.cohort_week and covered.weeks_after = rolling.weeks_after
