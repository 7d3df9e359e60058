{{ config(
  materialized='incremental', incremental_strategy=propel_auth.replace_day(), unique_key='day',
  partition_by={'field': 'day', 'data_type': 'date'} if target.type == 'bigquery' else none
) }}

with members as (
  select
    org_id,
    user_role,
    count(*) as members
  from {{ propel_auth.raw('org_membership') }} as memberships
  group by org_id, user_role
),

orgs as (
  select
    org_id,
    sum(members) as org_members,
    sum(case when user_role in ({{ propel_auth.listed(var('propel_auth_owner_roles')) }}) then members else 0 end) as owners,
    sum(case when user_role in ({{ propel_auth.listed(var('propel_auth_admin_roles')) }}) then members else 0 end) as admins
  from members
  group by org_id
)

select
  members.org_id,
  members.user_role,
  {{ propel_auth.utc_day(propel_auth.as_of('org_membership')) }} as day,
  members.members,
  {{ propel_auth.share('members.members', 'orgs.org_members') }} as share,
  cast(orgs.org_members as {{ dbt.type_bigint() }}) as org_members,
  cast(orgs.owners as {{ dbt.type_bigint() }}) as org_owners,
  orgs.owners = 0 as has_no_owner,
  orgs.owners = 1 as has_one_owner,
  orgs.admins * 4 > orgs.org_members as has_many_admins
from members
inner join orgs on orgs.org_id = members.org_id
