{{ config(materialized='view') }}

select
  load_id,
  table_name,
  mode,
  verdict,
  reason,
  rows_expected,
  rows_read,
  total_min,
  total_max,
  pages,
  passes,
  requests,
  retries,
  rate_limited,
  waited_seconds,
  concurrency,
  started_at,
  finished_at
from {{ propel_auth.raw('propel_scans') }} as scans
