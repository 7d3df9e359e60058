{# Active users or orgs per day, week, month and rolling days, from the days on which each was seen active: ours, and
   PropelAuth's own metric of the same name. #}
{% macro active_in_periods(activity, key, name) -%}
with activity as (
  select {{ key }}, day, observed_at from {{ activity }}
),

last_reading as (
  select
    max({{ propel_auth.utc_day('observed_at') }}) as day,
    min({{ propel_auth.utc_day('observed_at') }}) as first_day
  from activity
),

counted as (
  select 'Daily' as cadence, day as period_start, day as period_end, count(distinct {{ key }}) as {{ name }}
  from activity
  group by day

  union all

  select
    'Weekly',
    cast({{ dbt.date_trunc('week', 'day') }} as date),
    cast({{ dbt.dateadd('day', 6, dbt.date_trunc('week', 'day')) }} as date),
    count(distinct {{ key }})
  from activity
  group by 2, 3

  union all

  select
    'Monthly',
    cast({{ dbt.date_trunc('month', 'day') }} as date),
    {{ dbt.last_day('day', 'month') }},
    count(distinct {{ key }})
  from activity
  group by 2, 3
  {%- for days in (7, 30) %}

  union all

  select
    'Rolling {{ days }} days',
    cast({{ dbt.dateadd('day', 1 - days, 'observed.day') }} as date),
    observed.day,
    count(distinct activity.{{ key }})
  from (select distinct {{ propel_auth.utc_day('observed_at') }} as day from activity) as observed
  inner join activity
    on activity.day <= observed.day and activity.day > cast({{ dbt.dateadd('day', -days, 'observed.day') }} as date)
  group by 2, 3
  {%- endfor %}
),

ours as (
  select
    counted.*,
    -- Whoever was active in a period that reaches to the last reading was last active in it: all of them are seen.
    not (
      counted.period_end >= last_reading.day
      or (counted.cadence like 'Rolling%' and counted.period_end >= last_reading.first_day)
    ) as is_lower_bound,
    counted.period_end < last_reading.day as is_completed
  from counted
  cross join last_reading
),

provider as (
  select
    metrics.cadence,
    metrics.date as period_start,
    metrics.result as {{ name }},
    metrics.cadence_completed
  from {{ propel_auth.raw('chart_metrics') }} as metrics
  where metrics.metric = '{{ name }}'
)

select
  ours.cadence,
  ours.period_start,
  'derived' as source,
  ours.{{ name }},
  ours.is_completed as cadence_completed,
  ours.is_lower_bound,
  provider.{{ name }} as provider_{{ name }},
  ours.{{ name }} - provider.{{ name }} as difference,
  {{ propel_auth.share('ours.' ~ name ~ ' - provider.' ~ name, 'provider.' ~ name) }} as difference_share
from ours
left join provider on provider.cadence = ours.cadence and provider.period_start = ours.period_start

union all

select
  cadence,
  period_start,
  'provider',
  {{ name }},
  cadence_completed,
  false,
  {{ name }},
  0,
  case when {{ name }} > 0 then 0.0 end
from provider
{%- endmacro %}
