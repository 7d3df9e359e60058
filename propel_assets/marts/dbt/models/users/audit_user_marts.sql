-- Built after the marts of changes and activity, so that a load in it is in them.
-- depends_on: {{ ref('fct_user_changes') }}, {{ ref('fct_user_activity_daily') }}
select latest_load.as_of
from (select max(read_at) as as_of from {{ ref('user_loads') }}) as latest_load
where latest_load.as_of is not null
