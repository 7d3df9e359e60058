{{ config(materialized='view') }}

select
  org_id,
  day,
  name,
  members,
  active_members_30d,
  idle_members_30d,
  idle_members_60d,
  idle_members_90d,
  pending_invites,
  max_users,
  seat_utilization,
  free_seats,
  is_over_cap
from {{ propel_auth.portable(ref('fct_org_daily')) }}
