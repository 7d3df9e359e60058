"""Charts and reports, computed from the state and its history.

Charts include deleted users and orgs. Reports list present ones, as of the store's clock (``report_time``). Each
activity is a day of ``User.activity``, whose last day is that of ``last_active_at``, so charts agree with the users.

Definitions, from PropelAuth's page on User Insights: a churned user was not active in the last N days (an org: no
member was); a reengaged user was active in the last week or month and not in the one before; champions and top inviters
are leaderboards of the last N days. Growth and attrition of orgs are not defined there: here they are the members who
joined and who left in the last N days. Keys of ``extra_properties`` other than ``num_invites`` are invented.
"""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from random import Random
from typing import Any

from propel_assets.sandbox.people import DAY, Org, User, draw_uuid
from propel_assets.sandbox.store import Store

LEADERBOARD_SIZE = 100
REENGAGEMENT = {"Weekly": 7, "Monthly": 30}
CHURN = {"7": 7, "14": 14, "30": 30}
LONG = {"30": 30, "60": 60, "90": 90}

# days by report_interval, by report type; the first interval is the default
USER_REPORTS = {"reengagement": REENGAGEMENT, "churn": CHURN, "top_inviter": LONG, "champion": LONG}
ORG_REPORTS = {"reengagement": REENGAGEMENT, "churn": CHURN, "growth": LONG, "attrition": LONG}
CHART_TYPES = {
    "signups": "Signups",
    "orgs_created": "OrgsCreated",
    "active_users": "ActiveUsers",
    "active_orgs": "ActiveOrgs",
}
CADENCES = ("Daily", "Weekly", "Monthly")


def user_report(store: Store, report_type: str, interval: str) -> list[dict[str, Any]]:
    """Return every row of the report, in the order of its pages."""
    days = USER_REPORTS[report_type][interval]
    report_id = _report_id(store, f"user {report_type} {interval}")
    return [
        _user_row(store, store.users[user_id], report_id, extra)
        for user_id, extra in _users_reported(store, report_type, days)
    ]


def org_report(store: Store, report_type: str, interval: str) -> list[dict[str, Any]]:
    """Return every row of the report, in the order of its pages."""
    days = ORG_REPORTS[report_type][interval]
    report_id = _report_id(store, f"org {report_type} {interval}")
    return [
        _org_row(store, store.orgs[org_id], report_id, extra)
        for org_id, extra in _orgs_reported(store, report_type, days)
    ]


def chart_metrics(store: Store, metric: str, cadence: str, start: date, end: date) -> list[dict[str, Any]]:
    """Return a point for each period that shares a day with ``start`` to ``end``, both included.

    Weeks begin on Monday. A period is always counted completely, so a point does not depend on the range of the
    request. ``cadence_completed`` is false for the current period.
    """
    today = datetime.fromtimestamp(store.now, UTC).date()
    points = []
    for first, following in _periods(cadence, start, end):
        low, high = (max(0, _day_number(day) - store.first_day) for day in (first, following))
        result = _count_active(store, metric, low, high)
        points.append({"date": first.isoformat(), "result": result, "cadence_completed": following <= today})
    return points


def _count_active(store: Store, metric: str, low: int, high: int) -> int:
    """Return how many have an active day in ``low`` <= day < ``high``, in days since the first."""
    days = store.cached(f"days of {metric}", lambda: _active_days(store, metric))
    if high - low == 1:  # by far the most common case
        planes = store.cached(f"planes of {metric}", lambda: _add_up(days))
        return sum((plane >> low & 1) << place for place, plane in enumerate(planes))
    mask = (1 << high) - (1 << low)
    return store.cached(f"{metric} {low} {high}", lambda: sum(1 for bits in days if bits & mask))


def _add_up(days: list[int]) -> list[int]:
    """Return the sums of all bit columns at once: item *k* holds bit *k* of every sum."""
    planes: list[int] = []
    for carry in days:
        for place, plane in enumerate(planes):
            planes[place], carry = plane ^ carry, plane & carry
            if not carry:
                break
        if carry:
            planes.append(carry)
    return planes


