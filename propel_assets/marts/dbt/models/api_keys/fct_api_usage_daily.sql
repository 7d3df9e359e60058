select usage.date as day, usage.count as validations
from {{ propel_auth.raw('end_user_api_key_usage_total') }} as usage
