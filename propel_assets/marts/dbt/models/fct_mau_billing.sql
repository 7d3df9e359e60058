with months as (
  select
    metrics.date as month,
    metrics.result as mau,
    metrics.cadence_completed as is_completed,
    {{ dbt.datediff('metrics.date', dbt.dateadd('month', 1, 'metrics.date'), 'day') }} as days_in_month,
    {{ dbt.datediff('metrics.date', propel_auth.utc_day(propel_auth.as_of('chart_metrics')), 'day') }} + 1 as days_so_far
  from {{ propel_auth.raw('chart_metrics') }} as metrics
  where metrics.metric = 'active_users' and metrics.cadence = 'Monthly'
),

projected as (
  select
    month,
    mau,
    is_completed,
    case when is_completed or days_so_far > days_in_month then days_in_month else days_so_far end as days_counted,
    case
      when is_completed or days_so_far > days_in_month then mau
      else cast(floor(cast(mau as {{ propel_auth.type_double() }}) * days_in_month / days_so_far + 0.5) as {{ dbt.type_bigint() }})
    end as projected_mau,
    {{ propel_auth.number_of('propel_auth_included_mau', dbt.type_bigint()) }} as included_mau,
    {{ propel_auth.number_of('propel_auth_plan_price', propel_auth.type_double()) }} as plan_price,
    {{ propel_auth.number_of('propel_auth_price_per_mau', propel_auth.type_double()) }} as price_per_mau
  from months
),

beyond as (
  select
    projected.*,
    case when mau > included_mau then mau - included_mau when mau <= included_mau then 0 end as overage_mau,
    case
      when projected_mau > included_mau then projected_mau - included_mau
      when projected_mau <= included_mau then 0
    end as projected_overage_mau
  from projected
)

select
  month,
  mau,
  is_completed,
  days_counted,
  projected_mau,
  included_mau,
  overage_mau,
  projected_overage_mau,
  plan_price + overage_mau * price_per_mau as price,
  plan_price + projected_overage_mau * price_per_mau as projected_price
from beyond
