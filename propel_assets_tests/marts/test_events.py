"""The marts of webhook events, compared with what the sandbox has sent, and the chart of what was missed."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import pytest

from propel_assets.privacy.policy_file import load_policy
from propel_assets.reporting.charts import missed_changes
from propel_assets.reporting.report import render
from propel_assets.settings import Settings
from propel_assets.warehouse import grades
from propel_assets.warehouse.load import load_scan
from propel_assets.warehouse.query import open_warehouse
from propel_assets.webhooks.apply import load_events
from propel_assets.webhooks.store import StoredEvent, WebhookStore

SELECT = ("+fct_invite_first_logins", "+fct_login_users_daily", "+fct_login_users_weekly", "+fct_login_users_monthly")
SELECT += ("fct_logins_daily", "fct_impersonations", "fct_removals", "audit_event_grades")
START = datetime.now(UTC) - timedelta(days=40)
REMOVALS = {
    "user.deleted": "user_deleted",
    "org.deleted": "org_deleted",
    "user.removed_from_org": "member_removed",
    "user.removed_from_scim_group": "scim_group_member_removed",
    "org.scim_group_deleted": "scim_group_deleted",
    "org.scim_key_revoked": "scim_key_revoked",
    "org.api_key_deleted": "api_key_deleted",
    "user.deleted_personal_api_key": "api_key_deleted",
}


@pytest.fixture
def events(small_sandbox: Any, small: Settings) -> Iterator[list[tuple[datetime, dict[str, Any]]]]:
    """The events of 600 changes over 40 days, which are received: time and payload."""
    store = WebhookStore(small.webhook_store)
    found: list[tuple[datetime, dict[str, Any]]] = []

    def receive(event: Any) -> None:
        at = START + timedelta(days=40) * len(found) / 700
        found.append((at, event.payload))
        stored = StoredEvent(f"msg_{len(found)}", event.event_type, at, at, json.dumps(event.payload))
        store.add([stored])

    small_sandbox.store.subscribe(receive)
    for _ in range(600):
        small_sandbox.live.step()
    yield found
    store.close()


@pytest.mark.slow
def test_the_marts_are_what_the_sandbox_has_sent(small_sandbox, small, build, query, events, monkeypatch) -> None:
    monkeypatch.setattr(grades, "SETTLE_DELAY", timedelta(0))
    for scan in ("users", "orgs", "invites", "chart_metrics"):
        load_scan(scan, small)
    list(load_events(small))
    build(small, *SELECT)
    logins = [(at, event["user_id"]) for at, event in events if event["event_type"] == "user.login"]
    per_day = Counter((user_id, at.date()) for at, user_id in logins)
    marts = "propel_auth_marts"
    found = {(user, day): n for user, day, n in query(f"SELECT user_id, day, logins FROM {marts}.fct_logins_daily")}
    assert found == per_day
    for cadence, column, start in (
        ("daily", "day", lambda day: day),
        ("weekly", "week_start", lambda day: day - timedelta(days=day.weekday())),
        ("monthly", "month_start", lambda day: day.replace(day=1)),
    ):
        users = {(start(at.date()), user_id) for at, user_id in logins}
        truth = Counter(day for day, _ in users)
        rows = query(f"SELECT {column}, login_users, is_complete FROM {marts}.fct_login_users_{cadence} ORDER BY 1")
        assert {day: n for day, n, _ in rows if n} == truth
        first, last = events[0][0].date(), events[-1][0].date()
        assert (rows[0][0], rows[-1][0]) == (start(first), start(last))
        assert not rows[0][2]
        assert not rows[-1][2]
        assert cadence == "monthly" or any(is_complete for *_, is_complete in rows)
    assert query(f"SELECT count(*) FROM {marts}.fct_login_users_daily WHERE provider_active_users IS NOT NULL") != [
        (0,)
    ]
    removed = Counter(REMOVALS[e["event_type"]] for _, e in events if e["event_type"] in REMOVALS)
    assert dict(query(f"SELECT kind, count(*) FROM {marts}.fct_removals GROUP BY kind")) == removed
    impersonated = {
        (e["user_id"], e["impersonator_user_id"]) for _, e in events if e["event_type"] == "user.impersonated"
    }
    assert set(query(f"SELECT user_id, impersonator_user_id FROM {marts}.fct_impersonations")) == impersonated


@pytest.mark.slow
def test_the_chart_shows_the_changes_that_had_no_webhook(
    small_sandbox, small, build, query, monkeypatch, tmp_path
) -> None:
    monkeypatch.setattr(grades, "SETTLE_DELAY", timedelta(0))
    store, lost = small_sandbox.store, []
    with closing(WebhookStore(small.webhook_store)) as events:

        def receive(event: Any) -> None:
            at = datetime.now(UTC)
            if not lost:
                events.add([StoredEvent(f"msg_{event.number}", event.event_type, at, at, json.dumps(event.payload))])

        store.subscribe(receive)
        users = list(store.users)
        store.log_in(users[0])
        list(load_events(small))
        load_scan("users", small)
        store.add_user()
        list(load_events(small))
        lost.append(True)
        for _ in range(2):
            store.add_user()
        store.update_user(users[1], enabled=not store.users[users[1]].wire["enabled"])
        load_scan("users", small)
    build(small, "+audit_event_grades")
    chart = missed_changes(query, "propel_auth_marts")
    assert chart is not None
    assert chart.summary == "3 of 4 changes between full loads had no webhook (75.0%)."
    assert ("user.created", "2", "of 3") in [tuple(row) for row in chart.rows]

    # The panel of the report has the figures of propel_event_grades, grades that are not settled left out.
    with duckdb.connect(str(tmp_path / "propel_auth_pipeline.duckdb")) as db:
        table = "propel_auth_data.propel_event_grades"
        db.execute(
            f"INSERT INTO {table} BY NAME SELECT * REPLACE ('later' AS load_id, missed + 5 AS missed, changes + 9 AS "
            f"changes, false AS is_settled) FROM {table} WHERE event_type = 'user.created'"
        )
    with open_warehouse(small.target, load_policy(small.privacy_settings)) as warehouse:
        page = render(warehouse, small.target)
    graded = query(
        f"SELECT event_type, sum(missed)::INT, sum(changes)::INT FROM {table} WHERE is_settled GROUP BY 1 "
        "ORDER BY 2 DESC, 1"
    )
    panel = re.search(r"<h3>Changes that webhooks missed</h3>(.*?)</figure>", page, re.DOTALL)
    assert panel is not None
    rows = re.findall(r'<tr><th scope="row">(.*?)</th><td[^>]*>(.*?)</td><td[^>]*>(.*?)</td></tr>', panel[1])
    assert rows == [(kind, f"{missed:,}", f"of {changes:,}") for kind, missed, changes in graded]
    missed, changes = (sum(row[column] for row in graded) for column in (1, 2))
    assert f"{missed} of {changes} changes between full loads had no webhook (75.0%). 1 grade not settled" in panel[1]
    assert panel[1].count('<svg role="img"') == 2
    assert f"<dt>changes that webhooks missed</dt><dd>{missed}</dd>" in page


@pytest.mark.slow
def test_the_time_from_an_invitation_to_the_first_log_in(small_sandbox, small, build, query) -> None:
    store, events = small_sandbox.store, WebhookStore(small.webhook_store)
    org_id = next(iter(store.orgs))
    clock = {"at": datetime.fromtimestamp(store.now, UTC)}

    def receive(event: Any) -> None:
        at = clock["at"]
        events.add([StoredEvent(f"msg_{event.number}", event.event_type, at, at, json.dumps(event.payload))])

    store.subscribe(receive)
    store.log_in(next(iter(store.users)))
    store.invite(org_id, "new@example.org")
    store.invite(org_id, "never@example.org")
    invited_at = datetime.fromtimestamp(store.invites[-2]["created_at"], UTC)
    for scan in ("users", "invites"):
        load_scan(scan, small)
    build(small, "+fct_invite_first_logins")
    clock["at"] = invited_at + timedelta(hours=3)
    user_id = store.accept_invite(org_id, "new@example.org")
    clock["at"] = invited_at + timedelta(hours=5)
    store.log_in(user_id)
    store.log_in(user_id)
    for scan in ("users", "invites"):
        load_scan(scan, small)
    list(load_events(small))
    events.close()
    build(small, "+fct_invite_first_logins")
    columns = "invitee_email, user_id, hours_to_join, hours_to_first_login"
    sql = f"SELECT {columns} FROM propel_auth_marts.fct_invite_first_logins WHERE invitee_email LIKE '%@example.org'"
    expected = [("never@example.org", None, None, None), ("new@example.org", user_id, 3.0, 5.0)]
    assert sorted(query(sql)) == expected
    store.delete_user(user_id)
    store.add_user(user_id="0" * 8 + user_id[8:], email="new@example.org")
    load_scan("users", small)
    build(small, "+fct_invite_first_logins")
    assert sorted(query(sql)) == expected
