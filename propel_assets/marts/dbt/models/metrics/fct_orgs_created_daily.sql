with ours as (
  select
    created_day as day,
    count(*) as orgs_created,
    count(case when is_deleted then 1 end) as orgs_deleted_since
  from {{ ref('dim_org') }}
  where created_day is not null
  group by created_day
),

provider as (
  select metrics.date as day, metrics.result as orgs_created, metrics.cadence_completed
  from {{ propel_auth.raw('chart_metrics') }} as metrics
  where metrics.metric = 'orgs_created' and metrics.cadence = 'Daily'
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
  coalesce(ours.orgs_created, 0) as orgs_created,
  coalesce(ours.orgs_deleted_since, 0) as orgs_deleted_since,
  provider.orgs_created as provider_orgs_created,
  coalesce(ours.orgs_created, 0) - provider.orgs_created as difference,
  coalesce(days.day < readings.first_day, false) as is_before_first_reading,
  coalesce(days.day < readings.last_day, false) as is_complete,
  provider.cadence_completed as provider_is_complete
from days
cross join readings
left join ours on ours.day = days.day
left join provider on provider.day = days.day
