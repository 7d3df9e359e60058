"""The queries of the README's "What you can ask", as they stand there, against what happened in the sandbox."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest

from propel_assets.marts.runner import connected_dbt
from propel_assets.sandbox.running import Sandbox
from propel_assets.sandbox.seed import Event
from propel_assets.sandbox.store import Store
from propel_assets.settings import load_settings
from propel_assets.warehouse.load import load_scan

DAY = 86_400
SECTION = (Path(__file__).parents[2] / "README.md").read_text().split("\n## What you can ask\n")[1].split("\n## ")[0]
QUESTIONS = dict(re.findall(r"\*\*(.+?)\*\*\n\n```sql\n(.*?)```", SECTION, re.DOTALL))


@dataclass(frozen=True)
class Life:
    """Two loads, and what happened between them."""

    store: Store
    answers: dict[str, list[tuple]]
    as_of: float
    """The last reading of users, Unix seconds."""
    members_before: set[tuple[str, str, str]]
    edited: set[str]
    happened: list[Event]


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    file = tmp_path_factory.mktemp("questions") / "propel_auth_pipeline.duckdb"
    today = datetime.now(UTC).date()
    with pytest.MonkeyPatch.context() as patch, Sandbox(users=120, orgs=10, seed=7, now=today) as sandbox:
        patch.setenv("DESTINATION__DUCKDB__CREDENTIALS", str(file))
        settings = load_settings({"auth_url": sandbox.url, "api_key": sandbox.api_key})
        store = sandbox.store

        def load() -> None:
            for scan in ("users", "orgs", "invites", "end_user_api_keys"):
                load_scan(scan, settings)
            with connected_dbt(settings) as dbt:
                asked = ("+dim_user", "+bridge_membership", "fct_security_posture", "fct_api_keys")
                assert dbt.run("build", "--select", *asked).broken == {}

        load()
        between = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
        members = {(m.user_id, m.org_id, m.role) for them in store.of_org.values() for m in them.values()}
        known = len(store.history)
        edited = _live(store)
        load()
        with duckdb.connect(str(file), read_only=True) as db:
            db.execute("SET TimeZone = 'UTC'")
            answers = {
                question: db.execute(re.sub(r"current_date - \d+", f"TIMESTAMP '{between}'", sql)).fetchall()
                for question, sql in QUESTIONS.items()
            }
            [(as_of,)] = db.execute("SELECT DISTINCT as_of FROM propel_auth_marts.dim_user").fetchall()
        yield Life(store, answers, as_of.timestamp(), members, edited, store.history[known:])


def _live(store: Store) -> set[str]:
    """Let people sign up, leave, be deleted and change roles; return who was edited."""
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
    return {edited, owner}


def ids(rows: list[tuple], width: int = 1) -> set:
    """Return the first columns of the rows, each combination of which must be there once."""
    found = [row[:width] for row in rows]
    assert len(found) == len(set(found))
    return {row[0] for row in found} if width == 1 else set(found)


def pairs(life: Life, kind: str) -> set[tuple[str | None, str | None]]:
    return {(event.user_id, event.org_id) for event in life.happened if event.kind == kind}


def test_there_are_ten_questions_and_each_has_an_answer(life) -> None:
    assert len(QUESTIONS) == 10
    assert {question for question, rows in life.answers.items() if not rows} == set()


def test_who_signed_up(life) -> None:
    gone = {event.user_id for event in life.happened if event.kind == "deleted"}
    known = {*life.store.users, *gone}
    since = life.as_of - 30 * DAY
    truth = {u for u in known if life.store.all_users[u].wire["created_at"] > since}
    assert ids(life.answers["Who signed up in the last 30 days?"]) == truth


def test_who_is_active(life) -> None:
    truth = {u for u, user in life.store.users.items() if user.wire["last_active_at"] > life.as_of - 7 * DAY}
    assert ids(life.answers["Who is active?"]) == truth


def test_who_grows_or_fades(life) -> None:
    before = {org_id: sum(org == org_id for _, org, _ in life.members_before) for org_id in life.store.orgs}
    now = {org_id: len(them) for org_id, them in life.store.of_org.items()}
    found = {org_id: counts for org_id, *counts in life.answers["Which customers grow or fade?"]}
    assert found == {org_id: [now[org_id], before[org_id]] for org_id in now if now[org_id] or before[org_id]}
    assert now != before


def test_who_fills_a_seat_without_using_it(life) -> None:
    idle = {u for u, user in life.store.users.items() if user.wire["last_active_at"] < life.as_of - 90 * DAY}
    truth = {(u, org_id) for u in idle for org_id in life.store.of_user[u]}
    assert ids(life.answers["Who fills a seat without using it?"], 2) == truth


def test_what_changed(life) -> None:
    found = dict(life.answers["What changed since yesterday?"])
    signed_up = {user_id for user_id, _ in pairs(life, "signed_up")}
    deleted = {user_id for user_id, _ in pairs(life, "deleted")}
    assert {u for u, what in found.items() if what == "new"} == signed_up
    assert {u for u, what in found.items() if what == "gone"} == deleted
    assert {u for u, what in found.items() if what == "changed"} == life.edited


def test_who_left(life) -> None:
    deleted = {user_id for user_id, _ in pairs(life, "deleted")}
    with_them = {(u, org_id) for u, org_id, _ in life.members_before if u in deleted}
    assert ids(life.answers["Who left?"], 2) == pairs(life, "left_org") | with_them


def test_whose_role_changed(life) -> None:
    truth = {(e.user_id, e.org_id, e.previous_role, e.role) for e in life.happened if e.kind == "role_changed"}
    assert ids(life.answers["Whose role changed?"], 4) == truth


def test_who_was_there(life) -> None:
    assert ids(life.answers["Who was in which org last Tuesday?"], 3) == life.members_before


def test_second_factors(life) -> None:
    truth = {}
    for org_id, them in {"all": life.store.users, **life.store.of_org}.items():
        enabled = [u for u in them if life.store.users[u].wire["enabled"]]
        if them:
            truth[org_id] = (len(enabled), sum(life.store.users[u].wire["mfa_enabled"] for u in enabled))
    found = {row[0]: row[2:4] for row in life.answers["How many use a second factor?"]}
    assert found == truth


def test_keys_to_look_after(life) -> None:
    soon = range(int(life.as_of), int(life.as_of) + 30 * DAY + 1)
    truth = set()
    for key_id, key in life.store.api_keys.items():
        user, end = life.store.users.get(key.wire["user_id"]), key.wire["expires_at_seconds"]
        orphan = key.wire["user_id"] is not None and not (user and user.wire["enabled"])
        if key.archived_at is None and (end is None or end > life.as_of) and (orphan or end in soon):
            truth.add(key_id)
    assert ids(life.answers["Which API keys are about to expire, or belong to nobody?"]) == truth
