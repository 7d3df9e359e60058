"""Two years of events, from one integer: sign-ups, deletions, memberships and changes of roles with their times.

Tests compare loaded tables with this script. The state of the server is this script replayed (``store.py``), so history
and state cannot disagree.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from functools import cache
from itertools import accumulate
from random import Random
from typing import Literal

from propel_assets.sandbox.people import DAY, Org, User, draw_org, draw_user
from propel_assets.sandbox.roles import MAPPINGS, MULTI_ROLE

HISTORY_DAYS = 730
LATE_PROPERTY_DAYS = 90  # the property `theme` was switched on this long ago

# (share of all users, when in the history, over how many seconds): created_at ties
IMPORTS = ((0.06, 0.35, 1), (0.015, 0.6, 3), (0.02, 0.95, 2))
# how many orgs a user joins: 0, 1, 2, 3, 5
ORGS_PER_USER = (0.12, 0.44, 0.26, 0.12, 0.06)
# each step halves the share of days on which a user is active
HABITS = (0, 1, 1, 2, 2, 2, 3, 3, 5, 6)
# reengaged users were not active from the first to the second of these days ago
ABSENCE_DAYS = (62, 6)
SEATS = 50  # an org that outgrows its limit raises it in steps of so many
QUIET_ORGS = 12  # one org in so many, a small one, had no active member in that time

Kind = Literal["org_created", "org_deleted", "signed_up", "deleted", "joined_org", "left_org", "role_changed"]


@dataclass(frozen=True, slots=True)
class Event:
    """One change at ``at`` (Unix seconds). ``role`` is the role after it."""

    at: int
    kind: Kind
    user_id: str | None = None
    org_id: str | None = None
    role: str | None = None
    additional_roles: tuple[str, ...] = ()
    previous_role: str | None = None
    inviter_id: str | None = None


@dataclass(slots=True)
class Script:
    """All users and orgs, deleted ones included, and all events in order of time."""

    seed: int
    now: int
    """Unix seconds. The end of the history."""
    users: dict[str, User] = field(default_factory=dict)
    orgs: dict[str, Org] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)

    @property
    def first_day(self) -> int:
        """The day of bit 0 of ``User.activity``, in days since 1970."""
        return self.now // DAY - HISTORY_DAYS


def noon(day: date) -> int:
    """Return the Unix second of noon of ``day`` in UTC, the end of the history."""
    return int(datetime.combine(day, time(12), UTC).timestamp())


def write_script(*, seed: int, now: date, users: int, orgs: int) -> Script:
    """Return the history that leaves ``users`` users and ``orgs`` orgs at noon of ``now``."""
    script = Script(seed, noon(now))
    rng = Random(seed)  # noqa: S311 - reproducible people, no secrets
    org_ends = _found_orgs(rng, script, orgs)
    user_ends = _sign_up_users(rng, script, users)
    spells = list(_draw_spells(rng, script, user_ends, org_ends))
    _write_memberships(rng, script, spells)
    for org_id, end in org_ends.items():
        script.events.append(Event(end, "org_deleted", org_id=org_id))
    for user_id, end in user_ends.items():
        script.events.append(Event(end, "deleted", user_id))
    script.events.sort(key=lambda event: event.at)  # stable: signed up, joined, left, deleted
    return script


def draw_moments(rng: Random, count: int, now: int) -> list[int]:
    """Return ``count`` ascending Unix seconds: more every month, on weekdays, in office hours."""
    first_day = now // DAY - HISTORY_DAYS
    moments = []
    for _ in range(count):
        day = first_day + int((HISTORY_DAYS + 1) * rng.random() ** 0.6)
        weekday = (day + 3) % 7  # 1970-01-01 was a Thursday
        if weekday > 4 and rng.random() < 0.6:
            day = max(first_day, day - weekday + 4)
        second = int(min(max(rng.gauss(50_000, 12_000), 0), DAY - 1))
        moments.append(min(day * DAY + second, now - 1 - int(rng.random() * 3600)))
    return sorted(moments)


def _found_orgs(rng: Random, script: Script, count: int) -> dict[str, int]:
    """Write the events that create orgs. Return the times of deletion by org_id."""
    gone = round(count * 0.05)
    ends = {}
    moments = draw_moments(rng, count + gone, script.now)
    doomed = set(rng.sample(range(len(moments)), gone))
    for serial, at in enumerate(moments):
        org = draw_org(rng, serial, at)
        script.orgs[org.org_id] = org
        script.events.append(Event(at, "org_created", org_id=org.org_id))
        if serial in doomed:
            ends[org.org_id] = at + 3600 + int(rng.random() * (script.now - at - 3600))
    return {org_id: min(end, script.now - 1) for org_id, end in ends.items()}


def _sign_up_users(rng: Random, script: Script, count: int) -> dict[str, int]:
    """Write the events that create users. Return the times of deletion by user_id."""
    gone = round(count * 0.06)
    imports = _draw_imports(count, script.now)
    moments = draw_moments(rng, count + gone - len(imports), script.now)
    sign_ups = sorted([(at, False) for at in moments] + imports)
    doomed = set(rng.sample(range(len(sign_ups)), gone))
    domains = [org.wire["domain"] for org in script.orgs.values() if "domain" in org.wire]
    ends: dict[str, int] = {}
    for serial, (at, migrated) in enumerate(sign_ups):
        domain = domains[int(rng.random() ** 2 * len(domains))] if domains else None
        user = draw_user(
            rng,
            serial,
            at,
            domain=domain if rng.random() < 0.7 else None,
            late=at > script.now - LATE_PROPERTY_DAYS * DAY,
        )
        if migrated:
            user.wire["legacy_user_id"] = f"legacy-{serial}"
        if serial in doomed:
            lag = int(rng.expovariate(1 / (120 * DAY)))
            ends[user.user_id] = at + min(3600 + lag, max(1, (script.now - at) * 9 // 10))
        _live(rng, script, user, ends.get(user.user_id))
        script.users[user.user_id] = user
        script.events.append(Event(at, "signed_up", user.user_id))
    return ends


def _draw_imports(count: int, now: int) -> list[tuple[int, bool]]:
    """Return the times of bulk imports: many users per second. The last import sets legacy ids."""
    moments = []
    for share, when, seconds in IMPORTS:
        at = now - int((1 - when) * HISTORY_DAYS) * DAY
        legacy = when == IMPORTS[-1][1]
        moments += [(at + i % seconds, legacy) for i in range(int(count * share))]
    return moments


def _live(rng: Random, script: Script, user: User, end: int | None) -> None:
    """Draw on which days ``user`` was active, until ``end`` (deletion) or now."""
    created_at = user.wire["created_at"]
    first = created_at // DAY - script.first_day
    last = (script.now if end is None else end) // DAY - script.first_day
    if rng.random() < 0.4:  # stopped using the product
        last = min(last, first + int(rng.expovariate(1 / 90)))
    days = _draw_days(rng, last - first) << first + 1
    activity = 1 << first | days & (_weekdays(script.first_day) | rng.getrandbits(last + 1))
    if end is None and rng.random() < 0.04:  # reengaged
        gone, back = ABSENCE_DAYS
        activity &= (1 << max(first + 1, HISTORY_DAYS - gone)) - 1
        activity |= 1 << max(first, HISTORY_DAYS - int(rng.random() * back))
    user.activity = activity
    user.wire["last_active_at"] = last_seen(user, first_day=script.first_day, now=script.now)


def _draw_days(rng: Random, count: int) -> int:
    """Return a bit for each of ``count`` days: set when active."""
    if count < 1:
        return 0
    days = rng.getrandbits(count)
    for _ in range(HABITS[int(rng.random() * len(HABITS))]):
        days &= rng.getrandbits(count)
    return days


@cache
def _weekdays(first_day: int) -> int:
    """Return the bits of every Monday to Friday of the history. 1970-01-01 was a Thursday."""
    days = range(HISTORY_DAYS + 1)
    return sum(1 << day for day in days if (first_day + day + 3) % 7 < 5)


def last_seen(user: User, *, first_day: int, now: int) -> int:
    """Return the Unix second of the last activity, on the last active day."""
    created_at = user.wire["created_at"]
    day = first_day + user.activity.bit_length() - 1
    if day == created_at // DAY:
        return created_at
    return min(day * DAY + (created_at * 31 + day * 7919) % DAY, now - created_at % 600)


@dataclass(frozen=True, slots=True)
class _Spell:
    """One user in one org, from ``start`` to ``end`` (at the latest: deletion, or now)."""

    start: int
    end: int
    user_id: str
    org: Org
    leaves: bool = False


def _draw_spells(rng: Random, script: Script, user_ends: dict[str, int], org_ends: dict[str, int]) -> Iterator[_Spell]:
    """Yield the memberships with their start and end. A few orgs have none."""
    orgs = list(script.orgs.values())
    open_orgs = orgs[: len(orgs) - len(orgs) // 30]
    taken = set()

    def last_moment(user_id: str, org_id: str) -> int:
        return min(user_ends.get(user_id, script.now), org_ends.get(org_id, script.now))

    rng.shuffle(open_orgs)  # size has nothing to do with age
    quiet = {org.org_id for org in open_orgs[len(open_orgs) // 2 :: QUIET_ORGS // 2]}
    gone, back = ABSENCE_DAYS
    absence = (1 << HISTORY_DAYS - back) - (1 << HISTORY_DAYS - gone + 1)
    for org, creator in _draw_creators(script, open_orgs, user_ends):
        if org.org_id not in quiet:
            taken.add((creator, org.org_id))
            yield _Spell(org.created_at, last_moment(creator, org.org_id), creator, org)
    weights = list(accumulate((rank + 1) ** -0.9 for rank in range(len(open_orgs))))
    for user_id, user in script.users.items() if open_orgs else ():
        wanted = rng.choices((0, 1, 2, 3, 5), ORGS_PER_USER)[0]
        for org in rng.choices(open_orgs, cum_weights=weights, k=wanted):
            if org.org_id in quiet and user.activity & absence:
                continue
            start = max(user.wire["created_at"], org.created_at)
            start += int(rng.expovariate(1 / (3 * DAY))) if rng.random() < 0.5 else 60
            end = last_moment(user_id, org.org_id)
            if start < end and (user_id, org.org_id) not in taken:
                taken.add((user_id, org.org_id))
                leaves = rng.random() < 0.08
                end = start + 1 + int(rng.random() * (end - start - 1)) if leaves else end
                yield _Spell(start, end, user_id, org, leaves)


def _draw_creators(script: Script, orgs: list[Org], user_ends: dict[str, int]) -> Iterator[tuple[Org, str]]:
    """Yield each org with the latest user to sign up before it was created, if any."""
    user_ids = list(script.users)
    signed_up = [user.wire["created_at"] for user in script.users.values()]
    for org in orgs:
        last = bisect_right(signed_up, org.created_at) - 1
        if last >= 0 and user_ends.get(user_ids[last], script.now) > org.created_at:
            yield org, user_ids[last]


def _write_memberships(rng: Random, script: Script, spells: list[_Spell]) -> None:
    """Write the events of memberships, with the inviter of new members."""
    earlier: dict[str, list[_Spell]] = defaultdict(list)
    for spell in sorted(spells, key=lambda spell: spell.start):
        members = earlier[spell.org.org_id]
        role, additional = _draw_role(rng, spell.org, first=not members)
        inviter = members[int(rng.random() * len(members))] if members else spell
        invited = spell.start < inviter.end and inviter is not spell and rng.random() < 0.6
        joined = Event(
            spell.start,
            "joined_org",
            spell.user_id,
            spell.org.org_id,
            role,
            additional,
            inviter_id=inviter.user_id if invited else None,
        )
        script.events.append(joined)
        members.append(spell)
        script.events += _draw_role_change(rng, spell, joined)
        if spell.leaves:
            script.events.append(Event(spell.end, "left_org", spell.user_id, spell.org.org_id))
    for org_id, members in earlier.items():
        wire = script.orgs[org_id].wire
        if wire.get("max_users", len(members)) < len(members):
            wire["max_users"] = -(-len(members) // SEATS) * SEATS


def _draw_role_change(rng: Random, spell: _Spell, joined: Event) -> Iterator[Event]:
    """Yield the change of role that some memberships have."""
    if rng.random() < 0.1 and spell.end - spell.start > DAY:
        at = spell.start + 1 + int(rng.random() * (spell.end - spell.start - 1))
        role, additional = _draw_role(rng, spell.org, first=rng.random() < 0.1)
        if role != joined.role:
            yield Event(
                at,
                "role_changed",
                spell.user_id,
                joined.org_id,
                role,
                additional,
                previous_role=joined.role,
            )


def _draw_role(rng: Random, org: Org, *, first: bool) -> tuple[str, tuple[str, ...]]:
    """Return a role and additional roles. The first member of an org owns it."""
    mapping = MAPPINGS[org.role_mapping]
    roles = mapping.roles
    step = 0
    while step < len(roles) - 1 and rng.random() < 0.15:
        step += 1
    role = roles[0] if first else roles[-1 - step]
    if mapping.structure != MULTI_ROLE or rng.random() < 0.5:
        return role, ()
    return role, tuple(name for name in roles[1:] if name != role and rng.random() < 0.4)
