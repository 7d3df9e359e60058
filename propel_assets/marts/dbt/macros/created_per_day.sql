{# Users or orgs created per day, by our data and by PropelAuth's metric. `conditions` has a further count of ours per
   name. `loads` has the loads of the dimension. Every day from the first one with a figure to that of the last load has a row. #}
{% macro created_per_day(dimension, created_day, metric, conditions, loads) -%}
with ours as (
  select
    {{ created_day }} as day,
    count(*) as {{ metric }}
    {%- for name, condition in conditions.items() %},
    count(case when {{ condition }} then 1 end) as {{ name }}
    {%- endfor %}
  from {{ dimension }}
  where {{ created_day }} is not null
  group by {{ created_day }}
),

provider as (
  select metrics.date as day, metrics.result as {{ metric }}, metrics.cadence_completed
  from {{ propel_auth.raw('chart_metrics') }} as metrics
  where metrics.metric = '{{ metric }}' and metrics.cadence = 'Daily'
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

loads as (
  select
    min({{ propel_auth.utc_day('read_at') }}) as first_day,
    max({{ propel_auth.utc_day('read_at') }}) as last_day
  from {{ loads }} as loads_of_subject
)

select
  days.day,
  {%- for name in [metric] + (conditions | list) %}
  coalesce(ours.{{ name }}, 0) as {{ name }},
  {%- endfor %}
  provider.{{ metric }} as provider_{{ metric }},
  coalesce(ours.{{ metric }}, 0) - provider.{{ metric }} as difference,
  coalesce(days.day < loads.first_day, false) as is_before_first_load,
  coalesce(days.day < loads.last_day, false) as is_complete,
  provider.cadence_completed as provider_is_complete
from days
cross join loads
left join ours on ours.day = days.day
left join provider on provider.day = days.day
{%- endmacro %}
