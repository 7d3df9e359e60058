"""The queries under "Questions" in docs/marts.md, compared with what happened in the sandbox."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pytest
from dlt.common.time import increasing_precise_time

from propel_assets.sandbox.roles import member_info
from propel_assets.sandbox.running import Sandbox
from propel_assets.sandbox.seed import Event
from propel_assets.sandbox.store import Store
from propel_assets.settings import load_settings
from propel_assets_tests.marts.conftest import Simulation

DAY = 86_400
SECTION = (Path(__file__).parents[2] / "docs" / "marts.md").read_text().split("\n## Questions\n")[1].split("\n## ")[0]
QUESTIONS = dict(re.findall(r"^\*\*(.+?)\*\*(?:(?!```).)*?\n\n```sql\n(.*?)```", SECTION, re.DOTALL | re.MULTILINE))


@dataclass(frozen=True)
class Life:
    """Two loads, 29 days apart, and what happened between them.

    ``first_answers`` are those after the first load, ``as_of`` is the time of the second one in Unix seconds.
    """

    store: Store
    first_answers: dict[str, list[tuple]]
    answers: dict[str, list[tuple]]
    as_of: float
    members_before: set[tuple[str, str, str]]
    happened: list[Event]


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    file = tmp_path_factory.mktemp("questions") / "propel_auth_pipeline.duckdb"
    scans = ("users", "orgs", "invites", "end_user_api_keys")
    select = (
        "+bridge_membership",
        "+dim_user",
        "+fct_org_health",
        "+fct_membership_spells",
        "fct_user_changes",
        "fct_security_posture",
        "fct_user_security_daily",
        "+fct_signups_daily",
    )
    with pytest.MonkeyPatch.context() as patch, Sandbox(users=120, orgs=10, seed=7) as sandbox:
        patch.setattr(increasing_precise_time, "_last", increasing_precise_time._last)
        patch.setenv("DESTINATION__DUCKDB__CREDENTIALS", str(file))
        simulation = Simulation(
            sandbox, load_settings({"auth_url": sandbox.url, "api_key": sandbox.api_key}), scans, select
        )
        store = sandbox.store

        def answer() -> dict[str, list[tuple]]:
            found = []
            for zone in ("America/Los_Angeles", "Pacific/Kiritimati"):
                with duckdb.connect(str(file), read_only=True) as db:
                    db.execute(f"SET TimeZone = '{zone}'")
                    found.append({name: sorted(db.execute(sql).fetchall(), key=str) for name, sql in QUESTIONS.items()})
            assert found[0] == found[1], "an answer depends on the time zone of the session"
            return found[0]

        simulation.load()
        first_answers = answer()
        members = {(m.user_id, m.org_id, m.role) for them in store.of_org.values() for m in them.values()}
        known = len(store.history)
        simulation.wait(days=29)
        _live(store)
        second = simulation.load()
        simulation.check()
        yield Life(store, first_answers, answer(), second.timestamp(), members, store.history[known:])


def _live(store: Store) -> None:
    """Sign up, delete and edit users, end memberships, change roles."""
    leaver, climber, doomed, edited, *_ = [user_id for user_id, orgs in store.of_user.items() if orgs]
    store.remove_membership(leaver, next(iter(store.of_user[leaver])))
    for org_id, membership in store.of_user[climber].items():
        roles = {m.role for m in store.of_org[org_id].values()} - {membership.role}
        if roles:
            store.change_role(climber, org_id, min(roles))
            break
    store.delete_user(doomed)
    store.add_membership(store.add_user(), next(iter(store.orgs)))
    store.update_user(edited, mfa_enabled=not store.users[edited].wire["mfa_enabled"])
    owner = next(key.wire["user_id"] for key in store.api_keys.values() if key.wire["user_id"] and not key.archived_at)
    store.update_user(owner, enabled=not store.users[owner].wire["enabled"])


def ids(rows: list[tuple], width: int = 1) -> set:
    """Return the first columns of the rows, each combination of which must be there once."""
    found = [row[:width] for row in rows]
    assert len(found) == len(set(found))
    return {row[0] for row in found} if width == 1 else set(found)


def pairs(life: Life, kind: str) -> set[tuple[str | None, str | None]]:
    return {(event.user_id, event.org_id) for event in life.happened if event.kind == kind}


def test_each_question_has_an_answer(life) -> None:
    assert len(QUESTIONS) == 14
    assert {question for question, rows in life.answers.items() if not rows} == set()


def test_after_the_first_load_no_answer_pretends_to_have_history(life) -> None:
    first = life.first_answers
    assert {row[3] for row in first["Which customers grow or shrink?"]} == {None}
    assert first["What did the loads of the last 24 hours show?"] == []
    assert first["Who left?"] == []
    assert first["Whose role changed?"] == []
    assert first["Who was in which org a week ago?"] == [(None, None, None, None, None, "no history yet")]


def test_who_signed_up(life) -> None:
    gone = {event.user_id for event in life.happened if event.kind == "deleted"}
    known = {*life.store.users, *gone}
    since = life.as_of - 30 * DAY
    truth = {u for u in known if life.store.all_users[u].wire["created_at"] > since}
    assert ids(life.answers["Who signed up in the last 30 days?"]) == truth


def test_who_is_active(life) -> None:
    truth = {u for u, user in life.store.users.items() if user.wire["last_active_at"] > life.as_of - 7 * DAY}
    assert ids(life.answers["Who is active?"]) == truth


def test_growing_and_shrinking_customers(life) -> None:
    before = {org_id: sum(org == org_id for _, org, _ in life.members_before) for org_id in life.store.orgs}
    now = {org_id: len(them) for org_id, them in life.store.of_org.items()}
    found = {org_id: (name, *counts) for org_id, name, *counts in life.answers["Which customers grow or shrink?"]}
    names = {org_id: org.wire["name"] for org_id, org in life.store.orgs.items()}
    assert found == {org_id: (names[org_id], now[org_id], now[org_id] - before[org_id], 29) for org_id in now}
    assert now != before


def test_idle_seats(life) -> None:
    idle = {u for u, user in life.store.users.items() if user.wire["last_active_at"] < life.as_of - 90 * DAY}
    truth = {(u, org_id) for u in idle for org_id in life.store.of_user[u]}
    assert ids(life.answers["Who occupies a seat without using it?"], 2) == truth


def test_what_changed(life) -> None:
    changes = {"signed_up": set(), "deleted": set(), "left_org": set(), "joined_org": set()}
    for user_id, change, *_ in life.answers["What did the loads of the last 24 hours show?"]:
        changes.setdefault(change, set()).add(user_id)
    for kind in ("signed_up", "deleted", "joined_org", "role_changed"):
        assert changes[kind] == {user_id for user_id, _ in pairs(life, kind)}, kind
    gone = {user_id for user_id, _ in pairs(life, "deleted")}
    assert changes["left_org"] == {user_id for user_id, _ in pairs(life, "left_org")} | {
        user_id for user_id, _, _ in life.members_before if user_id in gone
    }
    assert {*changes} & {"enabled", "disabled"}
    assert {*changes} & {"mfa_enabled", "mfa_disabled"}


def test_departed_members(life) -> None:
    deleted = {user_id for user_id, _ in pairs(life, "deleted")}
    with_them = {(u, org_id) for u, org_id, _ in life.members_before if u in deleted}
    rows = life.answers["Who left?"]
    assert ids(rows, 2) == pairs(life, "left_org") | with_them
    assert {(row[0], row[1]) for row in rows if row[6] == "user_deleted"} == with_them


def test_changed_roles(life) -> None:
    truth = {(e.user_id, e.org_id, e.previous_role, e.role) for e in life.happened if e.kind == "role_changed"}
    rows = [row for row in life.answers["Whose role changed?"] if not str(row[3]).startswith("[")]
    assert ids(rows, 4) == truth


def test_members_at_a_time(life) -> None:
    rows = life.answers["Who was in which org a week ago?"]
    assert ids(rows, 3) == life.members_before
    [read_at] = {row[4] for row in rows}  # the first load: there was none a week ago
    assert read_at.timestamp() < life.as_of - 28 * DAY


def test_seats_per_plan(life) -> None:
    plans: dict[str, list[str]] = {}
    for org_id, org in life.store.orgs.items():
        plans.setdefault((org.wire.get("metadata") or {}).get("plan", "none"), []).append(org_id)
    caps = {org_id: org.wire.get("max_users") for org_id, org in life.store.orgs.items()}
    found = {row[0]: row[1:] for row in life.answers["Seats per plan?"]}
    assert set(found) == set(plans) == {"pro", "none"}
    for plan, orgs in plans.items():
        capped = [org_id for org_id in orgs if caps[org_id]]
        seats = sum(caps[org_id] for org_id in capped) or None
        used = sum(len(life.store.of_org[org_id]) for org_id in capped) if capped else None
        assert found[plan] == (len(orgs), sum(len(life.store.of_org[o]) for o in orgs), len(capped), seats, used)


def test_second_factors(life) -> None:
    truth = {}
    for org_id, them in life.store.of_org.items():
        enabled = [u for u in them if life.store.users[u].wire["enabled"]]
        truth[org_id] = (len(enabled), sum(life.store.users[u].wire["mfa_enabled"] for u in enabled))
    found = {row[0]: row[2:4] for row in life.answers["Which customers use a second factor?"]}
    assert found == truth
    users = [user.wire for user in life.store.users.values() if user.wire["enabled"]]
    [(_, enabled, with_mfa, _)] = life.answers["How many use a second factor?"]
    assert (enabled, with_mfa) == (len(users), sum(user["mfa_enabled"] for user in users))


def test_sign_ups_per_week(life) -> None:
    gone = {event.user_id for event in life.happened if event.kind == "deleted"}
    signups = [life.store.all_users[user_id].wire["created_at"] for user_id in {*life.store.users, *gone}]
    days = [datetime.fromtimestamp(at, UTC).date() for at in signups]
    weeks = Counter(day - timedelta(days=day.weekday()) for day in days)
    found = {week: int(n) for week, n in life.answers["How many signed up per week?"] if n}
    last = datetime.fromtimestamp(life.as_of, UTC).date()
    assert found == {week: n for week, n in weeks.items() if week + timedelta(days=6) < last}


def test_who_may_change_roles(life) -> None:
    truth = {
        (m.user_id, org_id)
        for org_id, them in life.store.of_org.items()
        for m in them.values()
        if "propelauth::can_change_roles" in member_info(m, life.store.orgs[org_id])["user_permissions"]
    }
    assert ids(life.answers["Who may change roles?"], 2) == truth


def test_keys_that_expire_soon_or_have_lost_their_owner(life) -> None:
    soon = range(int(life.as_of), int(life.as_of) + 30 * DAY + 1)
    truth = set()
    for key_id, key in life.store.api_keys.items():
        owner, org_id, end = key.wire["user_id"], key.wire["org_id"], key.wire["expires_at_seconds"]
        user = life.store.users.get(owner)
        has_left = user is not None and org_id is not None and org_id not in life.store.of_user[owner]
        orphan = owner is not None and (user is None or not user.wire["enabled"] or has_left)
        if key.archived_at is None and (end is None or end > life.as_of) and (orphan or end in soon):
            truth.add(key_id)
    assert ids(life.answers["Which API keys expire soon, or have lost their owner?"]) == truth
