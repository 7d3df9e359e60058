{{ config(
  materialized='incremental', incremental_strategy=propel_auth.replace_day(), unique_key='day',
  partition_by={'field': 'day', 'data_type': 'date'} if target.type == 'bigquery' else none
) }}

with reading as (
  select {{ propel_auth.as_of('user_query') }} as as_of
),

people as (
  select
    users.user_id,
    case when users.enabled then 1 else 0 end as enabled,
    case when users.enabled and users.mfa_enabled then 1 else 0 end as with_mfa,
    case when users.enabled then 0 else 1 end as disabled,
    case when users.locked then 1 else 0 end as locked,
    case when users.email_confirmed then 0 else 1 end as unconfirmed,
    case
      when users.enabled and users.last_active_at < {{ propel_auth.plus_days('reading.as_of', -90) }} then 1 else 0
    end as dormant
  from {{ propel_auth.raw('user_query') }} as users
  cross join reading
),

grouped as (
  select 'all' as org_id, people.* from people
  union all
  select memberships.org_id, people.*
  from {{ propel_auth.raw('org_membership') }} as memberships
  inner join people on people.user_id = memberships.user_id
),

counted as (
  select
    org_id,
    count(*) as users,
    sum(enabled) as enabled_users,
    sum(with_mfa) as users_with_mfa,
    sum(disabled) as disabled_users,
    sum(locked) as locked_users,
    sum(unconfirmed) as unconfirmed_emails,
    sum(dormant) as dormant_users
  from grouped
  group by org_id
)

select
  counted.org_id,
  {{ propel_auth.utc_day('reading.as_of') }} as day,
  orgs.name,
  counted.users,
  cast(counted.enabled_users as {{ dbt.type_bigint() }}) as enabled_users,
  cast(counted.users_with_mfa as {{ dbt.type_bigint() }}) as users_with_mfa,
  {{ propel_auth.share('counted.users_with_mfa', 'counted.enabled_users') }} as mfa_adoption,
  cast(counted.disabled_users as {{ dbt.type_bigint() }}) as disabled_users,
  cast(counted.locked_users as {{ dbt.type_bigint() }}) as locked_users,
  cast(counted.unconfirmed_emails as {{ dbt.type_bigint() }}) as unconfirmed_emails,
  cast(counted.dormant_users as {{ dbt.type_bigint() }}) as dormant_users_90d,
  orgs.is_saml_configured,
  details.is_saml_in_test_mode,
  details.domain_restrict
from counted
cross join reading
left join {{ propel_auth.raw('org_query') }} as orgs on orgs.org_id = counted.org_id
left join {{ propel_auth.raw('org_by_id') }} as details on details.org_id = counted.org_id
where reading.as_of is not null
