"""Figures of the marts, computed a second time in Python from what the sandbox showed at each load.

Five simulated loads over three months, with sign-ups, deletions, departures, accepted invitations and days without a
load between them. The marts are built and queried in a session whose time zone is not UTC.
"""

import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

import duckdb
import pytest
from dlt.common.time import increasing_precise_time

from propel_assets.sandbox import insights
from propel_assets.sandbox.belongings import calls_on
from propel_assets.sandbox.running import Sandbox
from propel_assets.sandbox.store import Store
from propel_assets.settings import load_settings
from propel_assets_tests.marts.conftest import SCANS, SEARCH_PATH, Simulation

DAY, HOUR = 86_400, 3_600
ZONE = "America/Los_Angeles"
FIGURES_AT_LEAST = 150
pytestmark = pytest.mark.timeout(900)


def day_of(seconds: float) -> date:
    return datetime.fromtimestamp(seconds, UTC).date()


def monday(day: date) -> date:
    return day - timedelta(days=day.weekday())


@dataclass
class Reading:
    """What the sandbox had at the time of a load."""

    at: float
    users: dict[str, dict[str, Any]]
    orgs: dict[str, dict[str, Any]]
    created: dict[str, int]
    members: dict[tuple[str, str], tuple[str, ...]]
    invites: list[dict[str, Any]]
    keys: list[dict[str, Any]]

    @property
    def day(self) -> date:
        return day_of(self.at)


def observe(store: Store, at: datetime) -> Reading:
    return copy.deepcopy(
        Reading(
            at.timestamp(),
            {user_id: user.wire for user_id, user in store.users.items()},
            {org_id: org.wire for org_id, org in store.orgs.items()},
            {org_id: org.created_at for org_id, org in store.orgs.items()},
            {
                (user_id, org_id): (m.role, *m.additional_roles)
                for org_id, members in store.of_org.items()
                for user_id, m in members.items()
            },
            store.invites,
            [{**key.wire, "archived": key.archived_at is not None} for key in store.api_keys.values()],
        )
    )


@dataclass
class World:
    """The readings, the store after the last one, and the database to query."""

    readings: list[Reading]
    store: Store
    database: duckdb.DuckDBPyConnection
    compared: int = 0
    wrong: list[str] = field(default_factory=list)

    def query(self, sql: str) -> list[tuple]:
        return self.database.execute(sql).fetchall()

    def compare(self, name: str, found: dict[Any, Any], wanted: dict[Any, Any]) -> None:
        """Compare one figure per key."""
        for key in {*found, *wanted}:
            self.compared += 1
            ours, theirs = found.get(key, "missing"), wanted.get(key, "missing")
            close = isinstance(ours, float) and isinstance(theirs, int | float) and ours == pytest.approx(theirs)
            if ours != theirs and not close:
                self.wrong.append(f"{name} {key}: {ours}, expected {theirs}")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    file = tmp_path_factory.mktemp("recomputation") / "propel_auth_pipeline.duckdb"
    with pytest.MonkeyPatch.context() as patch, Sandbox(users=120, orgs=12, seed=5, now=date(2026, 10, 27)) as sandbox:
        patch.setattr(increasing_precise_time, "_last", increasing_precise_time._last)
        patch.setenv("DESTINATION__DUCKDB__CREDENTIALS", str(file))
        settings = load_settings({"auth_url": sandbox.url, "api_key": sandbox.api_key})
        life = Simulation(sandbox, settings, SCANS, (), time_zone=ZONE)
        store, readings = life.store, []

        def load() -> None:
            readings.append(observe(store, life.load()))

        load()
        life.wait(days=1, hours=9)  # 21:00 UTC, still the day before in no zone but the next day in Asia
        users = list(store.users)
        for user_id in users[5:25]:
            store.touch_user(user_id)
        newcomers = [store.add_user(email=f"new{n}@company-{n}.example") for n in range(4)]
        big = max(store.of_org, key=lambda org: len(store.of_org[org]))
        for user_id in newcomers[:2]:
            store.add_membership(user_id, big)
        load()
        life.wait(days=6, hours=9)  # across the end of daylight saving time in Los Angeles, and of October
        for user_id in users[15:40]:
            store.touch_user(user_id)
        store.delete_user(users[0])
        leaver = next(iter(store.of_org[big]))
        store.remove_membership(leaver, big)
        store.update_user(users[3], mfa_enabled=not store.users[users[3]].wire["mfa_enabled"])
        store.delete_org(min(store.of_org, key=lambda org: len(store.of_org[org])))
        accepted = store.invites.pop()
        store.add_membership(store.add_user(email=accepted["invitee_email"]), accepted["org_id"])
        load()
        life.wait(days=3, hours=2)
        store.add_membership(leaver, big)
        for user_id in users[30:50]:
            store.touch_user(user_id)
        store.add_org()
        load()
        life.wait(days=33)
        for user_id in [*users[40:60], *newcomers]:
            store.touch_user(user_id)
        load()
        life.check()
        with duckdb.connect(str(file), read_only=True) as database:
            database.execute(f"SET TimeZone = '{ZONE}'; SET search_path = '{SEARCH_PATH}'")
            yield World(readings, store, database)


