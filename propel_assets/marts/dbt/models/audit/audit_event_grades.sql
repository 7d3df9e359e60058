select
  load_id,
  event_type,
  table_name,
  changes,
  missed,
  {{ propel_auth.share('missed', 'changes') }} as missed_share,
  late_seconds_median,
  late_seconds_max,
  compared_from,
  compared_to,
  is_settled
from {{ propel_auth.raw('propel_event_grades') }} as grades
