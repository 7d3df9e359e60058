with orgs as (
  select
    org_id,
    min({{ propel_auth.utc_day('created_at') }}) as created_day,
    max(case when dbt_valid_to is null then 1 else 0 end) as is_there
  from {{ ref('orgs_history') }}
  where created_at is not null
  group by org_id
),

ours as (
  select
    created_day,
    count(*) as orgs_created,
    count(case when is_there = 0 then 1 end) as orgs_deleted_since
  from orgs
  group by created_day
),

provider as (
  select
    metrics.date as created_day,
    metrics.result as orgs_created,
    metrics.cadence_completed
  from {{ propel_auth.raw('chart_metrics') }} as metrics
  where metrics.metric = 'orgs_created' and metrics.cadence = 'Daily'
),

days as (
  select distinct created_day
  from (select created_day from ours union all select created_day from provider) as ours_and_theirs
)

select
  days.created_day as day,
  coalesce(ours.orgs_created, 0) as orgs_created,
  coalesce(ours.orgs_deleted_since, 0) as orgs_deleted_since,
  provider.orgs_created as provider_orgs_created,
  coalesce(ours.orgs_created, 0) - provider.orgs_created as difference,
  {{ propel_auth.share('coalesce(ours.orgs_created, 0) - provider.orgs_created', 'provider.orgs_created') }} as difference_share,
  provider.cadence_completed as provider_completed
from days
left join ours on ours.created_day = days.created_day
left join provider on provider.created_day = days.created_day
