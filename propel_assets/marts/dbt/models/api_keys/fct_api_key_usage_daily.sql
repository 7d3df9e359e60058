select usage.api_key_id, usage.date as day, usage.count as validations
from {{ propel_auth.raw('end_user_api_key_usage') }} as usage
where usage.api_key_id <> 'all'  -- a row per day that earlier versions wrote: all keys together
