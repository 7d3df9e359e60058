"""The access review, line by line against what the sandbox knows, and byte for byte the same later."""

import csv
import io
import re
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
import time_machine
from click.testing import CliRunner

from propel_assets.catalog import END_USER_API_KEY_USAGE
from propel_assets.cli.main import main
from propel_assets.errors import WarehouseError
from propel_assets.marts.runner import open_dbt
from propel_assets.privacy.policy_file import load_policy
from propel_assets.reporting.access_review.build import ADMIN_ROLES, build_review
from propel_assets.reporting.access_review.files import CHANGED, EXCEPTIONS, KEYS, MEMBERS, PAGE, render_files
from propel_assets.reporting.access_review.model import AccessReview, ApiKey, ExceptionKind, Interval, Member
from propel_assets.sandbox.belongings import ApiKey as StoredKey
from propel_assets.sandbox.store import Store
from propel_assets.source.stream import ReadOptions
from propel_assets.warehouse.load import load_scan
from propel_assets.warehouse.query import open_warehouse
from propel_assets.webhooks.apply import load_events
from propel_assets.webhooks.store import WebhookStore
from propel_assets_tests.loads import load_scans
from propel_assets_tests.webhooks.conftest import received

SCANS = ("users", "orgs", "end_user_api_keys", "end_user_api_keys_archived")
SELECT = ("+audit_user_marts", "+fct_api_keys", "orgs_history", "org_loads")
FORMAT = "%Y-%m-%d %H:%M"
EMAIL = re.compile(r"[\w.+-]+@[\w-]+\.\w+")


def review_of(simulation: Any, as_of: date, since: date | None = None, **options: Any) -> AccessReview:
    target, privacy = simulation.settings.target, simulation.settings.privacy_settings
    with open_warehouse(target, load_policy(privacy)) as warehouse:
        return build_review(warehouse, target, as_of, since, **options)


def rows_of(files: dict[str, bytes], name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(files[name].decode(), newline="")))


