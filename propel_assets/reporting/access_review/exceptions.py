"""What an access review lists as an exception."""

from collections.abc import Iterator, Sequence
from datetime import date

from propel_assets.reporting.access_review.model import (
    ApiKey,
    ExceptionKind,
    ExceptionRow,
    Member,
    Org,
    ReviewException,
    UsagePeriod,
)

DORMANT_DAYS = 90
ORPHANS = {
    "owner_deleted": "its owner was deleted",
    "owner_disabled": "its owner is disabled",
    "owner_left_org": "its owner has left the org",
}
"""The text of the review, by `orphan_reason` of fct_api_keys."""


def exceptions_of_member(member: Member, *, is_admin: bool, dormant_before: date | None) -> tuple[ReviewException, ...]:
    """Return the exceptions of one member.

    ``dormant_before``: a last activity before this day is dormant; None: the last activity is not known.
    """
    roles = f"role {', '.join((member.role, *member.additional_roles))}"
    if member.enabled is False or member.locked:
        state = "disabled" if member.enabled is False else "locked"
        return (ReviewException(ExceptionKind.DISABLED_USER, f"{roles}; {state}"),)
    exceptions = []
    last_active = member.last_active_day
    if member.enabled and is_admin and dormant_before and (last_active is None or last_active < dormant_before):
        activity = f"last active {last_active}" if last_active else "no activity is known"
        exceptions.append(ReviewException(ExceptionKind.DORMANT_ADMIN, f"{roles}; {activity}"))
    if member.enabled and member.mfa_enabled is False:
        kind = ExceptionKind.ADMIN_WITHOUT_MFA if is_admin else ExceptionKind.MEMBER_WITHOUT_MFA
        exceptions.append(ReviewException(kind, roles if is_admin else f"role {member.role}"))
    return tuple(exceptions)


def exceptions_of_key(
    owner_kind: str, orphan_reason: str | None, created: date | None, validations: int | None, usage: UsagePeriod | None
) -> tuple[ReviewException, ...]:
    """Return the exceptions of one active API key. ``validations``: None if the usage is not known.

    A key that is younger than the period of the usage is not an unused key.
    """
    exceptions = []
    if orphan_reason:
        exceptions.append(ReviewException(ExceptionKind.API_KEY_WITHOUT_OWNER, ORPHANS[orphan_reason]))
    if owner_kind == "none":
        exceptions.append(ReviewException(ExceptionKind.API_KEY_WITHOUT_OWNER, "it has no owner"))
    if usage and validations == 0 and created is not None and created < usage.first:
        exceptions.append(ReviewException(ExceptionKind.UNUSED_API_KEY, f"not used from {usage.first} to {usage.last}"))
    return tuple(exceptions)


def list_exceptions(orgs: Sequence[Org], keys: Sequence[ApiKey], owner_role: str) -> list[ExceptionRow]:
    """Return all exceptions, in the order of their kinds. ``owner_role``: the role that owns an org."""
    found = [*_orgs_without_owner(orgs, owner_role)]
    for org in orgs:
        found += [ExceptionRow(f.kind, org.org_id, m.user_id, f.detail) for m in org.members for f in m.exceptions]
    found += [ExceptionRow(f.kind, key.org_id, key.api_key_id, f.detail) for key in keys for f in key.exceptions]
    order = {kind: number for number, kind in enumerate(ExceptionKind)}
    return sorted(found, key=lambda row: order[row.kind])


def _orgs_without_owner(orgs: Sequence[Org], owner_role: str) -> Iterator[ExceptionRow]:
    for org in orgs:
        if org.members and not any(m.holds((owner_role,)) for m in org.members):
            yield ExceptionRow(ExceptionKind.ORG_WITHOUT_OWNER, org.org_id, "", f"no member has the role {owner_role}")
