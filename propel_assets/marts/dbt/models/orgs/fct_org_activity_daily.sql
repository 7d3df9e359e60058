{{ config(
  materialized='incremental', full_refresh=false, on_schema_change='append_new_columns', unique_key=['org_id', 'day']
) }}

with latest_load as (
  select {{ propel_auth.as_of('user_query') }} as as_of
),

seen as (
  select distinct
    memberships.org_id,
    {{ propel_auth.utc_day(propel_auth.not_after('users.last_active_at', 'latest_load.as_of')) }} as day
  from {{ propel_auth.raw('org_membership') }} as memberships
  inner join {{ propel_auth.raw('user_query') }} as users on users.user_id = memberships.user_id
  cross join latest_load
  left join {{ propel_auth.raw('org_query') }} as orgs on orgs.org_id = memberships.org_id
  left join {{ ref('fct_membership_spells') }} as spells
    on spells.user_id = memberships.user_id and spells.org_id = memberships.org_id and spells.is_current
  -- A load that did not show the membership yet proves that the user joined after it.
  where users.last_active_at is not null
    and (spells.joined_after is null or users.last_active_at > spells.joined_after)
    and (orgs.created_at is null or users.last_active_at >= orgs.created_at)
)

select
  seen.org_id,
  seen.day,
  seen.day < loads.first_day as is_before_first_load,
  latest_load.as_of as observed_at
from seen
cross join latest_load
cross join (select min(day) as first_day from {{ ref('user_loads') }}) as loads
{% if is_incremental() %}
left join {{ this }} as known on known.org_id = seen.org_id and known.day = seen.day
where known.org_id is null
{% endif %}
