with scans as (
  select load_id, table_name, finished_at, unknown_fields
  from {{ propel_auth.complete_scans() }} as all_scans
  where verdict <> 'skipped'
),

fields as (
  {{ propel_auth.json_pairs('scans', ['load_id', 'table_name', 'finished_at'], 'unknown_fields') }}
),

last_scans as (
  -- load ids are times, and finer than finished_at
  select table_name, max(load_id) as load_id
  from scans
  group by table_name
)

select
  fields.table_name,
  fields.name as field_name,
  fields.finding,
  case
    when fields.finding = 'held back by the privacy policy' then 'not_stored'
    -- 'unknown' in scans of versions before 0.2
    when fields.finding like 'unexpected%' or fields.finding like 'unknown,%' then 'unexpected'
    else 'mismatched'
  end as kind,
  count(*) as loads,
  min(fields.finished_at) as first_found_at,
  max(fields.finished_at) as last_found_at,
  max(fields.load_id) = last_scans.load_id as is_current
from fields
inner join last_scans on last_scans.table_name = fields.table_name
group by fields.table_name, fields.name, fields.finding, last_scans.load_id
