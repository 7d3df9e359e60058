with ours as (
  select
    signup_day,
    count(*) as signups,
    count(case when email_domain_class = 'free' then 1 end) as signups_free_domain,
    count(case when email_domain_class = 'corporate' then 1 end) as signups_corporate_domain,
    count(case when has_password then 1 end) as signups_with_password,
    count(case when is_deleted then 1 end) as signups_deleted_since
  from {{ ref('dim_user') }}
  group by signup_day
),

provider as (
  select
    metrics.date as signup_day,
    metrics.result as signups,
    metrics.cadence_completed
  from {{ propel_auth.raw('chart_metrics') }} as metrics
  where metrics.metric = 'signups' and metrics.cadence = 'Daily'
),

days as (
  select distinct signup_day
  from (select signup_day from ours union all select signup_day from provider) as ours_and_theirs
)

select
  days.signup_day as day,
  coalesce(ours.signups, 0) as signups,
  coalesce(ours.signups_free_domain, 0) as signups_free_domain,
  coalesce(ours.signups_corporate_domain, 0) as signups_corporate_domain,
  coalesce(ours.signups_with_password, 0) as signups_with_password,
  coalesce(ours.signups_deleted_since, 0) as signups_deleted_since,
  provider.signups as provider_signups,
  coalesce(ours.signups, 0) - provider.signups as difference,
  {{ propel_auth.share('coalesce(ours.signups, 0) - provider.signups', 'provider.signups') }} as difference_share,
  provider.cadence_completed as provider_completed
from days
left join ours on ours.signup_day = days.signup_day
left join provider on provider.signup_day = days.signup_day
