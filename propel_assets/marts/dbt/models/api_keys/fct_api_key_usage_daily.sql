select
  usage.api_key_id,
  usage.date as day,
  usage.count as validations,
  -- Over in every time zone when the key was last read: each read stores a row of the day of the read.
  usage.date < cast({{ dbt.dateadd('day', -1, 'max(usage.date) over (partition by usage.api_key_id)') }} as date) as is_complete
from {{ propel_auth.raw('end_user_api_key_usage') }} as usage
where usage.api_key_id <> 'all'  -- a row per day that earlier versions wrote: all keys together
