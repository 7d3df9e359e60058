select
  message_id,
  case event_type
    when 'user.deleted' then 'user deleted'
    when 'org.deleted' then 'org deleted'
    when 'user.removed_from_org' then 'member removed'
    when 'user.removed_from_scim_group' then 'SCIM group member removed'
    when 'org.scim_group_deleted' then 'SCIM group deleted'
    when 'org.scim_key_revoked' then 'SCIM key revoked'
    else 'API key deleted'
  end as kind,
  user_id,
  org_id,
  received_at as reported_at
from {{ propel_auth.raw('auth_event') }} as raw_events
where event_type in (
  'user.deleted', 'org.deleted', 'user.removed_from_org', 'user.removed_from_scim_group', 'org.scim_group_deleted',
  'org.scim_key_revoked', 'org.api_key_deleted', 'user.deleted_personal_api_key'
)
