with evaluations as (
  select
    load_id,
    table_name,
    passed,
    severity,
    row_number() over (partition by load_id, table_name, check_name order by checked_at desc) as age
  from {{ propel_auth.raw('propel_checks') }} as evaluated
),

checks as (
  select
    load_id,
    table_name,
    count(*) as checks,
    count(case when passed then 1 end) as checks_passed,
    count(case when not passed and severity = 'ERROR' then 1 end) as checks_failed
  from evaluations
  where age = 1
  group by load_id, table_name
)

select
  scans.load_id,
  scans.table_name,
  scans.verdict,
  scans.rows_read,
  scans.total_min as provider_total_min,
  scans.total_max as provider_total_max,
  case
    when scans.total_max is null or scans.mode = 'recent' then null
    when scans.rows_read > scans.total_max then scans.rows_read - scans.total_max
    when scans.rows_read < scans.total_min then scans.rows_read - scans.total_min
    else 0
  end as difference,
  coalesce(checks.checks, 0) as checks,
  coalesce(checks.checks_passed, 0) as checks_passed,
  coalesce(checks.checks_failed, 0) as checks_failed,
  scans.finished_at
from {{ propel_auth.complete_scans() }} as scans
left join checks on checks.load_id = scans.load_id and checks.table_name = scans.table_name
