select
  message_id,
  case event_type
    when 'user.deleted' then 'user_deleted'
    when 'org.deleted' then 'org_deleted'
    when 'user.removed_from_org' then 'member_removed'
    when 'user.removed_from_scim_group' then 'scim_group_member_removed'
    when 'org.scim_group_deleted' then 'scim_group_deleted'
    when 'org.scim_key_revoked' then 'scim_key_revoked'
    else 'api_key_deleted'
  end as kind,
  user_id,
  org_id,
  received_at as reported_at
from {{ propel_auth.raw('auth_event') }} as raw_events
where event_type in (
  'user.deleted', 'org.deleted', 'user.removed_from_org', 'user.removed_from_scim_group', 'org.scim_group_deleted',
  'org.scim_key_revoked', 'org.api_key_deleted', 'user.deleted_personal_api_key'
)
