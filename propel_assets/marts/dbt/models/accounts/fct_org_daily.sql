{{ config(
  materialized='incremental', full_refresh=false, on_schema_change='append_new_columns',
  incremental_strategy=propel_auth.replace_day(), unique_key='day',
  partition_by={'field': 'day', 'data_type': 'date'} if target.type == 'bigquery' else none
) }}

with latest_load as (
  select {{ propel_auth.as_of('user_query') }} as as_of
),

known as (
  {{ propel_auth.known_columns(['enabled', 'mfa_enabled', 'locked', 'email_confirmed', 'last_active_at']) }}
),

members as (
  select
    memberships.org_id,
    count(*) as members,
    {%- for days in (30, 60, 90) %}
    count(case when users.last_active_at >= {{ propel_auth.plus_days('latest_load.as_of', -days) }} then 1 end)
      as active_members_{{ days }}d,
    {%- endfor %}
    count(case when users.enabled then 1 end) as enabled_members,
    count(case when users.enabled and users.mfa_enabled then 1 end) as members_with_mfa,
    count(case when users.locked then 1 end) as locked_members,
    count(case when not users.email_confirmed then 1 end) as unconfirmed_members,
    count(
      case when users.enabled and users.last_active_at < {{ propel_auth.plus_days('latest_load.as_of', -90) }} then 1 end
    ) as dormant_members_90d,
    max({{ propel_auth.not_after('users.last_active_at', 'latest_load.as_of') }}) as last_active_at
  from {{ propel_auth.raw('org_membership') }} as memberships
  inner join {{ propel_auth.raw('user_query') }} as users on users.user_id = memberships.user_id
  cross join latest_load
  group by memberships.org_id
),

raw_memberships as (
  select org_id, user_id, user_role, {{ propel_auth.json_text('additional_roles') }} as additional_roles
  from {{ propel_auth.raw('org_membership') }} as memberships
),

with_additional_roles as (
  select * from raw_memberships where additional_roles like '[%]'
),

roles_held as (
  select org_id, user_id, user_role as role from raw_memberships
  union all
  select org_id, user_id, element
  from (
    {{ propel_auth.json_elements('with_additional_roles', ['org_id', 'user_id'], 'additional_roles') }}
  ) as additional
),

-- A member who holds an owner role beside another one owns the org too.
administrators as (
  select
    org_id,
    count(distinct case when role in ({{ propel_auth.listed(var('propel_auth_owner_roles')) }}) then user_id end) as owners,
    count(distinct case when role in ({{ propel_auth.listed(var('propel_auth_admin_roles')) }}) then user_id end) as admins
  from roles_held
  group by org_id
),

invites as (
  select raw_invites.org_id, count(*) as pending_invites
  from {{ propel_auth.raw('pending_org_invites') }} as raw_invites
  cross join latest_load
  where raw_invites.expires_at > latest_load.as_of
  group by raw_invites.org_id
),

keys as (
  select
    org_id,
    count(*) as active_api_keys,
    count(case when is_orphan then 1 end) as orphan_api_keys
  from {{ ref('fct_api_keys') }}
  where
    status = 'active'
    and org_id is not null
    and day = (select max(day) from {{ ref('fct_api_keys') }})
    -- A load that read no key has no row in fct_api_keys: its last day is then of an earlier load.
    and exists (select 1 from {{ propel_auth.raw('end_user_api_keys') }} as active_keys)
  group by org_id
),

orgs as (
  select
    orgs.org_id,
    orgs.name,
    coalesce({{ propel_auth.json_field(propel_auth.json_text('orgs.metadata'), var('propel_auth_plan_key')) }}, 'none') as plan,
    orgs.created_at,
    orgs.max_users,
    orgs.is_saml_configured,
    details.is_saml_in_test_mode,
    details.domain_restrict,
    coalesce(members.members, 0) as members,
    case when known.has_last_active_at then coalesce(members.active_members_30d, 0) end as active_members_30d,
    case when known.has_last_active_at then coalesce(members.members - members.active_members_30d, 0) end as idle_members_30d,
    case when known.has_last_active_at then coalesce(members.members - members.active_members_60d, 0) end as idle_members_60d,
    case when known.has_last_active_at then coalesce(members.members - members.active_members_90d, 0) end as idle_members_90d,
    coalesce(administrators.owners, 0) as owners,
    coalesce(administrators.admins, 0) as admins,
    case when known.has_enabled then coalesce(members.enabled_members, 0) end as enabled_members,
    case when known.has_enabled and known.has_mfa_enabled then coalesce(members.members_with_mfa, 0) end as members_with_mfa,
    case when known.has_enabled then coalesce(members.members - members.enabled_members, 0) end as disabled_members,
    case when known.has_locked then coalesce(members.locked_members, 0) end as locked_members,
    case when known.has_email_confirmed then coalesce(members.unconfirmed_members, 0) end as unconfirmed_members,
    case when known.has_enabled and known.has_last_active_at then coalesce(members.dormant_members_90d, 0) end as dormant_members_90d,
    coalesce(invites.pending_invites, 0) as pending_invites,
    coalesce(keys.active_api_keys, 0) as active_api_keys,
    coalesce(keys.orphan_api_keys, 0) as orphan_api_keys,
    members.last_active_at
  from {{ propel_auth.raw('org_query') }} as orgs
  left join members on members.org_id = orgs.org_id
  left join administrators on administrators.org_id = orgs.org_id
  left join invites on invites.org_id = orgs.org_id
  left join keys on keys.org_id = orgs.org_id
  left join {{ propel_auth.raw('org_by_id') }} as details on details.org_id = orgs.org_id
  cross join known
)

select
  orgs.org_id,
  {{ propel_auth.utc_day('latest_load.as_of') }} as day,
  orgs.name,
  orgs.plan,
  case
    when orgs.members = 0 then '0'
    when orgs.members = 1 then '1'
    when orgs.members <= 5 then '2-5'
    when orgs.members <= 20 then '6-20'
    when orgs.members <= 100 then '21-100'
    else 'over 100'
  end as size_band,
  {{ propel_auth.not_after('orgs.created_at', 'latest_load.as_of') }} as created_at,
  orgs.members,
  orgs.active_members_30d,
  orgs.idle_members_30d,
  orgs.idle_members_60d,
  orgs.idle_members_90d,
  orgs.owners,
  orgs.admins,
  orgs.max_users,
  {{ propel_auth.share('orgs.members', 'orgs.max_users') }} as seat_utilization,
  orgs.max_users - orgs.members as free_seats,
  coalesce(orgs.members > orgs.max_users, false) as is_over_cap,
  orgs.enabled_members,
  orgs.members_with_mfa,
  {{ propel_auth.share('orgs.members_with_mfa', 'orgs.enabled_members') }} as mfa_adoption,
  orgs.disabled_members,
  orgs.locked_members,
  orgs.unconfirmed_members,
  orgs.dormant_members_90d,
  orgs.is_saml_configured,
  orgs.is_saml_in_test_mode,
  orgs.domain_restrict,
  orgs.pending_invites,
  orgs.active_api_keys,
  orgs.orphan_api_keys,
  orgs.last_active_at,
  latest_load.as_of
from orgs
cross join latest_load
where latest_load.as_of is not null
