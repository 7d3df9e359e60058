{# Users and orgs active per period, our figure and PropelAuth's as columns. Every period from the first one with a figure
   to that of the last load has a row. Our figure is null for periods that ended before the first load. #}
{% macro active_per_period(cadence, period) -%}
{%- set start = 'day' if period == 'day' else period ~ '_start' -%}
{%- set names = (('user', 'active_users'), ('org', 'active_orgs')) -%}
with bounds as (
  select min(day) as first_day, max(day) as last_day from {{ ref('user_loads') }}
),

days as (
  select day, has_load from {{ ref('dim_date') }}
),

periods as (
  select
    {{ propel_auth.period_start(period, 'day') }} as {{ start }},
    sum(case when has_load then 1 else 0 end) as days_read
  from days
  group by 1
),
{% for kind, name in names %}
our_{{ name }} as (
  select {{ propel_auth.period_start(period, 'day') }} as {{ start }}, count(distinct {{ kind }}_id) as {{ name }}
  from {{ ref('fct_' ~ kind ~ '_activity_daily') }}
  group by 1
),

provider_{{ name }} as (
  select metrics.date as {{ start }}, metrics.result as {{ name }}, metrics.cadence_completed
  from {{ propel_auth.raw('chart_metrics') }} as metrics
  where metrics.metric = '{{ name }}' and metrics.cadence = '{{ cadence }}'
),
{% endfor %}
with_ends as (
  select
    periods.{{ start }},
    periods.days_read,
    {%- if period == 'day' %}
    periods.{{ start }} as period_end,
    {%- elif period == 'week' %}
    cast({{ dbt.dateadd('day', 6, 'periods.' ~ start) }} as date) as period_end,
    {%- else %}
    {{ dbt.last_day('periods.' ~ start, 'month') }} as period_end,
    {%- endif %}
    bounds.first_day,
    bounds.last_day
  from periods
  cross join bounds
),

first_figures as (
  select min({{ start }}) as {{ start }}
  from (
    {%- for kind, name in names %}
    select min({{ start }}) as {{ start }} from provider_{{ name }}
    union all
    {%- endfor %}
    select {{ propel_auth.period_start(period, 'first_day') }} from bounds
  ) as figures
)

select
  with_ends.{{ start }},
  {%- for kind, name in names %}
  case
    when with_ends.period_end >= with_ends.first_day then coalesce(our_{{ name }}.{{ name }}, 0)
  end as {{ name }},
  provider_{{ name }}.{{ name }} as provider_{{ name }},
  {%- endfor %}
  {{ propel_auth.whole('with_ends.days_read') }} as days_read,
  with_ends.period_end < with_ends.last_day as is_complete,
  coalesce(provider_active_users.cadence_completed, provider_active_orgs.cadence_completed)
    and coalesce(provider_active_orgs.cadence_completed, provider_active_users.cadence_completed) as provider_is_complete,
  case when with_ends.period_end >= with_ends.first_day then with_ends.period_end < with_ends.last_day end as is_lower_bound
from with_ends
inner join first_figures on with_ends.{{ start }} >= first_figures.{{ start }}
{%- for kind, name in names %}
left join our_{{ name }} on our_{{ name }}.{{ start }} = with_ends.{{ start }}
left join provider_{{ name }} on provider_{{ name }}.{{ start }} = with_ends.{{ start }}
{%- endfor %}
{%- endmacro %}

{# Users who logged in per period, beside PropelAuth's figure of active users. Every period from that of the first event
   to that of the last one has a row. #}
{% macro login_users_per_period(cadence, period) -%}
{%- set start = 'day' if period == 'day' else period ~ '_start' -%}
with event_days as (
  select {{ propel_auth.utc_day('received_at') }} as day
  from {{ propel_auth.raw('auth_event') }} as raw_events
),

bounds as (
  select min(day) as first_day, max(day) as last_day from event_days
),

days as (
  select day from event_days
  union all
  select day from {{ ref('dim_date') }}
),

periods as (
  select distinct {{ propel_auth.period_start(period, 'days.day') }} as {{ start }}
  from days
  cross join bounds
  where days.day >= bounds.first_day and days.day <= bounds.last_day
),

logged_in as (
  select
    {{ propel_auth.period_start(period, 'day') }} as {{ start }},
    count(distinct user_id) as login_users,
    sum(logins) as logins
  from {{ ref('fct_logins_daily') }}
  group by 1
),

provider as (
  select date as {{ start }}, result as active_users
  from {{ propel_auth.raw('chart_metrics') }} as metrics
  where metric = 'active_users' and cadence = '{{ cadence }}'
),

with_ends as (
  select
    periods.{{ start }},
    {%- if period == 'day' %}
    periods.{{ start }} as period_end
    {%- elif period == 'week' %}
    cast({{ dbt.dateadd('day', 6, 'periods.' ~ start) }} as date) as period_end
    {%- else %}
    {{ dbt.last_day('periods.' ~ start, 'month') }} as period_end
    {%- endif %}
  from periods
)

select
  with_ends.{{ start }},
  coalesce(logged_in.login_users, 0) as login_users,
  {{ propel_auth.whole('coalesce(logged_in.logins, 0)') }} as logins,
  provider.active_users as provider_active_users,
  with_ends.{{ start }} > bounds.first_day and with_ends.period_end < bounds.last_day as is_complete
from with_ends
cross join bounds
left join logged_in on logged_in.{{ start }} = with_ends.{{ start }}
left join provider on provider.{{ start }} = with_ends.{{ start }}
{%- endmacro %}
