{%- set kinds = (
  ('user', ref('fct_user_activity_daily'), ref('dim_user'), 'signup_day'),
  ('org', ref('fct_org_activity_daily'), ref('dim_org'), 'created_day'),
) -%}
with
{%- for kind, activity, subjects, began in kinds %}
{{ kind }}_activity as (
  select distinct {{ kind }}_id, cast({{ dbt.date_trunc('month', 'day') }} as date) as month
  from {{ activity }}
),

{{ kind }}_readings as (
  select
    cast({{ dbt.date_trunc('month', 'min(' ~ propel_auth.utc_day('observed_at') ~ ')') }} as date) as first_month,
    cast({{ dbt.date_trunc('month', 'max(' ~ propel_auth.utc_day('observed_at') ~ ')') }} as date) as last_month
  from {{ activity }}
),

{{ kind }}s as (
  select {{ kind }}_id, cast({{ dbt.date_trunc('month', began) }} as date) as first_month
  from {{ subjects }}
),

active_{{ kind }}s as (
  select
    activity.month,
    -- Without a time of creation an org is old. Its members may have been active before it was created.
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
    count(*) as active_{{ kind }}s,
    count(case when is_new then 1 end) as new_{{ kind }}s,
    count(case when not is_new and was_active_before then 1 end) as retained_{{ kind }}s,
    count(case when not is_new and not was_active_before then 1 end) as resurrected_{{ kind }}s
  from active_{{ kind }}s
  group by month
),

{{ kind }}_growth as (
  select
    counted.month,
    counted.active_{{ kind }}s,
    counted.new_{{ kind }}s,
    case when counted.month > readings.first_month then counted.retained_{{ kind }}s end as retained_{{ kind }}s,
    case when counted.month > readings.first_month then counted.resurrected_{{ kind }}s end as resurrected_{{ kind }}s,
    case when counted.month > readings.first_month then coalesce(lost.churned, 0) end as churned_{{ kind }}s,
    case
      when counted.month > readings.first_month
        then {{ propel_auth.share('counted.new_' ~ kind ~ 's + counted.resurrected_' ~ kind ~ 's', 'lost.churned') }}
    end as quick_ratio,
    counted.month < readings.last_month as is_completed
  from counted_{{ kind }}s as counted
  cross join {{ kind }}_readings as readings
  left join lost_{{ kind }}s as lost on lost.month = counted.month
  where counted.month >= readings.first_month
){{ "," if not loop.last }}
{% endfor %}
select
  user_growth.month,
  {%- for kind in ('user', 'org') %}
  {%- for name in ('active', 'new', 'retained', 'resurrected', 'churned') %}
  {{ kind }}_growth.{{ name }}_{{ kind }}s,
  {%- endfor %}
  {{ kind }}_growth.quick_ratio as {{ 'org_' if kind == 'org' else '' }}quick_ratio,
  {%- endfor %}
  user_growth.is_completed
from user_growth
left join org_growth on org_growth.month = user_growth.month
