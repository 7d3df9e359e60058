{%- set flags = (
  ('enabled', 'enabled', 'disabled'), ('mfa_enabled', 'mfa_enabled', 'mfa_disabled'), ('locked', 'locked', 'unlocked'),
) -%}
with user_versions as (
  select
    users.*,
    lower({{ dbt.split_part('users.email', "'@'", 2) }}) as email_domain,
    lag(users.email) over (partition by users.user_id order by users.valid_from) as email_before,
    lag(users.valid_to) over (partition by users.user_id order by users.valid_from) as previous_valid_to
    {%- for flag, _, _ in flags %},
    lag(users.{{ flag }}) over (partition by users.user_id order by users.valid_from) as {{ flag }}_before
    {%- endfor %}
  from {{ ref('users_history') }} as users
),

membership_versions as (
  select
    memberships.user_id,
    memberships.org_id,
    memberships.user_role,
    case when memberships.additional_roles in ('[]', 'null') then null else memberships.additional_roles end
      as additional_roles,
    case
      when memberships.inherited_user_roles_plus_current_role <> 'null'
        then memberships.inherited_user_roles_plus_current_role
    end as included_roles,
    memberships.valid_from,
    memberships.valid_to
  from {{ ref('memberships_history') }} as memberships
),

membership_changes as (
  select
    membership_versions.*,
    lag(valid_to) over (partition by user_id, org_id order by valid_from) as previous_valid_to,
    lead(valid_from) over (partition by user_id, org_id order by valid_from) as next_valid_from,
    lag(user_role) over (partition by user_id, org_id order by valid_from) as role_before,
    lag(additional_roles) over (partition by user_id, org_id order by valid_from) as additional_roles_before,
    lag(included_roles) over (partition by user_id, org_id order by valid_from) as included_roles_before
  from membership_versions
),

bounds as (
  select min(read_at) as first_load from {{ ref('user_loads') }}
),

policies as (
  select
    finished_at,
    {{ propel_auth.json_field(propel_auth.json_text('resume_state'), 'privacy') }} as privacy
  from {{ propel_auth.complete_scans() }} as scans
  where table_name = 'user_query' and mode = 'full' and verdict <> 'skipped'
),

-- The loads that showed the first rows under another privacy policy or key.
new_policies as (
  select min(loads.read_at) as seen_at
  from (
    select finished_at, privacy, lag(privacy) over (order by finished_at) as privacy_before from policies
  ) as with_before
  inner join {{ ref('user_loads') }} as loads on loads.read_at >= with_before.finished_at
  where with_before.privacy <> with_before.privacy_before
  group by with_before.finished_at
),

changes as (
  {#- A user who existed at the first load did not sign up then. #}
  select
    user_id,
    cast(null as {{ dbt.type_string() }}) as org_id,
    case when previous_valid_to is null then 'signed_up' else 'restored' end as change,
    cast(null as {{ dbt.type_string() }}) as old_value,
    cast(null as {{ dbt.type_string() }}) as new_value,
    valid_from as seen_at
  from user_versions
  cross join bounds
  where
    (previous_valid_to is null and valid_from > bounds.first_load)
    or previous_valid_to < valid_from

  union all

  select user_id, null, 'deleted', null, null, valid_to
  from (
    select user_id, valid_to, lead(valid_from) over (partition by user_id order by valid_from) as next_valid_from
    from {{ ref('users_history') }}
  ) as ended
  where valid_to is not null and (next_valid_from is null or next_valid_from > valid_to)
  {% for flag, on, off in flags %}
  union all

  select user_id, null, case when {{ flag }} then '{{ on }}' else '{{ off }}' end, null, null, valid_from
  from user_versions
  where previous_valid_to is not null and {{ flag }} <> {{ flag }}_before
  {% endfor %}
  union all

  {#- An address and a hash differ because the privacy policy was changed, and two hashes can because its key was.
      A hash has no domain. #}
  select
    user_id,
    null,
    'email_changed',
    case when email_domain <> email_domain_before then email_domain_before end,
    case when email_domain <> email_domain_before then email_domain end,
    valid_from
  from (
    select user_versions.*, lower({{ dbt.split_part('email_before', "'@'", 2) }}) as email_domain_before
    from user_versions
  ) as addresses
  where
    previous_valid_to is not null
    and email <> email_before
    and case when email like '%@%' then 1 else 0 end = case when email_before like '%@%' then 1 else 0 end
    and (email like '%@%' or valid_from not in (select seen_at from new_policies))

  union all

  select user_id, org_id, 'joined_org', null, user_role, valid_from
  from membership_changes
  cross join bounds
  where
    (previous_valid_to is null and valid_from > bounds.first_load)
    or previous_valid_to < valid_from

  union all

  select user_id, org_id, 'left_org', user_role, null, valid_to
  from membership_changes
  where valid_to is not null and (next_valid_from is null or next_valid_from > valid_to)

  union all

  select user_id, org_id, 'role_changed', role_before, user_role, valid_from
  from membership_changes
  where previous_valid_to = valid_from and user_role <> role_before

  union all

  select user_id, org_id, 'additional_roles_changed', additional_roles_before, additional_roles, valid_from
  from membership_changes
  where previous_valid_to = valid_from and coalesce(additional_roles, '[]') <> coalesce(additional_roles_before, '[]')

  union all

  {#- The roles of the member are the same, and include others: the role was redefined, or the org has another mapping. #}
  select user_id, org_id, 'included_roles_changed', included_roles_before, included_roles, valid_from
  from membership_changes
  where
    previous_valid_to = valid_from
    and included_roles <> included_roles_before
    and user_role = role_before
    and coalesce(additional_roles, '[]') = coalesce(additional_roles_before, '[]')
),

previous as (
  {{ propel_auth.previous_loads('changes', 'seen_at') }}
)

select
  changes.user_id,
  changes.org_id,
  changes.change,
  changes.old_value,
  changes.new_value,
  previous.previous_read_at as changed_after,
  changes.seen_at
from changes
left join previous on previous.at = changes.seen_at
