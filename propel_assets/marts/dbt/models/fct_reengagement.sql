with {% for kind, key, read in (('user', 'user_id', 'user_query'), ('org', 'org_id', 'org_membership')) %}
{{ kind }}_activity as (
  select {{ key }} as subject_id, day, observed_at from {{ ref('fct_' ~ kind ~ '_activity_daily') }}
),

{{ kind }}_reports as (
  select reports.interval as cadence, reports.{{ key }} as subject_id, reports.report_time
  from {{ propel_auth.raw(kind ~ '_report') }} as reports
  where reports.type = 'reengagement'
),

{{ kind }}_times as (
  -- Held against PropelAuth's report on the day of the report; where there is none, on that of our reading.
  {%- for cadence, days in (('Weekly', 7), ('Monthly', 30)) %}
  select
    '{{ cadence }}' as cadence,
    judged.report_time,
    judged.day,
    cast({{ dbt.dateadd('day', 1 - days, 'judged.day') }} as date) as back_from,
    cast({{ dbt.dateadd('day', 1 - 2 * days, 'judged.day') }} as date) as quiet_from
  from (
    select
      max(report_time) as report_time,
      {{ propel_auth.utc_day('coalesce(max(report_time), ' ~ propel_auth.as_of(read) ~ ')') }} as day
    from {{ kind }}_reports
    where cadence = '{{ cadence }}'
  ) as judged
  {{ "union all" if not loop.last }}
  {%- endfor %}
),

{{ kind }}_ours as (
  select
    times.cadence,
    activity.subject_id,
    min(case when activity.day >= times.back_from then activity.day end) as returned_on,
    max(case when activity.day < times.quiet_from then activity.day end) as active_before
  from {{ kind }}_activity as activity
  cross join {{ kind }}_times as times
  where activity.day <= times.day
  group by times.cadence, activity.subject_id
  having
    max(case when activity.day >= times.back_from then 1 else 0 end) = 1
    and max(case when activity.day >= times.quiet_from and activity.day < times.back_from then 1 else 0 end) = 0
    and max(case when activity.day < times.quiet_from then 1 else 0 end) = 1
),

{{ kind }}_ids as (
  select cadence, subject_id from {{ kind }}_ours
  union distinct
  select cadence, subject_id from {{ kind }}_reports
),

{{ kind }}_states as (
  select
    '{{ kind }}' as subject,
    ids.subject_id,
    ids.cadence,
    ours.returned_on,
    ours.active_before,
    times.day as as_of_day,
    times.report_time,
    case
      when times.report_time is null then 'no_report'
      when readings.first_day >= times.back_from then 'no_history'
      when ours.subject_id is null then 'only_them'
      when theirs.subject_id is null then 'only_us'
      else 'both'
    end as found_by
  from {{ kind }}_ids as ids
  inner join {{ kind }}_times as times on times.cadence = ids.cadence
  cross join (
    select min({{ propel_auth.utc_day('observed_at') }}) as first_day from {{ kind }}_activity
  ) as readings
  left join {{ kind }}_ours as ours on ours.subject_id = ids.subject_id and ours.cadence = ids.cadence
  left join {{ kind }}_reports as theirs on theirs.subject_id = ids.subject_id and theirs.cadence = ids.cadence
){{ "," if not loop.last }}
{% endfor %}
select * from user_states
union all
select * from org_states