def activity(world: World) -> set[tuple[str, date]]:
    """Return the days on which a user is known to have been active: sign-ups, and the last activity at each load."""
    return {
        (user_id, day_of(wire[name]))
        for reading in world.readings
        for user_id, wire in reading.users.items()
        for name in ("created_at", "last_active_at")
    }


def org_activity(world: World) -> set[tuple[str, date]]:
    """Return the days on which a member was active, unless that was before a load that did not show the member yet."""
    seen = set()
    for number, reading in enumerate(world.readings):
        for member in reading.members:
            joined = next((n for n in range(number, 0, -1) if member not in world.readings[n - 1].members), 0)
            active = reading.users[member[0]]["last_active_at"]
            if not joined or active > world.readings[joined - 1].at:
                seen.add((member[1], day_of(active)))
    return seen


def days_between(first: date, last: date) -> list[date]:
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]


def compare_sign_ups(world: World) -> None:
    known = {user_id: wire["created_at"] for reading in world.readings for user_id, wire in reading.users.items()}
    counts = Counter(day_of(at) for at in known.values())
    last = world.readings[-1].day
    days = days_between(last - timedelta(days=59), last)
    sql = f"SELECT day, signups FROM fct_signups_daily WHERE day >= DATE '{days[0]}'"
    world.compare("signups", dict(world.query(sql)), {day: counts[day] for day in days})
    gone = Counter(day_of(known[user_id]) for user_id in known.keys() - world.readings[-1].users.keys())
    sql = "SELECT day, signups_deleted_since FROM fct_signups_daily WHERE signups_deleted_since > 0"
    world.compare("signups_deleted_since", dict(world.query(sql)), dict(gone))
    truth = insights.chart_metrics(world.store, "signups", "Daily", days[0], last)
    sql = f"SELECT day, provider_signups FROM fct_signups_daily WHERE day >= DATE '{days[0]}'"
    provider = {date.fromisoformat(point["date"]): point["result"] for point in truth}
    world.compare("provider_signups", dict(world.query(sql)), provider)
    created = {org_id: at for reading in world.readings for org_id, at in reading.created.items()}
    orgs = Counter(day_of(at) for at in created.values())
    sql = "SELECT day, orgs_created FROM fct_orgs_created_daily WHERE orgs_created > 0"
    world.compare("orgs_created", dict(world.query(sql)), dict(orgs))


def compare_engagement(world: World) -> None:
    first, last = world.readings[0].day, world.readings[-1].day
    read = {reading.day for reading in world.readings}
    for name, seen in (("active_users", activity(world)), ("active_orgs", org_activity(world))):
        sql = f"SELECT day, {name} FROM fct_engagement_daily WHERE day >= DATE '{first}'"
        truth = {day: sum(active == day for _, active in seen) for day in days_between(first, last)}
        world.compare(name, dict(world.query(sql)), truth)
        for mart, start in (("weekly", monday), ("monthly", lambda day: day.replace(day=1))):
            column = {"weekly": "week_start", "monthly": "month_start"}[mart]
            sql = f"SELECT {column}, {name} FROM fct_engagement_{mart} WHERE {name} IS NOT NULL"
            periods = {start(day) for day in days_between(first, last)}
            truth = {p: len({subject for subject, day in seen if start(day) == p}) for p in periods}
            world.compare(f"{name} {mart}", dict(world.query(sql)), truth)
    users = activity(world)
    for days in (7, 30):
        sql = f"SELECT day, active_users_{days}d FROM fct_engagement_daily WHERE active_users_{days}d IS NOT NULL"
        truth = {day: len({u for u, active in users if 0 <= (day - active).days < days}) for day in read}
        world.compare(f"active_users_{days}d", dict(world.query(sql)), truth)


