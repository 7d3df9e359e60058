{%- set compared = (
  ('signups', 'fct_signups_daily', 'day', 'signups', 'not is_before_first_load and is_complete'),
  ('orgs_created', 'fct_orgs_created_daily', 'day', 'orgs_created', 'not is_before_first_load and is_complete'),
  ('active_users', 'fct_engagement_monthly', 'month_start', 'active_users', 'active_users is not null and is_complete'),
  ('active_orgs', 'fct_engagement_monthly', 'month_start', 'active_orgs', 'active_orgs is not null and is_complete'),
) -%}
with figures as (
  {%- for metric, mart, period, column, condition in compared %}
  select
    '{{ metric }}' as metric,
    '{{ mart }}' as mart,
    '{{ period | replace("_start", "") }}' as cadence,
    {{ period }} as period,
    {{ column }} as our_figure,
    provider_{{ column }} as provider_figure
  from {{ ref(mart) }}
  where {{ condition }} and provider_is_complete and provider_{{ column }} is not null
  {{ "union all" if not loop.last }}
  {%- endfor %}
)

select
  figures.metric,
  figures.mart,
  figures.cadence,
  min(figures.period) as first_period,
  max(figures.period) as last_period,
  count(*) as periods,
  {{ propel_auth.whole('sum(figures.our_figure)') }} as our_total,
  {{ propel_auth.whole('sum(figures.provider_figure)') }} as provider_total,
  {{ propel_auth.whole('sum(abs(figures.our_figure - figures.provider_figure))') }} as absolute_difference,
  {{ propel_auth.share('sum(abs(figures.our_figure - figures.provider_figure))', 'sum(figures.provider_figure)') }}
    as difference_share,
  latest_load.reconciled_at
from figures
cross join (select {{ propel_auth.as_of('chart_metrics') }} as reconciled_at) as latest_load
group by figures.metric, figures.mart, figures.cadence, latest_load.reconciled_at
