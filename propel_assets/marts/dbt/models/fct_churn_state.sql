with windows as (
  {%- for days in (7, 14, 30) %}
  select {{ days }} as window_days, '{{ days }}' as report_interval{{ " union all" if not loop.last }}
  {%- endfor %}
),

user_reports as (
  select reports.interval as report_interval, reports.user_id as subject_id, reports.report_time
  from {{ propel_auth.raw('user_report') }} as reports
  where reports.type = 'churn'
),

org_reports as (
  select reports.interval as report_interval, reports.org_id as subject_id, reports.report_time
  from {{ propel_auth.raw('org_report') }} as reports
  where reports.type = 'churn'
),

org_activity as (
  select memberships.org_id, max(users.last_active_at) as last_active_at
  from {{ propel_auth.raw('org_membership') }} as memberships
  inner join {{ propel_auth.raw('user_query') }} as users on users.user_id = memberships.user_id
  group by memberships.org_id
),
{% for kind, activity, key, report in (
  ('user', propel_auth.raw('user_query'), 'user_id', 'user_query'), ('org', 'org_activity', 'org_id', 'org_membership')
) %}
{{ kind }}_times as (
  -- Held against PropelAuth's report at the time of the report; where there is none, as of our reading.
  select
    windows.window_days,
    windows.report_interval,
    max(reports.report_time) as report_time,
    coalesce(max(reports.report_time), {{ propel_auth.as_of(report) }}) as as_of
  from windows
  left join {{ kind }}_reports as reports on reports.report_interval = windows.report_interval
  group by windows.window_days, windows.report_interval
),

{{ kind }}_ours as (
  select
    times.window_days,
    subjects.{{ key }} as subject_id,
    subjects.last_active_at
  from {{ activity }} as subjects
  cross join {{ kind }}_times as times
  where subjects.last_active_at <= {{ propel_auth.plus_days('times.as_of', '-times.window_days') }}
),

{{ kind }}_theirs as (
  select windows.window_days, reports.subject_id
  from windows
  inner join {{ kind }}_reports as reports on reports.report_interval = windows.report_interval
),

{{ kind }}_ids as (
  select distinct window_days, subject_id
  from (
    select window_days, subject_id from {{ kind }}_ours
    union all
    select window_days, subject_id from {{ kind }}_theirs
  ) as ours_and_theirs
),

{{ kind }}_states as (
  select
    '{{ kind }}' as subject,
    ids.subject_id,
    ids.window_days,
    ours.last_active_at,
    times.as_of,
    times.report_time,
    case
      when times.report_time is null then 'no_report'
      when ours.subject_id is null then 'only_them'
      when theirs.subject_id is null then 'only_us'
      else 'both'
    end as found_by
  from {{ kind }}_ids as ids
  inner join {{ kind }}_times as times on times.window_days = ids.window_days
  left join {{ kind }}_ours as ours on ours.subject_id = ids.subject_id and ours.window_days = ids.window_days
  left join {{ kind }}_theirs as theirs on theirs.subject_id = ids.subject_id and theirs.window_days = ids.window_days
){{ "," if not loop.last }}
{% endfor %}
select * from user_states
union all
select * from org_states
