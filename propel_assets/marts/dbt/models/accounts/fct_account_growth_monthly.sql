with months as (
  select
    {{ propel_auth.period_start('month', 'day') }} as month,
    max(day) as last_day
  from {{ ref('fct_org_daily') }}
  group by 1
),

pairs as (
  select
    months.month,
    months.last_day,
    previous.last_day as previous_last_day,
    months.month < (select max(month) from months)
    and months.last_day >= cast({{ dbt.dateadd('day', -2, dbt.last_day('months.month', 'month')) }} as date)
    and previous.last_day >= cast({{ dbt.dateadd('day', -2, dbt.last_day('previous.month', 'month')) }} as date)
      as is_complete
  from months
  inner join months as previous
    on previous.month = cast({{ dbt.dateadd('month', -1, 'months.month') }} as date)
),

ends as (
  select pairs.month, orgs.org_id, orgs.size_band, orgs.plan, orgs.members, orgs.active_members_30d
  from pairs
  inner join {{ ref('fct_org_daily') }} as orgs on orgs.day = pairs.last_day
),

starts as (
  select pairs.month, orgs.org_id, orgs.size_band, orgs.plan, orgs.members, orgs.active_members_30d
  from pairs
  inner join {{ ref('fct_org_daily') }} as orgs on orgs.day = pairs.previous_last_day
),

accounts as (
  select
    ids.month,
    ids.org_id,
    coalesce(starts.size_band, ends.size_band) as size_band,
    -- An account is counted under its size and plan at the start of the month; a new one under those at the end.
    coalesce(starts.plan, ends.plan) as plan,
    starts.org_id is not null as is_at_start,
    ends.org_id is not null as is_at_end,
    coalesce(starts.members, 0) as members_at_start,
    coalesce(ends.members, 0) as members_at_end,
    coalesce(starts.active_members_30d, 0) > 0 as is_active_at_start,
    coalesce(ends.active_members_30d, 0) > 0 as is_active_at_end
  from (
    select distinct month, org_id
    from (select month, org_id from starts union all select month, org_id from ends) as starts_and_ends
  ) as ids
  left join starts on starts.month = ids.month and starts.org_id = ids.org_id
  left join ends on ends.month = ids.month and ends.org_id = ids.org_id
),

counted as (
  select
    month,
    size_band,
    plan,
    count(case when is_at_start then 1 end) as accounts_at_start,
    count(case when not is_at_start then 1 end) as new_accounts,
    count(case when not is_at_end then 1 end) as lost_accounts,
    count(case when is_at_end then 1 end) as accounts_at_end,
    count(case when is_at_start and members_at_end > members_at_start then 1 end) as expanded_accounts,
    count(case when is_at_start and is_at_end and members_at_end < members_at_start then 1 end) as contracted_accounts,
    {{ propel_auth.whole('sum(members_at_start)') }} as members_at_start,
    {{ propel_auth.whole('sum(case when is_at_start then members_at_end else 0 end)') }} as retained_members,
    {{ propel_auth.whole('sum(members_at_end)') }} as members_at_end,
    count(case when is_at_start and is_active_at_start then 1 end) as active_accounts_at_start,
    count(case when is_at_start and is_active_at_start and is_active_at_end then 1 end) as retained_active_accounts
  from accounts
  group by month, size_band, plan
)

select
  counted.month,
  counted.size_band,
  counted.plan,
  counted.accounts_at_start,
  counted.new_accounts,
  counted.lost_accounts,
  counted.accounts_at_end,
  counted.expanded_accounts,
  counted.contracted_accounts,
  counted.members_at_start,
  counted.retained_members,
  counted.members_at_end,
  {{ propel_auth.share('counted.retained_members', 'counted.members_at_start') }} as net_member_retention,
  counted.active_accounts_at_start,
  counted.retained_active_accounts,
  {{ propel_auth.share('counted.retained_active_accounts', 'counted.active_accounts_at_start') }} as active_account_retention,
  pairs.previous_last_day as start_day,
  pairs.last_day as end_day,
  pairs.is_complete
from counted
inner join pairs on pairs.month = counted.month