def members_of(store: Store) -> dict[tuple[str, str], tuple[str, str, bool, bool, bool]]:
    """Return role, further roles and flags of each member, by org and user."""
    return {
        (org_id, user_id): (
            membership.role,
            ", ".join(membership.additional_roles),
            *(store.users[user_id].wire[name] for name in ("enabled", "locked", "mfa_enabled")),
        )
        for user_id, orgs in store.of_user.items()
        for org_id, membership in orgs.items()
    }


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_review_matches_the_sandbox_and_is_reproducible(simulate, tmp_path, monkeypatch) -> None:
    simulation = simulate(*SELECT, scans=SCANS)
    store: Store = simulation.store
    first = simulation.load()
    start = len(store.history)
    pairs = sorted((user, org) for user, orgs in store.of_user.items() for org in orgs)
    owner = next(
        (user_id, org_id)
        for user_id, org_id in pairs
        if store.of_user[user_id][org_id].role == "Owner" and store.orgs[org_id].role_mapping == "Default"
    )
    leaver, gone = (next(p for p in pairs[n:] if p[0] != owner[0]) for n in (1, len(pairs) - 3))
    simulation.wait(hours=1)
    newcomer = store.add_user()
    simulation.wait(hours=29)
    store.add_membership(newcomer, owner[1], "Admin")
    store.change_role(*owner, "Member")
    store.remove_membership(*leaver)
    store.update_user(owner[0], mfa_enabled=not store.users[owner[0]].wire["mfa_enabled"])
    store.update_user(newcomer, locked=True)
    key = store.add_api_key(user_id=gone[0])
    store.add_api_key()
    second = simulation.load()
    simulation.wait(hours=30)
    store.delete_user(gone[0])
    store.change_role(newcomer, owner[1], "Owner")
    store.touch_user(newcomer)
    third = simulation.load()
    truth, active = members_of(store), {u: user.wire["last_active_at"] for u, user in store.users.items()}
    history = list(store.history)[start:]
    roles = {pair: {role, *more.split(", ")} for pair, (role, more, *_) in truth.items()}
    as_of, since = third.date(), (first + timedelta(days=1)).date()
    with time_machine.travel(third + timedelta(days=1)):
        review = review_of(simulation, as_of, since)
        files = render_files(review)

    # Members: each row, and no other.
    rows = {(row["org_id"], row["user_id"]): row for row in rows_of(files, MEMBERS)}
    yes = {True: "yes", False: "no"}
    assert {
        pair: (row["role"], row["additional_roles"], row["enabled"], row["locked"], row["mfa_enabled"])
        for pair, row in rows.items()
    } == {pair: (role, more, *(yes[flag] for flag in flags)) for pair, (role, more, *flags) in truth.items()}
    for (org_id, user_id), row in rows.items():
        events = [e for e in store.history if (e.user_id, e.org_id) == (user_id, org_id)]
        role_at = max(e.at for e in events if e.kind in ("joined_org", "role_changed"))
        joined_at = max(e.at for e in events if e.kind == "joined_org")
        assert within(row, "role_since", role_at, first), (org_id, user_id)
        assert within(row, "member_since", joined_at, first), (org_id, user_id)
        assert row["through"].startswith(f"{row['role']}: assigned")
        assert row["last_active_day"] == str(datetime.fromtimestamp(active[user_id], UTC).date())

    # Changes: each event of the period, in an interval that contains it.
    kinds = {"joined_org": "joined", "left_org": "left", "role_changed": "role changed"}
    expected = [(str(e.org_id), str(e.user_id), kinds[e.kind], e.at) for e in history if e.kind in kinds]
    lost = next(e.at for e in history if e.kind == "deleted")
    expected += [(org_id, gone[0], "left", lost) for user_id, org_id in pairs if user_id == gone[0]]
    expected += [("", newcomer, "signed up", next(e.at for e in history if e.kind == "signed_up"))]
    expected += [("", gone[0], "deleted", lost)]
    changes = rows_of(files, CHANGED)
    found = {(c["org_id"], c["user_id"], c["change"]): c for c in changes}
    mfa = "second factor added" if store.users[owner[0]].wire["mfa_enabled"] else "second factor removed"
    assert sorted(found) == sorted([*(e[:3] for e in expected), ("", owner[0], mfa)])
    assert len(found) == len(changes)
    assert [(e, found[e[:3]]) for e in expected if not within(found[e[:3]], "changed", e[3], first)] == []
    assert (found[owner[1], owner[0], "role changed"]["old"], found[owner[1], owner[0], "role changed"]["new"]) == (
        "Owner",
        "Member",
    )

    # Exceptions.
    dormant = third.date() - timedelta(days=90)
    wanted = set()
    for (org_id, user_id), (_, _, enabled, locked, has_mfa) in truth.items():
        if locked or not enabled:
            wanted.add(("Disabled user with a role", org_id, user_id))
            continue
        is_admin = bool(roles[org_id, user_id] & {*ADMIN_ROLES})
        if is_admin and datetime.fromtimestamp(active[user_id], UTC).date() < dormant:
            wanted.add(("Dormant administrator", org_id, user_id))
        if not has_mfa:
            wanted.add(("Administrator without MFA" if is_admin else "Member without MFA", org_id, user_id))
    members = {org_id for org_id, _ in truth}
    wanted |= {
        ("Org without owner", org_id, "")
        for org_id in members
        if not any("Owner" in held for (other, _), held in roles.items() if other == org_id)
    }
    for api_key in (api_key for api_key in store.api_keys.values() if api_key.archived_at is None):
        user_id, org_id = api_key.wire["user_id"], api_key.wire["org_id"]
        is_orphan = not org_id if user_id is None else not store.users[user_id].wire["enabled"]
        if is_orphan or (user_id and org_id and org_id not in store.of_user[user_id]):
            wanted.add(("API key without owner", org_id or "", api_key.api_key_id))
    reported = {(e["exception"], e["org_id"], e["user_or_key_id"]) for e in rows_of(files, EXCEPTIONS)}
    assert reported == wanted
    assert key not in {row["api_key_id"] for row in rows_of(files, KEYS)}, "it was deleted with its user"
    assert ("Disabled user with a role", owner[1], newcomer) in reported

    # The cover.
    scans = {scan.table: scan for scan in review.scans}
    assert (scans["user_query"].proved, scans["user_query"].last_verdict) == (2, "proved")
    assert scans["user_query"].last_rows == len(store.users)
    assert review.loads == 2
    assert review.longest_gap is not None
    assert abs(review.longest_gap - (third - second)) < timedelta(minutes=5)
    assert not review.is_preliminary
    page = files[PAGE].decode()
    assert EMAIL.findall(page + "".join(f.decode() for f in files.values())) == []
    assert "http" not in page
    assert "<script" not in page
    assert "ids only" in page

    # Later loads and changes do not change it.
    simulation.wait(days=3)
    store.delete_user(owner[0])
    store.add_membership(leaver[0], leaver[1])
    store.update_org(owner[1], name="Renamed")
    gone_org, new_org = next(org for org in sorted(store.orgs) if org != owner[1]), store.add_org()
    store.delete_org(gone_org)
    last = simulation.load()
    with time_machine.travel(third + timedelta(days=9)):
        assert render_files(review_of(simulation, as_of, since)) == files
        named = render_files(review_of(simulation, as_of, since, with_names=True))
        assert {row["email"] for row in rows_of(named, MEMBERS)} & {u.wire["email"] for u in store.users.values()}
        one = review_of(simulation, as_of, since, org_ids=[owner[1]])
        assert [org.org_id for org in one.orgs] == [owner[1]]
        assert not one.user_changes
        assert review.unknown_changes == []
        early = review_of(simulation, as_of, since - timedelta(days=30))
        assert early.unknown_changes == [
            f"Changes before {first:%Y-%m-%d %H:%M} UTC are not known: it is the first load in the history."
        ]
        quiet = review_of(simulation, last.date() + timedelta(days=2), last.date() + timedelta(days=1))
        assert quiet.unknown_changes == [
            "Changes in this period are not known: no load in it can be compared with an earlier one."
        ]
        assert b"None." not in render_files(quiet)["review.html"].split(b"<h2>Orgs</h2>")[1]
        with pytest.raises(WarehouseError, match=f"The first load is of {first:%Y-%m-%d}"):
            review_of(simulation, first.date() - timedelta(days=1))
        with pytest.raises(WarehouseError, match=f"No org {new_org} or no-such-org is in the history up to the end of"):
            review_of(simulation, as_of, since, org_ids=[owner[1], "no-such-org", new_org])
        later = review_of(simulation, last.date(), since, org_ids=[gone_org, new_org])
        assert gone_org in {org.org_id for org in later.orgs}, "members left it in the period"
        assert not [member for org in later.orgs if org.org_id == gone_org for member in org.members]
        folder = tmp_path / "review"
        words = ["access-review", "--as-of", str(as_of), "--since", str(since), "--output", str(folder)]
        ran = CliRunner().invoke(main, words)
        assert ran.exit_code == 0, ran.output
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
        assert CliRunner().invoke(main, [*words[:3], "--since", "2027-01-01"]).exit_code == 2


