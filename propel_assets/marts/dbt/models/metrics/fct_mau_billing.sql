{%- set has_plan = var('propel_auth_included_mau') is not none -%}
{%- set has_price = has_plan and var('propel_auth_plan_price') is not none and var('propel_auth_price_per_mau') is not none -%}
with months as (
  select
    metrics.date as month,
    metrics.result as mau,
    metrics.cadence_completed as is_complete,
    {{ dbt.datediff('metrics.date', dbt.dateadd('month', 1, 'metrics.date'), 'day') }} as days_in_month,
    {{ dbt.datediff('metrics.date', propel_auth.utc_day(propel_auth.as_of('chart_metrics')), 'day') }} + 1 as days_so_far
  from {{ propel_auth.raw('chart_metrics') }} as metrics
  where metrics.metric = 'active_users' and metrics.cadence = 'Monthly'
),

projected as (
  select
    month,
    mau,
    is_complete,
    case when is_complete or days_so_far > days_in_month then days_in_month else days_so_far end as days_counted,
    case
      when is_complete or days_so_far > days_in_month then mau
      -- The first week of a month says little about the whole of it.
      when days_so_far >= 7
        then cast(
          floor(cast(mau as {{ propel_auth.type_double() }}) * days_in_month / days_so_far + 0.5) as {{ dbt.type_bigint() }}
        )
    end as projected_mau
    {%- if has_plan %},
    {{ propel_auth.number_of('propel_auth_included_mau', dbt.type_bigint()) }} as included_mau
    {%- endif %}
  from months
)
{%- if has_plan %},

with_overage as (
  select
    projected.*,
    case when mau > included_mau then mau - included_mau else 0 end as overage_mau,
    case when projected_mau > included_mau then projected_mau - included_mau when projected_mau is not null then 0 end
      as projected_overage_mau
  from projected
)
{%- endif %}

select
  month,
  mau,
  is_complete,
  days_counted,
  projected_mau
  {%- if has_plan %},
  included_mau,
  overage_mau,
  projected_overage_mau
  {%- endif %}
  {%- if has_price %},
  {{ propel_auth.number_of('propel_auth_plan_price', propel_auth.type_double()) }}
    + overage_mau * {{ propel_auth.number_of('propel_auth_price_per_mau', propel_auth.type_double()) }} as price,
  {{ propel_auth.number_of('propel_auth_plan_price', propel_auth.type_double()) }}
    + projected_overage_mau * {{ propel_auth.number_of('propel_auth_price_per_mau', propel_auth.type_double()) }}
    as projected_price
  {%- endif %}
from {{ 'with_overage' if has_plan else 'projected' }}