def compare_orgs(world: World) -> None:
    names = ("Owner",)
    for reading in world.readings:
        wanted: dict[Any, Any] = {}
        for org_id, org in reading.orgs.items():
            members = {user: roles for (user, in_org), roles in reading.members.items() if in_org == org_id}
            wires = [reading.users[user] for user in members]
            enabled = [wire for wire in wires if wire["enabled"]]
            figures = {
                "members": len(members),
                "active_members_30d": sum(wire["last_active_at"] >= reading.at - 30 * DAY for wire in wires),
                "owners": sum(any(role in names for role in roles) for roles in members.values()),
                "members_with_mfa": sum(wire["mfa_enabled"] for wire in enabled),
                "enabled_members": len(enabled),
                "pending_invites": sum(
                    invite["org_id"] == org_id and invite["expires_at"] > reading.at for invite in reading.invites
                ),
                "active_api_keys": sum(
                    key["org_id"] == org_id
                    and not key["archived"]
                    and (key["expires_at_seconds"] is None or key["expires_at_seconds"] > reading.at)
                    for key in reading.keys
                ),
                "max_users": org.get("max_users"),
            }
            wanted |= {(org_id, name): value for name, value in figures.items()}
        columns = list(dict.fromkeys(name for _, name in wanted))
        rows = world.query(f"SELECT org_id, {', '.join(columns)} FROM fct_org_daily WHERE day = DATE '{reading.day}'")
        found = {(org_id, name): v for org_id, *values in rows for name, v in zip(columns, values, strict=True)}
        world.compare(f"fct_org_daily {reading.day}", found, wanted)


def compare_security(world: World) -> None:
    wanted = {}
    for reading in world.readings:
        enabled = [wire for wire in reading.users.values() if wire["enabled"]]
        with_mfa = sum(wire["mfa_enabled"] for wire in enabled)
        wanted |= {
            (reading.day, "users"): len(reading.users),
            (reading.day, "users_with_mfa"): with_mfa,
            (reading.day, "mfa_adoption"): with_mfa / len(enabled),
            (reading.day, "locked_users"): sum(wire["locked"] for wire in reading.users.values()),
        }
    columns = ("users", "users_with_mfa", "mfa_adoption", "locked_users")
    rows = world.query(f"SELECT day, {', '.join(columns)} FROM fct_user_security_daily")
    found = {(day, name): value for day, *values in rows for name, value in zip(columns, values, strict=True)}
    world.compare("fct_user_security_daily", found, wanted)


def compare_roles(world: World) -> None:
    last = world.readings[-1]
    wanted = Counter((org_id, role) for (_, org_id), roles in last.members.items() for role in {*roles})
    rows = world.query(f"SELECT org_id, role, members FROM fct_role_mix WHERE day = DATE '{last.day}' AND members > 0")
    world.compare("fct_role_mix", {(org, role): n for org, role, n in rows}, dict(wanted))


def compare_spells_and_changes(world: World) -> None:
    spells: Counter[tuple[str, str]] = Counter()
    changes: Counter[str] = Counter()
    previous: Reading | None = None
    for reading in world.readings:
        before = previous.members if previous else {}
        spells.update(reading.members.keys() - before.keys())
        if previous:
            changes["signed_up"] += len(reading.users.keys() - previous.users.keys())
            changes["deleted"] += len(previous.users.keys() - reading.users.keys())
            changes["joined_org"] += len(reading.members.keys() - before.keys())
            changes["left_org"] += len(before.keys() - reading.members.keys())
            for user_id in reading.users.keys() & previous.users.keys():
                old, new = previous.users[user_id]["mfa_enabled"], reading.users[user_id]["mfa_enabled"]
                changes["mfa_enabled" if new else "mfa_disabled"] += old != new
        previous = reading
    last = world.readings[-1]
    rows = world.query("SELECT user_id, org_id, count(*) FROM fct_membership_spells GROUP BY ALL HAVING count(*) > 1")
    world.compare("repeated spells", {(u, o): n for u, o, n in rows}, {key: n for key, n in spells.items() if n > 1})
    [(total, current)] = world.query("SELECT count(*), count(*) FILTER (is_current) FROM fct_membership_spells")
    wanted = {"spells": spells.total(), "current": len(last.members)}
    world.compare("fct_membership_spells", {"spells": total, "current": current}, wanted)
    found = dict(world.query("SELECT change, count(*) FROM fct_user_changes GROUP BY change"))
    world.compare("fct_user_changes", found, {change: n for change, n in changes.items() if n})


def compare_retention(world: World) -> None:
    last = world.readings[-1]
    wires: dict[str, dict[str, Any]] = {}
    for reading in world.readings:
        wires |= reading.users
    cohorts: dict[date, list[tuple[str, dict[str, Any]]]] = {}
    for user_id, wire in wires.items():
        cohorts.setdefault(monday(day_of(wire["created_at"])), []).append((user_id, wire))
    wanted = {}
    for week, cohort in cohorts.items():
        newest = max(wire["created_at"] for _, wire in cohort)
        for k in range(53):
            if newest + 7 * DAY * k + 7 * DAY > last.at:
                break
            reached = 0
            for user_id, wire in cohort:
                hours = (wire["last_active_at"] - wire["created_at"]) / HOUR
                if user_id not in last.users:
                    # Only the day is known: at least until its begin.
                    day_began = wire["last_active_at"] // DAY * DAY
                    hours = max(0, (day_began - wire["created_at"]) / HOUR)
                reached += hours >= 168 * k
            wanted[week, k] = (len(cohort), reached)
    sql = "SELECT cohort_week, weeks_after, cohort_users, active_at_or_after_users FROM fct_retention_weekly"
    rows = world.query(f"{sql} WHERE is_complete")
    world.compare("fct_retention_weekly", {(week, k): (n, m) for week, k, n, m in rows}, wanted)


