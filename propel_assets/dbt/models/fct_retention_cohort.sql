with users as (
  select
    user_id,
    cast({{ dbt.date_trunc('week', 'signup_day') }} as date) as cohort_week,
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
)

select
  cohorts.cohort_week,
  weeks.weeks_after,
  cohorts.cohort_users,
  count(case when users.last_active_at >= {{ propel_auth.plus_days('users.created_at', '7 * weeks.weeks_after') }} then 1 end) as retained_users,
  {{ propel_auth.share(
    "count(case when users.last_active_at >= " ~ propel_auth.plus_days('users.created_at', '7 * weeks.weeks_after')
    ~ " then 1 end)", 'cohorts.cohort_users'
  ) }} as retention
from cohorts
cross join weeks
inner join users on users.cohort_week = cohorts.cohort_week
where {{ propel_auth.plus_days('cohorts.last_signup', '7 * weeks.weeks_after') }} <= cohorts.as_of
group by cohorts.cohort_week, weeks.weeks_after, cohorts.cohort_users
