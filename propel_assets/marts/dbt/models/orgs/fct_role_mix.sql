{{ config(
  materialized='incremental', full_refresh=false, on_schema_change='append_new_columns',
  incremental_strategy=propel_auth.replace_day(), unique_key='day',
  partition_by={'field': 'day', 'data_type': 'date'} if target.type == 'bigquery' else none
) }}

with latest_load as (
  select {{ propel_auth.as_of('org_query') }} as as_of
),

memberships as (
  select org_id, user_id, user_role, {{ propel_auth.json_text('additional_roles') }} as additional_roles
  from {{ propel_auth.raw('org_membership') }} as raw_memberships
),

with_additional_roles as (
  select * from memberships where additional_roles like '[%]'
),

additional_roles as (
  {{ propel_auth.json_elements('with_additional_roles', ['org_id', 'user_id'], 'additional_roles') }}
),

roles_held as (
  select distinct org_id, user_id, role
  from (
    select org_id, user_id, user_role as role from memberships
    union all
    select org_id, user_id, element from additional_roles
  ) as held
  where role is not null
),

orgs as (
  select org_id, name, coalesce(custom_role_mapping_name, '') as role_mapping
  from {{ propel_auth.raw('org_query') }} as raw_orgs
),

-- The roles of a mapping are not in the API: those that a member of an org on the mapping has, and the owner roles.
roles_of_mapping as (
  select distinct orgs.role_mapping, roles_held.role
  from orgs
  inner join roles_held on roles_held.org_id = orgs.org_id
),

roles_of_org as (
  select orgs.org_id, orgs.name, roles_of_mapping.role
  from orgs
  inner join roles_of_mapping on roles_of_mapping.role_mapping = orgs.role_mapping
  union all
  select orgs.org_id, orgs.name, '{{ var("propel_auth_owner_roles")[0] }}'
  from orgs
  left join roles_of_mapping on roles_of_mapping.role_mapping = orgs.role_mapping
  where roles_of_mapping.role is null
),

counted as (
  select org_id, role, count(*) as members from roles_held group by org_id, role
),

org_members as (
  select org_id, count(*) as org_members from memberships group by org_id
)

select
  roles_of_org.org_id,
  roles_of_org.role,
  {{ propel_auth.utc_day('latest_load.as_of') }} as day,
  roles_of_org.name,
  coalesce(counted.members, 0) as members,
  coalesce(org_members.org_members, 0) as org_members,
  {{ propel_auth.share('coalesce(counted.members, 0)', 'org_members.org_members') }} as share,
  latest_load.as_of
from roles_of_org
cross join latest_load
left join counted on counted.org_id = roles_of_org.org_id and counted.role = roles_of_org.role
left join org_members on org_members.org_id = roles_of_org.org_id
where latest_load.as_of is not null