def compare_growth(world: World) -> None:
    def month(day: date) -> date:
        return day.replace(day=1)

    seen = {(user, month(day)) for user, day in activity(world)}
    created = {u: month(day_of(w["created_at"])) for reading in world.readings for u, w in reading.users.items()}
    first, last = month(world.readings[0].day), month(world.readings[-1].day)
    months = sorted({month(day) for day in days_between(first, last)})
    wanted: dict[Any, Any] = {}
    for this in months:
        active = {user for user, at in seen if at == this}
        before = {user for user, at in seen if at == month(this - timedelta(days=1))}
        new = {user for user in active if created[user] >= this}
        known = this > first
        wanted |= {
            (this, "active_users"): len(active),
            (this, "new_users"): len(new),
            (this, "retained_users"): len((active & before) - new) if known else None,
            (this, "resurrected_users"): len(active - before - new) if known else None,
            (this, "churned_users"): len(before - active) if known and this < last else None,
        }
    columns = ("active_users", "new_users", "retained_users", "resurrected_users", "churned_users")
    rows = world.query(f"SELECT month, {', '.join(columns)} FROM fct_growth_accounting")
    found = {(at, name): value for at, *values in rows for name, value in zip(columns, values, strict=True)}
    world.compare("fct_growth_accounting", found, wanted)


def compare_invites_and_keys(world: World) -> None:
    last = world.readings[-1]
    invites = {(i["org_id"], i["invitee_email"], i["created_at"]): i for r in world.readings for i in r.invites}
    statuses: Counter[str] = Counter()
    for key, invite in invites.items():
        present = [
            any(key == (i["org_id"], i["invitee_email"], i["created_at"]) for i in r.invites) for r in world.readings
        ]
        gone = next((r for r, there in zip(world.readings, present, strict=True) if not there), None)
        if gone is None or present[-1]:
            statuses["expired" if invite["expires_at"] <= last.at else "pending"] += 1
            continue
        emails = {wire["email"]: user_id for user_id, wire in gone.users.items()}
        joined = (emails.get(invite["invitee_email"]), invite["org_id"]) in gone.members
        statuses["accepted" if joined else "expired" if invite["expires_at"] <= gone.at else "vanished"] += 1
    found = dict(world.query("SELECT status, count(*) FROM fct_invite_funnel GROUP BY status"))
    world.compare("fct_invite_funnel", found, dict(statuses))
    keys: Counter[str] = Counter()
    orphans = 0
    for key in last.keys:
        expired = key["expires_at_seconds"] is not None and key["expires_at_seconds"] <= last.at
        keys["archived" if key["archived"] else "expired" if expired else "active"] += 1
        user, org = key["user_id"], key["org_id"]
        orphans += user is not None and (
            user not in last.users
            or not last.users[user]["enabled"]
            or (org is not None and (user, org) not in last.members)
        )
    rows = world.query(f"SELECT status, count(*) FROM fct_api_keys WHERE day = DATE '{last.day}' GROUP BY status")
    world.compare("fct_api_keys", dict(rows), dict(keys))
    [(found_orphans,)] = world.query(f"SELECT count(*) FROM fct_api_keys WHERE day = DATE '{last.day}' AND is_orphan")
    world.compare("orphans", {"orphans": found_orphans}, {"orphans": orphans})
    days = days_between(last.day - timedelta(days=14), last.day - timedelta(days=5))
    truth = {
        day: sum(calls_on(key, (day - date(1970, 1, 1)).days) for key in world.store.api_keys.values()) for day in days
    }
    rows = world.query(
        f"SELECT day, validations FROM fct_api_usage_daily WHERE day BETWEEN DATE '{days[0]}' AND DATE '{days[-1]}'"
    )
    world.compare("fct_api_usage_daily", dict(rows), truth)


@pytest.mark.slow
def test_no_figure_is_wrong(world) -> None:
    compare_sign_ups(world)
    compare_engagement(world)
    compare_orgs(world)
    compare_security(world)
    compare_roles(world)
    compare_spells_and_changes(world)
    compare_retention(world)
    compare_growth(world)
    compare_invites_and_keys(world)
    print(f"{world.compared} figures compared, {len(world.wrong)} wrong")
    assert world.wrong == []
    assert world.compared >= FIGURES_AT_LEAST
