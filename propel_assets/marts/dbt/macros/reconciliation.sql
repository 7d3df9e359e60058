{# Whether the last load of a table of PropelAuth's reports read it: an old report must not be compared. #}
{% macro latest_load_was_read(table) -%}
  coalesce((
    select max(case when scans.verdict <> 'skipped' then 1 else 0 end)
    from {{ propel_auth.complete_scans() }} as scans
    where scans.table_name = '{{ table }}' and scans.load_id = (
      select max(last_scans.load_id)
      from {{ propel_auth.complete_scans() }} as last_scans
      where last_scans.table_name = '{{ table }}'
    )
  ), 0) = 1
{%- endmacro %}

{# The common table expression `ids`: every key in `ours` or `theirs`, per period. #}
{% macro ids_of_both(key, period) -%}
ids as (
  select distinct {{ period }}, {{ key }}
  from (
    select {{ period }}, {{ key }} from ours
    union all
    select {{ period }}, {{ key }} from theirs
  ) as ours_and_theirs
)
{%- endmacro %}

{# Which of `ours` and `theirs` has the key. #}
{% macro found_by(key) -%}
case
    when ours.{{ key }} is null then 'only_them'
    when theirs.{{ key }} is null then 'only_us'
    else 'both'
  end
{%- endmacro %}

{# Users or orgs not active for 7, 14 or 30 days, by our data and by PropelAuth's churn report, at the time of the
   report. #}
{% macro churn_reconciliation(kind) -%}
{%- set key = kind ~ '_id' -%}
with windows as (
  {%- for days in (7, 14, 30) %}
  select {{ days }} as window_days, '{{ days }}' as report_interval{{ " union all" if not loop.last }}
  {%- endfor %}
),

activity as (
  {%- if kind == 'user' %}
  select user_id, last_active_at
  from {{ propel_auth.raw('user_query') }} as users
  {%- else %}
  select memberships.org_id, max(users.last_active_at) as last_active_at
  from {{ propel_auth.raw('org_membership') }} as memberships
  inner join {{ propel_auth.raw('user_query') }} as users on users.user_id = memberships.user_id
  group by memberships.org_id
  {%- endif %}
),

reports as (
  select windows.window_days, reports.{{ key }}, reports.report_time
  from {{ propel_auth.raw(kind ~ '_report') }} as reports
  inner join windows on windows.report_interval = reports.interval
  where reports.type = 'churn' and {{ propel_auth.latest_load_was_read(kind ~ '_report') }}
),

report_times as (
  select window_days, max(report_time) as report_time from reports group by window_days
),

ours as (
  select report_times.window_days, activity.{{ key }}
  from activity
  cross join report_times
  where activity.last_active_at <= {{ propel_auth.plus_days('report_times.report_time', '-report_times.window_days') }}
),

-- Deleted since the report: neither of us counts them any more.
theirs as (
  select reports.window_days, reports.{{ key }}
  from reports
  inner join activity on activity.{{ key }} = reports.{{ key }}
),

{{ propel_auth.ids_of_both(key, 'window_days') }}

select
  ids.{{ key }},
  ids.window_days,
  activity.last_active_at,
  report_times.report_time,
  {{ propel_auth.found_by(key) }} as found_by
from ids
inner join report_times on report_times.window_days = ids.window_days
left join activity on activity.{{ key }} = ids.{{ key }}
left join ours on ours.{{ key }} = ids.{{ key }} and ours.window_days = ids.window_days
left join theirs on theirs.{{ key }} = ids.{{ key }} and theirs.window_days = ids.window_days
{%- endmacro %}

{# Users or orgs that were re-engaged: active in the last 7 or 30 days, not in as many days before, and before those; by
   our data and by PropelAuth's report, on the day of the report. No rows before the loads cover both periods. #}
{% macro reengagement_reconciliation(kind) -%}
{%- set key = kind ~ '_id' -%}
with cadences as (
  select 'Weekly' as cadence, 7 as days
  union all
  select 'Monthly', 30
),

activity as (
  select {{ key }}, day from {{ ref('fct_' ~ kind ~ '_activity_daily') }}
),

reports as (
  select reports.interval as cadence, reports.{{ key }}, reports.report_time
  from {{ propel_auth.raw(kind ~ '_report') }} as reports
  where reports.type = 'reengagement' and {{ propel_auth.latest_load_was_read(kind ~ '_report') }}
),

windows as (
  select
    cadences.cadence,
    report_times.report_time,
    {{ propel_auth.utc_day('report_times.report_time') }} as report_day,
    cast({{ dbt.dateadd('day', '1 - cadences.days', propel_auth.utc_day('report_times.report_time')) }} as date)
      as active_from,
    cast({{ dbt.dateadd('day', '1 - 2 * cadences.days', propel_auth.utc_day('report_times.report_time')) }} as date)
      as quiet_from
  from cadences
  inner join (
    select cadence, max(report_time) as report_time from reports group by cadence
  ) as report_times on report_times.cadence = cadences.cadence
),

covered as (
  select windows.*
  from windows
  inner join (select min(day) as first_day from {{ ref('user_loads') }}) as loads
    on loads.first_day < windows.active_from
),

ours as (
  select covered.cadence, activity.{{ key }}
  from activity
  cross join covered
  where activity.day <= covered.report_day
  group by covered.cadence, activity.{{ key }}
  having
    max(case when activity.day >= covered.active_from then 1 else 0 end) = 1
    and max(case when activity.day >= covered.quiet_from and activity.day < covered.active_from then 1 else 0 end) = 0
    and max(case when activity.day < covered.quiet_from then 1 else 0 end) = 1
),

theirs as (
  select reports.cadence, reports.{{ key }}
  from reports
  inner join covered on covered.cadence = reports.cadence
),

{{ propel_auth.ids_of_both(key, 'cadence') }}

select
  ids.{{ key }},
  ids.cadence,
  covered.report_day,
  covered.report_time,
  {{ propel_auth.found_by(key) }} as found_by
from ids
inner join covered on covered.cadence = ids.cadence
left join ours on ours.{{ key }} = ids.{{ key }} and ours.cadence = ids.cadence
left join theirs on theirs.{{ key }} = ids.{{ key }} and theirs.cadence = ids.cadence
{%- endmacro %}
