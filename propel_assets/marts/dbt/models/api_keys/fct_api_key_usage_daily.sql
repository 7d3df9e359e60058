select
  usage.api_key_id,
  usage.date as day,
  usage.count as validations,
  -- Over in every time zone.
  usage.date < cast({{ dbt.dateadd('day', -1, propel_auth.utc_day(propel_auth.as_of('end_user_api_key_usage'))) }} as date) as is_complete
from {{ propel_auth.raw('end_user_api_key_usage') }} as usage
where usage.api_key_id <> 'all'  -- a row per day that earlier versions wrote: all keys together