def within(row: dict[str, str], name: str, at: int, first: datetime) -> bool:
    """Return whether the interval of a row contains a time; before the first load it has no lower bound."""
    true = datetime.fromtimestamp(at, UTC)
    after, before = row[f"{name}_after"], datetime.strptime(row[f"{name}_before"], FORMAT).replace(tzinfo=UTC)
    if not after:
        return true <= first and abs(before - first) < timedelta(minutes=5)
    lower = datetime.strptime(after, FORMAT).replace(tzinfo=UTC)
    return lower < true <= before + timedelta(minutes=1)


@pytest.mark.slow
def test_orgs_have_names_and_loads_of_events_are_no_scans(small_sandbox, small, build) -> None:
    for scan in ("users", "orgs", "end_user_api_keys", "end_user_api_keys_archived"):
        load_scan(scan, small)  # with the real clock: orgs are loaded after users
    with closing(WebhookStore(small.webhook_store)) as store:
        store.add([received({"event_type": "user.updated", "user_id": next(iter(small_sandbox.store.users))})])
    assert [load.results[0].rows_read for load in load_events(small)] == [1]
    build(small, *SELECT)
    with open_warehouse(small.target, load_policy(small.privacy_settings)) as warehouse:
        review = build_review(warehouse, small.target, datetime.now(UTC).date())
    assert {org.org_id: org.name for org in review.orgs} == {
        org_id: org.wire["name"] for org_id, org in small_sandbox.store.orgs.items()
    }
    assert {(scans.table, scans.proved, scans.counted) for scans in review.scans if "user" in scans.table} >= {
        ("user_query", 1, 0)
    }