def _active_days(store: Store, metric: str) -> list[int]:
    """Return for each user or org, deleted ones included, the active days as bits since the first day."""
    if metric == "signups":
        moments = [user.wire["created_at"] for user in store.all_users.values()]
    elif metric == "orgs_created":
        moments = [org.created_at for org in store.all_orgs.values()]
    elif metric == "active_users":
        return [user.activity for user in store.all_users.values()]
    else:
        return list(_org_activity(store).values())
    return [1 << moment // DAY - store.first_day for moment in moments]


def _org_activity(store: Store) -> dict[str, int]:
    """Return by org_id the days on which a member was active."""

    def build() -> dict[str, int]:
        activity = dict.fromkeys(store.all_orgs, 0)
        present = (m for members in store.of_org.values() for m in members.values())
        for membership in (*present, *store.past_memberships):
            joined = membership.joined_at // DAY - store.first_day
            left = (membership.left_at or store.now) // DAY - store.first_day
            window = (1 << left + 1) - (1 << joined)
            activity[membership.org_id] |= store.all_users[membership.user_id].activity & window
        return activity

    return store.cached("org activity", build)


def _periods(cadence: str, start: date, end: date) -> Iterator[tuple[date, date]]:
    """Yield the first day of each period and the first day after it."""
    if cadence == "Weekly":
        start -= timedelta(days=start.weekday())
    elif cadence == "Monthly":
        start = start.replace(day=1)
    while start <= end:
        if cadence == "Monthly":
            following = (start + timedelta(days=31)).replace(day=1)
        else:
            following = start + timedelta(days=7 if cadence == "Weekly" else 1)
        yield start, following
        start = following


def _users_reported(store: Store, report_type: str, days: int) -> Iterator[tuple[str, dict[str, Any]]]:
    if report_type == "churn":
        for user_id, user in store.users.items():
            if user.wire["last_active_at"] <= store.now - days * DAY:
                yield user_id, {}
    elif report_type == "reengagement":
        for user_id, user in store.users.items():
            if _is_reengaged(store, user.activity, days):
                yield user_id, {}
    elif report_type == "champion":
        recent = _last_days(store, days)
        users = store.users.items()
        counts = Counter({user_id: (u.activity & recent).bit_count() for user_id, u in users})
        yield from _ranked(counts, "num_active_days", LEADERBOARD_SIZE)
    else:
        yield from _ranked(_invitations(store, days), "num_invites", LEADERBOARD_SIZE)


def _orgs_reported(store: Store, report_type: str, days: int) -> Iterator[tuple[str, dict[str, Any]]]:
    since = store.now - days * DAY
    if report_type == "churn":
        for org_id, members in store.of_org.items():
            seen = [store.users[user_id].wire["last_active_at"] for user_id in members]
            if seen and max(seen) <= since:
                yield org_id, {}
    elif report_type == "reengagement":
        for org_id in store.orgs:
            if _is_reengaged(store, _org_activity(store)[org_id], days):
                yield org_id, {}
    elif report_type == "growth":
        present = (m for members in store.of_org.values() for m in members.values())
        joined = Counter(m.org_id for m in present if m.joined_at > since)
        yield from _ranked(joined, "num_users_joined")
    else:
        past = (m for m in store.past_memberships if m.org_id in store.orgs)
        left = Counter(m.org_id for m in past if (m.left_at or 0) > since)
        yield from _ranked(left, "num_users_left")


def _invitations(store: Store, days: int) -> Counter[str]:
    """Return by present user the number of pending invites and of members who joined by an invitation."""
    since = store.now - days * DAY
    inviters = [i["inviter_user_id"] for i in store.invites if i["created_at"] > since]
    inviters += [event.inviter_id for event in store.history if event.at > since]
    return Counter(user_id for user_id in inviters if user_id in store.users)


def _ranked(counts: Counter[str], name: str, size: int | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield keys by descending count, with the count as an extra property called ``name``."""
    for key, count in counts.most_common(size):
        if count:
            yield key, {name: count}


def _is_reengaged(store: Store, activity: int, days: int) -> bool:
    """Return whether there was activity in the last ``days``, none in as many days before, and some earlier."""
    recent = _last_days(store, days)
    quiet = recent >> days
    earlier = activity & ~recent & ~quiet
    return bool(activity & recent) and not activity & quiet and bool(earlier)


def _last_days(store: Store, days: int) -> int:
    """Return the bits of the last ``days`` days, today included."""
    today = store.now // DAY - store.first_day
    return ((1 << days) - 1) << today + 1 - days


def _report_id(store: Store, name: str) -> str:
    """Return the id of a computed report."""
    return draw_uuid(Random(f"{store.seed} {name} {store.now}"))  # noqa: S311 - no secret


def _user_row(store: Store, user: User, report_id: str, extra: dict[str, Any]) -> dict[str, Any]:
    orgs = [
        {
            "display_name": store.orgs[org_id].wire["name"],
            "org_id": org_id,
            "user_role": membership.role,
        }
        for org_id, membership in store.of_user[user.user_id].items()
    ]
    optional = ("username", "first_name", "last_name")
    return {
        "id": report_id[:19] + user.user_id[19:],
        "report_id": report_id,
        "user_id": user.user_id,
        "email": user.wire["email"],
        "user_created_at": user.wire["created_at"],
        "last_active_at": user.wire["last_active_at"],
        **{name: user.wire[name] for name in optional if name in user.wire},
        "org_data": orgs or None,
        "extra_properties": extra,
    }


def _org_row(store: Store, org: Org, report_id: str, extra: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": report_id[:19] + org.org_id[19:],
        "report_id": report_id,
        "org_id": org.org_id,
        "name": org.wire["name"],
        "num_users": len(store.of_org[org.org_id]),
        "org_created_at": org.created_at,
        "extra_properties": extra,
    }


def _day_number(day: date) -> int:
    """Return the number of days since 1970."""
    return (day - date(1970, 1, 1)).days
