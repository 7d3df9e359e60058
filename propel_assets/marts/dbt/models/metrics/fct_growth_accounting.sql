{%- set kinds = (
  ('user', ref('fct_user_activity_daily'), ref('dim_user'), 'signup_day'),
  ('org', ref('fct_org_activity_daily'), ref('dim_org'), 'created_day'),
) -%}
with bounds as (
  select
    {{ propel_auth.period_start('month', 'min(day)') }} as first_month,
    {{ propel_auth.period_start('month', 'max(day)') }} as last_month
  from {{ ref('user_loads') }}
),

months as (
  select distinct dates.month_start as month
  from {{ ref('dim_date') }} as dates
  inner join bounds on dates.month_start >= bounds.first_month and dates.month_start <= bounds.last_month
)
{%- for kind, activity, subjects, began in kinds %},

{{ kind }}_activity as (
  select distinct {{ kind }}_id, {{ propel_auth.period_start('month', 'day') }} as month
  from {{ activity }}
),

{{ kind }}s as (
  select {{ kind }}_id, {{ propel_auth.period_start('month', began) }} as first_month
  from {{ subjects }}
),

active_{{ kind }}s as (
  select
    activity.month,
    -- An org without a creation time counts as older. Its members may have been active before it was created.
    coalesce(subjects.first_month >= activity.month, false) as is_new,
    previous.{{ kind }}_id is not null as was_active_before
  from {{ kind }}_activity as activity
  inner join {{ kind }}s as subjects on subjects.{{ kind }}_id = activity.{{ kind }}_id
  left join {{ kind }}_activity as previous
    on previous.{{ kind }}_id = activity.{{ kind }}_id
    and previous.month = cast({{ dbt.dateadd('month', -1, 'activity.month') }} as date)
),

lost_{{ kind }}s as (
  select
    cast({{ dbt.dateadd('month', 1, 'activity.month') }} as date) as month,
    count(*) as churned
  from {{ kind }}_activity as activity
  left join {{ kind }}_activity as following
    on following.{{ kind }}_id = activity.{{ kind }}_id
    and following.month = cast({{ dbt.dateadd('month', 1, 'activity.month') }} as date)
  where following.{{ kind }}_id is null
  group by 1
),

counted_{{ kind }}s as (
  select
    month,
    count(*) as active,
    count(case when is_new then 1 end) as new,
    count(case when not is_new and was_active_before then 1 end) as retained,
    count(case when not is_new and not was_active_before then 1 end) as resurrected
  from active_{{ kind }}s
  group by month
)
{%- endfor %}

select
  months.month,
  {%- for kind, _, _, _ in kinds %}
  coalesce(counted_{{ kind }}s.active, 0) as active_{{ kind }}s,
  coalesce(counted_{{ kind }}s.new, 0) as new_{{ kind }}s,
  case when months.month > bounds.first_month then coalesce(counted_{{ kind }}s.retained, 0) end as retained_{{ kind }}s,
  case when months.month > bounds.first_month then coalesce(counted_{{ kind }}s.resurrected, 0) end
    as resurrected_{{ kind }}s,
  -- While the month is open, a user who was not active yet may still be.
  case
    when months.month > bounds.first_month and months.month < bounds.last_month
      then coalesce(lost_{{ kind }}s.churned, 0)
  end as churned_{{ kind }}s,
  case
    when months.month > bounds.first_month and months.month < bounds.last_month
      then {{ propel_auth.share(
        'coalesce(counted_' ~ kind ~ 's.new, 0) + coalesce(counted_' ~ kind ~ 's.resurrected, 0)',
        'lost_' ~ kind ~ 's.churned'
      ) }}
  end as {{ kind }}_quick_ratio,
  {%- endfor %}
  months.month < bounds.last_month as is_complete
from months
cross join bounds
{%- for kind, _, _, _ in kinds %}
left join counted_{{ kind }}s on counted_{{ kind }}s.month = months.month
left join lost_{{ kind }}s on lost_{{ kind }}s.month = months.month
{%- endfor %}