@pytest.mark.slow
def test_a_key_is_unused_only_if_each_day_of_its_usage_is_loaded(simulate) -> None:
    simulation = simulate(*SELECT, "fct_api_key_usage_daily", scans=("users", "orgs", "end_user_api_keys_archived"))
    store: Store = simulation.store
    owner = {"user_id": None, "org_id": next(iter(store.orgs)), "expires_at_seconds": None, "metadata": None}
    unused, incomplete = "0" * 32, "0" * 31 + "1"
    for key_id in (unused, incomplete):
        store.api_keys[key_id] = StoredKey({"api_key_id": key_id, "created_at": store.now, **owner})

    def load_usage() -> None:
        with time_machine.travel(datetime.fromtimestamp(store.now, UTC)):
            load_scan("end_user_api_keys", simulation.settings)
            load_scan("api_key_usage", simulation.settings, options=ReadOptions(usage_per_key=True))

    def later_review_of(day: date) -> AccessReview:
        with time_machine.travel(datetime.fromtimestamp(store.now, UTC) + timedelta(days=1)):
            return review_of(simulation, day)

    def keys_and_notes() -> tuple[dict[str, ApiKey], str]:
        review = later_review_of(simulation.load().date())
        return {key.api_key_id: key for key in review.api_keys}, " ".join(review.notes)

    load_usage()
    simulation.wait(days=95)
    keys, notes = keys_and_notes()
    assert {key.validations for key in keys.values()} == {None}, "the usage ends before the 90 days"
    day = datetime.fromtimestamp(store.now, UTC).date()
    assert later_review_of(day).usage is None
    assert (
        f"not known: not loaded in the 7 days up to the end of {day}"
        in render_files(later_review_of(day))[PAGE].decode()
    )
    assert not any("not used" in exception.detail for key in keys.values() for exception in key.exceptions)
    assert f"The usage of {len(keys)} of {len(keys)} active API keys is not known" in notes

    load_usage()
    late = store.add_api_key()
    load_scan("end_user_api_keys", simulation.settings)
    with open_warehouse(simulation.settings.target, load_policy(simulation.settings.privacy_settings)) as warehouse:
        middle = datetime.fromtimestamp(store.now, UTC).date() - timedelta(days=40)
        usage = warehouse.table(END_USER_API_KEY_USAGE.name)
        warehouse.execute(f"DELETE FROM {usage} WHERE api_key_id = '{incomplete}' AND date = DATE '{middle}'")
    keys, notes = keys_and_notes()
    assert keys[unused].validations == 0
    first, last = day - timedelta(days=91), day - timedelta(days=2)
    assert (ExceptionKind.UNUSED_API_KEY, f"not used from {first} to {last}") in keys[unused].exceptions
    assert {key_id for key_id, key in keys.items() if key.validations is None} == {incomplete, late}
    assert f"The usage of 2 of {len(keys)} active API keys is not known" in notes

    # The days that the figures cover, and when they were loaded, in the data and on the page.
    review = later_review_of(day)
    files = render_files(review)
    assert review.usage is not None
    loaded_at = review.usage.loaded_at
    assert (review.usage.first, review.usage.last) == (first, last)
    assert abs(loaded_at - datetime.fromtimestamp(store.now, UTC)) < timedelta(minutes=5)
    rows = {row["api_key_id"]: row for row in rows_of(files, KEYS)}
    dates = "usage_from", "usage_to", "usage_loaded_at"
    assert [rows[unused][name] for name in dates] == [str(first), str(last), f"{loaded_at:{FORMAT}}"]
    assert [rows[late][name] for name in dates] == ["", "", ""]
    assert f"{first} to {last}, loaded {loaded_at:{FORMAT}} UTC" in files[PAGE].decode()
    with open_warehouse(simulation.settings.target, load_policy(simulation.settings.privacy_settings)) as warehouse:
        days = f"date BETWEEN DATE '{first}' AND DATE '{last}'"
        known = dict(warehouse.rows(f"SELECT api_key_id, sum(count) FROM {usage} WHERE {days} GROUP BY 1"))
    shown = {key.api_key_id: key.validations for key in review.api_keys if key.validations is not None}
    assert shown == {key_id: known[key_id] for key_id in {*keys} - {incomplete, late}}
    assert any(shown.values())

    # A later load reads the last days again, and the younger days of each key. It changes no byte.
    assert not review.is_preliminary
    simulation.wait(days=4)
    load_usage()
    simulation.load()
    assert render_files(later_review_of(day)) == files


