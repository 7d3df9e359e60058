{{ config(materialized='view') }}

select
  org_id,
  day,
  name,
  members,
  enabled_members,
  members_with_mfa,
  mfa_adoption,
  disabled_members,
  locked_members,
  unconfirmed_members,
  dormant_members_90d,
  owners,
  admins,
  owners = 0 as has_no_owner,
  owners = 1 as has_one_owner,
  admins * 4 > members as has_many_admins,
  orphan_api_keys,
  is_saml_configured,
  is_saml_in_test_mode,
  domain_restrict
from {{ propel_auth.portable(ref('fct_org_daily')) }}
