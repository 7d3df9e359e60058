"""The seeded state: the same bytes from the same numbers, realistic users, and history, reports and state that agree.

The truth is the history. State, charts and reports must follow from it, when seeded and after every
change.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from random import Random
from statistics import median

import pytest

from propel_assets.sandbox import insights
from propel_assets.sandbox.store import Store

DAY = 86_400
NOW = date(2026, 11, 24)


def build(users: int = 2500, orgs: int = 120, seed: int = 1, now: date = NOW) -> Store:
    return Store(seed=seed, now=now, users=users, orgs=orgs)


def digest(store: Store) -> str:
    """Hash every response that the store can give."""
    everything = {
        "users": [store.user_object(user_id, include_orgs=True) for user_id in store.users],
        "details": [
            (user.signup_query_parameters, user.mfa_setup, user.social_provider) for user in store.users.values()
        ],
        "orgs": [(org.wire, org.created_at) for org in store.orgs.values()],
        "invites": store.invites,
        "keys": [(key.wire, key.archived_at) for key in store.api_keys.values()],
        "groups": [(group.wire, group.member_ids) for group in store.groups.values()],
        "employees": store.employees,
        "history": [repr(event) for event in store.history],
        "churn": insights.user_report(store, "churn", "7"),
        "active": insights.chart_metrics(store, "active_orgs", "Weekly", NOW - timedelta(days=90), NOW),
    }
    return hashlib.sha256(json.dumps(everything).encode()).hexdigest()


# Determinism


def test_the_same_numbers_give_the_same_bytes_whatever_the_hash_seed() -> None:
    code = "import test_seed; print(test_seed.digest(test_seed.build(200, 12)))"
    folder = str(Path(__file__).parent)
    path = os.pathsep.join([folder, *sys.path])
    for hash_seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": path}
        command = [sys.executable, "-c", code]
        other = subprocess.run(command, check=True, capture_output=True, text=True, env=env)
        assert other.stdout.strip() == digest(build(200, 12))


@pytest.mark.parametrize(
    "other",
    [{"seed": 2}, {"users": 201}, {"orgs": 13}, {"now": NOW + timedelta(days=1)}],
    ids=lambda other: next(iter(other)),
)
def test_another_number_gives_other_bytes(other) -> None:
    assert digest(build(**{"users": 200, "orgs": 12} | other)) != digest(build(200, 12))


@pytest.mark.parametrize(("users", "orgs"), [(0, 0), (0, 5), (1, 0), (1, 1), (10, 3), (2500, 120)])
def test_the_store_has_the_requested_numbers_of_users_and_orgs(users, orgs) -> None:
    store = build(users, orgs)
    assert (len(store.users), len(store.orgs)) == (users, orgs)
    assert_history_explains(store)
    assert_insights_agree(store)


# The users


@pytest.fixture(scope="module")
def crowd() -> Store:
    """The default sandbox, which tests only read."""
    return build()


def test_sign_ups_grow_and_are_mostly_on_weekdays(crowd) -> None:
    signed_up = [user.wire["created_at"] for user in crowd.users.values()]
    first_year = sum(at < crowd.now - 365 * DAY for at in signed_up)
    assert first_year < len(signed_up) - first_year
    weekdays = Counter(datetime.fromtimestamp(at, UTC).weekday() for at in signed_up)
    assert max(weekdays[5], weekdays[6]) < min(weekdays[day] for day in range(5))
    assert max(signed_up) <= crowd.now
    quarter = insights.chart_metrics(crowd, "active_users", "Daily", NOW - timedelta(days=90), NOW - timedelta(days=1))
    active = Counter()
    for point in quarter:
        active[date.fromisoformat(point["date"]).weekday()] += point["result"]
    assert max(active[5], active[6]) < min(active[day] for day in range(5))


def test_imports_tie_across_pages_and_only_late_ones_have_legacy_ids(crowd) -> None:
    users = [user.wire for user in crowd.sorted_users("CREATED_AT_ASC")]
    ties = Counter(user["created_at"] for user in users)
    assert max(ties.values()) > 100
    boundaries = range(99, len(users) - 1, 100)
    assert any(users[i]["created_at"] == users[i + 1]["created_at"] for i in boundaries)
    first = next(i for i, user in enumerate(users) if "legacy_user_id" in user)
    assert first > 1000
    first = next(i for i, user in enumerate(users) if "theme" in user["properties"])
    assert first > 1000


def test_orgs_have_a_long_tail_and_some_are_empty(crowd) -> None:
    sizes = [len(members) for members in crowd.of_org.values()]
    assert max(sizes) > 10 * median(sizes) > 50
    assert 0 in sizes
    assert any(not orgs for orgs in crowd.of_user.values())
    assert any(len(orgs) > 3 for orgs in crowd.of_user.values())
    assert 1.2 < sum(sizes) / len(crowd.users) < 1.8
    for org_id, members in crowd.of_org.items():
        assert len(members) <= crowd.orgs[org_id].wire.get("max_users", len(members))
    owners = Counter(m.role for members in crowd.of_org.values() for m in members.values())
    assert owners["Owner"] < owners["Admin"] + owners["Member"]


def test_every_kind_of_user_exists(crowd) -> None:
    users = [user.wire for user in crowd.users.values()]
    for name in ("enabled", "locked", "mfa_enabled", "email_confirmed", "has_password"):
        assert {user[name] for user in users} == {True, False}, name
    properties = [user["properties"] for user in users]
    for awkward in ("select", "a.b", "metadata"):
        assert any(awkward in props for props in properties)
    assert any("\n" in props.get("notes", "") for props in properties)
    text = json.dumps(users, ensure_ascii=False)
    for script in ("Ł", "Д", "王", "さ", "민", "م", "נ", "अ", "ธ", "🦊", "O'Brien", '\\"'):
        assert script in text, script
    emails = [user["email"] for user in users]
    assert len(set(emails)) == len(emails)
    assert any(not email.isascii() for email in emails)
    # .example and .test are reserved (RFC 2606)
    assert {email.rpartition(".")[2] for email in emails} == {"example"}


def test_activity_follows_sign_up(crowd) -> None:
    for user in crowd.users.values():
        assert user.wire["created_at"] <= user.wire["last_active_at"] <= crowd.now
        first = user.wire["created_at"] // DAY - crowd.first_day
        last = user.wire["last_active_at"] // DAY - crowd.first_day
        assert user.activity.bit_length() - 1 == last
        assert user.activity & -user.activity == 1 << first


# Agreement of history, reports and state


def assert_history_explains(store: Store) -> None:
    """Replay the history by hand and compare with the state."""
    users: set[str | None] = set()
    orgs: set[str | None] = set()
    roles: dict[tuple[str | None, str | None], tuple[str | None, tuple[str, ...]]] = {}
    assert all(a.at <= b.at for a, b in pairwise(store.history))
    for event in store.history:
        pair = (event.user_id, event.org_id)
        match event.kind:
            case "signed_up":
                users.add(event.user_id)
            case "org_created":
                orgs.add(event.org_id)
            case "deleted":
                users.remove(event.user_id)
                roles = {key: role for key, role in roles.items() if key[0] != event.user_id}
            case "org_deleted":
                orgs.remove(event.org_id)
                roles = {key: role for key, role in roles.items() if key[1] != event.org_id}
            case "joined_org":
                assert event.user_id in users
                assert event.org_id in orgs
                assert pair not in roles
                roles[pair] = (event.role, event.additional_roles)
            case "role_changed":
                assert roles[pair][0] == event.previous_role
                roles[pair] = (event.role, event.additional_roles)
            case "left_org":
                del roles[pair]
    assert store.now >= (store.history[-1].at if store.history else 0)
    assert users == set(store.users)
    assert orgs == set(store.orgs)
    assert roles == {
        (user_id, org_id): (member.role, member.additional_roles)
        for user_id, memberships in store.of_user.items()
        for org_id, member in memberships.items()
    }
    assert {(m.user_id, m.org_id) for ms in store.of_org.values() for m in ms.values()} == set(roles)


def assert_insights_agree(store: Store) -> None:
    """Compare charts and reports with users and history."""
    first = datetime.fromtimestamp(store.first_day * DAY, UTC).date()
    today = datetime.fromtimestamp(store.now, UTC).date()

    def chart(metric: str, cadence: str) -> dict[str, int]:
        points = insights.chart_metrics(store, metric, cadence, first, today)
        return {point["date"]: point["result"] for point in points}

    everyone = [user.wire for user in store.all_users.values()]
    created = Counter(str(_day(user["created_at"])) for user in everyone)
    assert {day: n for day, n in chart("signups", "Daily").items() if n} == created
    for metric, total in (("signups", len(everyone)), ("orgs_created", len(store.all_orgs))):
        for cadence in insights.CADENCES:
            assert sum(chart(metric, cadence).values()) == total
    daily = chart("active_users", "Daily")
    seen = Counter(str(_day(user["last_active_at"])) for user in everyone)
    assert all(count <= daily[day] for day, count in seen.items())
    assert daily[str(today)] == seen[str(today)]
    for metric in ("active_users", "active_orgs"):
        per_day = chart(metric, "Daily")
        for week, count in chart(metric, "Weekly").items():
            days = [str(date.fromisoformat(week) + timedelta(days=i)) for i in range(7)]
            counts = [per_day.get(day, 0) for day in days]
            assert max(counts) <= count <= sum(counts)
    for interval, days in insights.CHURN.items():
        gone = {row["user_id"] for row in insights.user_report(store, "churn", interval)}
        assert gone == {
            user_id for user_id, user in store.users.items() if user.wire["last_active_at"] <= store.now - days * DAY
        }
        quiet = {row["org_id"] for row in insights.org_report(store, "churn", interval)}
        assert quiet == {org_id for org_id, members in store.of_org.items() if members and set(members) <= gone}
    for interval, days in insights.LONG.items():
        joined, left = _joined_and_left(store, store.now - days * DAY)
        growth = insights.org_report(store, "growth", interval)
        assert {row["org_id"]: row["extra_properties"]["num_users_joined"] for row in growth} == {
            org_id: n for org_id, n in joined.items() if org_id in store.orgs
        }
        attrition = insights.org_report(store, "attrition", interval)
        assert {row["org_id"]: row["extra_properties"]["num_users_left"] for row in attrition} == {
            org_id: n for org_id, n in left.items() if org_id in store.orgs
        }
        champions = insights.user_report(store, "champion", interval)
        counts = [row["extra_properties"]["num_active_days"] for row in champions]
        assert counts == sorted(counts, reverse=True)
    reengaged = {row["user_id"] for row in insights.user_report(store, "reengagement", "Weekly")}
    assert all(store.users[u].wire["last_active_at"] > store.now - 7 * DAY for u in reengaged)


def _day(at: int) -> date:
    return datetime.fromtimestamp(at, UTC).date()


def _joined_and_left(store: Store, since: int) -> tuple[Counter[str], Counter[str]]:
    """Count by org_id the present members who joined since then, and those who left since then."""
    joined = Counter(
        member.org_id for members in store.of_org.values() for member in members.values() if member.joined_at > since
    )
    left = Counter(m.org_id for m in store.past_memberships if m.left_at and m.left_at > since)
    return joined, left


def test_the_seeded_history_explains_the_state(crowd) -> None:
    assert_history_explains(crowd)
    kinds = Counter(event.kind for event in crowd.history)
    assert kinds["signed_up"] == 2500 + kinds["deleted"]
    assert min(kinds.values()) > 5
    assert len(kinds) == 7


def test_the_seeded_insights_agree_with_the_users(crowd) -> None:
    assert_insights_agree(crowd)
    for report_type, intervals in insights.USER_REPORTS.items():
        assert all(insights.user_report(crowd, report_type, interval) for interval in intervals)
    for report_type in ("growth", "attrition"):
        assert insights.org_report(crowd, report_type, "30")
    assert insights.org_report(crowd, "reengagement", "Monthly")
    assert insights.org_report(crowd, "churn", "7")


def test_an_org_is_active_only_while_its_active_users_are_members() -> None:
    store = build(10, 0)
    user_id, org_id = store.add_user(), store.add_org()
    for step in ("before", "member", "after"):
        store.advance(days=1)
        if step == "member":
            store.add_membership(user_id, org_id)
        elif step == "after":
            store.remove_membership(user_id, org_id)
            store.advance(days=1)
        store.touch_user(user_id)
    points = insights.chart_metrics(store, "active_orgs", "Daily", NOW + timedelta(days=1), NOW + timedelta(days=4))
    assert [point["result"] for point in points] == [0, 1, 0, 0]


@pytest.mark.parametrize("seed", range(5))
def test_history_reports_and_state_agree_after_any_changes(seed) -> None:
    store = build(120, 10, seed)
    rng = Random(seed)
    for _ in range(80):
        _change_something(store, rng)
    assert_history_explains(store)
    assert_insights_agree(store)
    members = {org_id: set(members) for org_id, members in store.of_org.items()}
    for group in store.groups.values():
        assert set(group.member_ids) <= members[group.org_id]
    for key in store.api_keys.values():
        assert key.wire["user_id"] in {None, *store.users}
        assert key.wire["org_id"] in {None, *store.orgs}
    for invite in store.invites:
        assert invite["org_id"] in store.orgs
        assert invite["inviter_user_id"] in {None, *store.users}


def _change_something(store: Store, rng: Random) -> None:
    user_id, org_id = rng.choice(list(store.users)), rng.choice(list(store.orgs))
    member = user_id in store.of_org[org_id]
    match rng.randrange(9):
        case 0:
            store.add_user()
        case 1:
            store.delete_user(user_id)
        case 2:
            store.add_org()
        case 3 if len(store.orgs) > 3:
            store.delete_org(org_id)
        case 4 | 5 if not member:
            store.add_membership(user_id, org_id)
        case 6 if member:
            store.remove_membership(user_id, org_id)
        case 7 if member:
            store.change_role(user_id, org_id, "Owner")
        case 8:
            store.advance(days=1)
            store.touch_user(user_id)


def test_impossible_changes_are_refused() -> None:
    store = build(10, 3)
    user_id, org_id = store.add_user(), store.add_org()
    store.add_membership(user_id, org_id)
    with pytest.raises(ValueError, match="already"):
        store.add_membership(user_id, org_id)
    with pytest.raises(ValueError, match="has the roles"):
        store.change_role(user_id, org_id, "Emperor")
    with pytest.raises(ValueError, match="within the history"):
        store.update_user(user_id, last_active_at=0)
    with pytest.raises(KeyError):
        store.delete_user("nobody")
    assert_history_explains(store)


@pytest.mark.parametrize("seed", [1, 3, 5])
def test_nothing_in_the_sandbox_is_later_than_its_clock(seed) -> None:
    store = Store(seed=seed, now=date(2026, 11, 24), users=600, orgs=40)
    today = store.now // DAY - store.first_day
    times = [event.at for event in store.history]
    for user in store.all_users.values():
        times += [user.wire["created_at"], user.wire["last_active_at"]]
        assert user.activity >> (today + 1) == 0
    times += [org.created_at for org in store.all_orgs.values()]
    times += [invite["created_at"] for invite in store.invites]
    times += [time for key in store.api_keys.values() for time in (key.wire["created_at"], key.archived_at) if time]
    assert max(times) <= store.now