@pytest.mark.slow
def test_a_review_is_preliminary_until_the_mart_has_the_last_load_of_usage(simulate) -> None:
    simulation = simulate(*SELECT, "fct_api_key_usage_daily", scans=SCANS)
    store: Store = simulation.store
    day = simulation.load().date()
    with time_machine.travel(datetime.fromtimestamp(store.now, UTC) + timedelta(minutes=30)):
        load_scan("api_key_usage", simulation.settings, options=ReadOptions(usage_per_key=True))
    with time_machine.travel(datetime.fromtimestamp(store.now, UTC) + timedelta(days=1)):
        assert review_of(simulation, day).is_preliminary
        with open_dbt(simulation.settings) as dbt:
            assert dbt.run("build", "--select", "fct_api_key_usage_daily").failed == {}
        assert not review_of(simulation, day).is_preliminary


def test_a_role_and_its_change_have_one_interval(small_sandbox, small, build) -> None:
    store: Store = small_sandbox.store
    user_id, org_id = next(
        (user_id, org_id)
        for user_id, orgs in store.of_user.items()
        for org_id in orgs
        if store.orgs[org_id].role_mapping == "Default"
    )
    role = "Admin" if store.of_user[user_id][org_id].role != "Admin" else "Member"

    load_scans(small, "users", "orgs", "end_user_api_keys", "end_user_api_keys_archived")
    build(small, *SELECT, run_tests=False)
    changed_after = datetime.now(UTC)
    store.change_role(user_id, org_id, role)
    with closing(WebhookStore(small.webhook_store)) as events:
        events.add(
            [
                received(
                    {
                        "event_type": "user.role_changed_within_org",
                        "user_id": user_id,
                        "org_id": org_id,
                        "new_role": role,
                    }
                )
            ]
        )
    list(load_events(small))
    changed_before = datetime.now(UTC)
    load_scan("users", small)
    build(small, *SELECT)
    with open_warehouse(small.target, load_policy(small.privacy_settings)) as warehouse:
        review = build_review(warehouse, small.target, datetime.now(UTC).date())
    (change,) = (c for org in review.orgs for c in org.changes)
    (member,) = (m for m in review.members() if (m.user_id, m.org_id) == (user_id, org_id))
    assert (change.change, change.new) == ("role changed", role)
    assert change.at == member.role_since
    assert change.at.after is not None
    assert change.at.after < changed_after < changed_before < change.at.before


