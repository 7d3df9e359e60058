"""What an access review consists of."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from typing import NamedTuple

ONE_DAY = timedelta(days=1)
USAGE_MAX_AGE = timedelta(days=7)
"""How long before the end of the review the usage of API keys may have been loaded."""


def shown(at: datetime | None) -> str:
    """Return a time as text, in UTC and to the minute; empty for None."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M}" if at else ""


class ExceptionKind(StrEnum):
    """The kinds of exceptions, in the order in which the review lists them."""

    ORG_WITHOUT_OWNER = "Org without owner"
    DORMANT_ADMIN = "Dormant administrator"
    ADMIN_WITHOUT_MFA = "Administrator without MFA"
    DISABLED_USER = "Disabled user with a role"
    API_KEY_WITHOUT_OWNER = "API key without owner"
    UNUSED_API_KEY = "Unused API key"
    MEMBER_WITHOUT_MFA = "Member without MFA"

    @property
    def concerns_api_key(self) -> bool:
        """Whether the subject of the exception is an API key."""
        return self in (ExceptionKind.API_KEY_WITHOUT_OWNER, ExceptionKind.UNUSED_API_KEY)


class ReviewException(NamedTuple):
    """One exception of a member or an API key."""

    kind: ExceptionKind
    detail: str


@dataclass(frozen=True)
class Interval:
    """When something changed: after one load and not after another. ``after`` is None before the first load."""

    after: datetime | None
    before: datetime

    def __str__(self) -> str:
        """Return the interval as text."""
        return f"{shown(self.after)} to {shown(self.before)}" if self.after else f"before {shown(self.before)}"


@dataclass(frozen=True)
class Member:
    """One member of one org at the time of the review."""

    org_id: str
    user_id: str
    role: str
    additional_roles: tuple[str, ...]
    inherited_roles: tuple[str, ...]
    role_since: Interval
    member_since: Interval
    enabled: bool | None
    locked: bool | None
    mfa_enabled: bool | None
    last_active_day: date | None
    exceptions: tuple[ReviewException, ...] = ()

    def holds(self, roles: Collection[str]) -> bool:
        """Return whether the member has one of ``roles``, also through a role that includes it."""
        return not {self.role, *self.additional_roles, *self.inherited_roles}.isdisjoint(roles)

    @property
    def through(self) -> str:
        """How each role was granted."""
        parts = [f"{self.role}: assigned"]
        parts += [f"{role}: additional role" for role in self.additional_roles]
        if self.inherited_roles:
            parts.append(f"{', '.join(self.inherited_roles)}: included in {self.role}")
        return "; ".join(parts)


@dataclass(frozen=True)
class Change:
    """One change in the period. ``org_id`` is empty for changes of the user."""

    org_id: str
    user_id: str
    change: str
    old: str
    new: str
    at: Interval


class UsagePeriod(NamedTuple):
    """The first and the last day of the usage of API keys, and the end of the load that completed them."""

    first: date
    last: date
    loaded_at: datetime


@dataclass(frozen=True)
class ApiKey:
    """One active API key at the time of the review.

    ``validations``: in the period of the usage, from ``usage_from`` on. Both are None if a day of it is not loaded.
    """

    api_key_id: str
    owner_kind: str
    user_id: str
    org_id: str
    created_at: datetime | None
    expires_at: datetime | None
    usage_from: date | None
    validations: int | None
    exceptions: tuple[ReviewException, ...]


@dataclass(frozen=True)
class ExceptionRow:
    """One exception. ``subject``: the id of the user or the API key; empty for an org."""

    kind: ExceptionKind
    org_id: str
    subject: str
    detail: str


@dataclass(frozen=True)
class Scans:
    """The scans of one table in the period."""

    table: str
    proved: int
    counted: int
    skipped: int
    last_at: datetime | None
    last_verdict: str
    last_reason: str
    last_rows: int | None
    last_total: int | None


@dataclass(frozen=True)
class Org:
    """One org at the time of the review, with its members and the changes of the period. It may have been deleted."""

    org_id: str
    name: str
    is_saml_configured: bool | None = None
    is_deleted: bool = False
    members: Sequence[Member] = ()
    changes: Sequence[Change] = ()


@dataclass(frozen=True)
class AccessReview:
    """The review. ``observed_at``: the last load in the history up to the end of ``as_of``."""

    as_of: date
    since: date
    observed_at: datetime
    is_preliminary: bool
    tenant: str
    environment: str
    admin_roles: tuple[str, ...]
    orgs: Sequence[Org]
    user_changes: Sequence[Change]
    api_keys: Sequence[ApiKey]
    api_keys_at: datetime | None
    """The load of API keys that the review has: the newest one in the marts up to its end."""
    usage: UsagePeriod | None
    """The period of the usage of API keys; None: no load within `USAGE_MAX_AGE` of the end."""
    exceptions: Sequence[ExceptionRow]
    scans: Sequence[Scans]
    loads: int
    longest_gap: timedelta | None
    changes_known: tuple[datetime, datetime] | None
    """The times between which changes are known; None if no load in the period can be compared with an earlier one."""
    notes: Sequence[str]
    people: Mapping[str, tuple[str, str]] = field(default_factory=dict, repr=False)
    """By user id: name and e-mail address; empty unless they were requested."""

    @property
    def existing_orgs(self) -> list[Org]:
        """Return the orgs that exist at the time of the review."""
        return [org for org in self.orgs if not org.is_deleted]

    @property
    def unknown_changes(self) -> list[str]:
        """Return which changes of the period cannot be seen, in sentences."""
        if self.changes_known is None:
            return ["Changes in this period are not known: no load in it can be compared with an earlier one."]
        first, last = self.changes_known
        start, end = (datetime.combine(day, time(), UTC) for day in (self.since, self.as_of + ONE_DAY))
        found = []
        if first > start:
            found.append(f"Changes before {shown(first)} UTC are not known: it is the first load in the history.")
        if end - last > ONE_DAY:
            found.append(
                f"Changes after {shown(last)} UTC are not known: it is the last load of the period in the history."
            )
        return found

    @property
    def personal_data(self) -> str:
        """Return which personal data the review has. With the privacy policy `strict` it has no names and hashes."""
        emails = [email for _, email in self.people.values() if email]
        found = ["names"] if any(name for name, _ in self.people.values()) else []
        found += ["e-mail addresses"] if any("@" in email for email in emails) else []
        found += ["hashes of e-mail addresses"] if any("@" not in email for email in emails) else []
        *first, last = ["ids", *found]
        return f"{', '.join(first)} and {last}" if first else f"{last} only"

    def members(self) -> Iterator[Member]:
        """Yield the members of all orgs."""
        for org in self.orgs:
            yield from org.members
