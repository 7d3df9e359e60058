-- The tables of a load are read together: each of its rows in propel_scans counts the same requests.
select
  load_id,
  min(table_name) as table_name,
  count(*) as tables,
  max(mode) as mode,
  max(requests) as requests,
  max(retries) as retries,
  max(rate_limited) as rate_limited,
  {{ propel_auth.share('max(rate_limited)', 'max(requests)') }} as rate_limited_share,
  max(waited_seconds) as waited_seconds,
  max(pages) as pages,
  max(concurrency) as concurrency,
  min(started_at) as started_at,
  max(finished_at) as finished_at
from {{ propel_auth.complete_scans() }} as scans
group by load_id
