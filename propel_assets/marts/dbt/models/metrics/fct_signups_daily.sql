with ours as (
  select
    signup_day as day,
    count(*) as signups,
    count(case when email_domain_class = 'free' then 1 end) as signups_free_domain,
    count(case when email_domain_class = 'corporate' then 1 end) as signups_corporate_domain,
    count(case when has_password then 1 end) as signups_with_password,
    count(case when is_deleted then 1 end) as signups_deleted_since
  from {{ ref('dim_user') }}
  where signup_day is not null
  group by signup_day
),

provider as (
  select metrics.date as day, metrics.result as signups, metrics.cadence_completed
  from {{ propel_auth.raw('chart_metrics') }} as metrics
  where metrics.metric = 'signups' and metrics.cadence = 'Daily'
),

data_days as (
  select day from ours
  union all
  select day from provider
),

bounds as (
  select min(data_days.day) as first_day from data_days
),

days as (
  select distinct day
  from (
    select dates.day from {{ ref('dim_date') }} as dates inner join bounds on dates.day >= bounds.first_day
    union all
    select day from data_days
  ) as all_days
),

readings as (
  select min(day) as first_day, max(day) as last_day from {{ ref('user_readings') }}
)

select
  days.day,
  coalesce(ours.signups, 0) as signups,
  coalesce(ours.signups_free_domain, 0) as signups_free_domain,
  coalesce(ours.signups_corporate_domain, 0) as signups_corporate_domain,
  coalesce(ours.signups_with_password, 0) as signups_with_password,
  coalesce(ours.signups_deleted_since, 0) as signups_deleted_since,
  provider.signups as provider_signups,
  coalesce(ours.signups, 0) - provider.signups as difference,
  days.day < readings.first_day as is_before_first_reading,
  coalesce(days.day < readings.last_day, false) as is_complete,
  provider.cadence_completed as provider_is_complete
from days
cross join readings
left join ours on ours.day = days.day
left join provider on provider.day = days.day