@pytest.mark.slow
def test_a_later_load_of_users_does_not_change_the_owners_of_keys(simulate) -> None:
    simulation = simulate(*SELECT, scans=SCANS)
    store: Store = simulation.store
    owner, leaver, gone = sorted(u for u, user in store.users.items() if user.wire["enabled"] and store.of_user[u])[:3]
    org_id = min(store.of_user[leaver])
    keys = [store.add_api_key(user_id=owner), store.add_api_key(user_id=leaver, org_id=org_id)]
    keys.append(store.add_api_key(user_id=gone))
    day = simulation.load().date()
    with time_machine.travel(datetime.fromtimestamp(store.now, UTC) + timedelta(days=1)):
        review = review_of(simulation, day)
    assert not review.is_preliminary
    assert [key.exceptions for key in review.api_keys if key.api_key_id in keys] == [(), (), ()]
    simulation.wait(days=1)
    store.update_user(owner, enabled=False)
    store.remove_membership(leaver, org_id)
    store.delete_user(gone)
    simulation.load("users")
    with time_machine.travel(datetime.fromtimestamp(store.now, UTC) + timedelta(days=1)):
        assert render_files(review_of(simulation, day)) == render_files(review)
    later = simulation.load().date()
    with time_machine.travel(datetime.fromtimestamp(store.now, UTC) + timedelta(days=1)):
        found = {key.api_key_id: [f.detail for f in key.exceptions] for key in review_of(simulation, later).api_keys}
    assert [found.get(key) for key in keys] == [["its owner is disabled"], ["its owner has left the org"], None]


@pytest.mark.slow
@pytest.mark.parametrize("late", ["users", "orgs", "end_user_api_keys"])
def test_a_review_is_preliminary_until_the_marts_have_the_last_load_of_the_day(simulate, late) -> None:
    simulation = simulate(*SELECT, scans=SCANS)
    store: Store = simulation.store
    first = simulation.load()
    day = first.date()
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1)
    with time_machine.travel(midnight + timedelta(hours=1)):
        assert not review_of(simulation, day).is_preliminary
    user_id, org_id = next((user, org) for user, orgs in sorted(store.of_user.items()) for org in orgs)
    store.remove_membership(user_id, org_id)
    with time_machine.travel(midnight - timedelta(minutes=10)):
        load_scan(late, simulation.settings)  # the marts are built after midnight
    with time_machine.travel(midnight + timedelta(hours=1)):
        review = review_of(simulation, day)
        assert review.is_preliminary
        assert b"its last load is not in the marts yet" in render_files(review)[PAGE]
        with open_dbt(simulation.settings) as dbt:
            assert dbt.run("build", "--select", *SELECT).failed == {}
        assert not review_of(simulation, day).is_preliminary


@pytest.mark.slow
def test_without_history_the_reason_is_one_sentence(small, simulate, run_cli) -> None:
    load_scan("users", small)
    ran = run_cli("access-review", "--as-of", "2026-11-24")
    assert ran.returncode == 1
    assert "needs the history and the marts, which are not built here. To build them: run" in ran.stderr


def test_a_role_that_includes_an_administrator_role_is_one() -> None:
    at = Interval(None, datetime(2026, 9, 30, tzinfo=UTC))

    def member(role: str, *, additional: tuple[str, ...] = (), inherited: tuple[str, ...] = ()) -> Member:
        return Member("org", "user", role, additional, inherited, at, at, True, False, True, None)

    assert member("Admin").holds(ADMIN_ROLES)
    assert member("Viewer", additional=("Admin",)).holds(ADMIN_ROLES)
    assert member("Super", inherited=("Admin", "Member")).holds(ADMIN_ROLES)
    assert not member("Super", inherited=("Member",)).holds(ADMIN_ROLES)


def test_text_that_a_spreadsheet_would_run_gets_an_apostrophe() -> None:
    from propel_assets.reporting.access_review.files import _cell

    assert [_cell(value) for value in ("=1+1", "+1", "-1", "@a", "Ops", None, True)] == [
        "'=1+1",
        "'+1",
        "'-1",
        "'@a",
        "Ops",
        "",
        "yes",
    ]
