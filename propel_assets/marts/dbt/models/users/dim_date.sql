with digits as (
  {%- for digit in range(10) %}
  select {{ digit }} as digit{{ " union all" if not loop.last }}
  {%- endfor %}
),

numbers as (
  select ones.digit + 10 * tens.digit + 100 * hundreds.digit + 1000 * thousands.digit as number
  from digits as ones
  cross join digits as tens
  cross join digits as hundreds
  cross join digits as thousands
),

days as (
  select cast({{ dbt.dateadd('day', 'number', "cast('" ~ var('propel_auth_first_day') ~ "' as date)") }} as date) as day
  from numbers
),

loads as (
  select day, count(*) as loads from {{ ref('user_loads') }} group by day
),

bounds as (
  select min(day) as first_day, max(day) as last_day from loads
)

select
  days.day,
  {{ propel_auth.period_start('week', 'days.day') }} as week_start,
  {{ propel_auth.period_start('month', 'days.day') }} as month_start,
  {{ dbt.datediff(propel_auth.period_start('week', 'days.day'), 'days.day', 'day') }} + 1 as day_of_week,
  loads.day is not null as has_load,
  days.day < bounds.first_day as is_before_first_load,
  days.day < bounds.last_day as is_complete
from days
cross join bounds
left join loads on loads.day = days.day
where days.day <= bounds.last_day
