"""What an access review reads from histories and marts, which these tests write by hand."""

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import duckdb
import pytest
from dlt.destinations.exceptions import DatabaseUndefinedRelation

from propel_assets.reporting.access_review.build import build_review
from propel_assets.reporting.access_review.files import PAGE, render_files
from propel_assets.reporting.access_review.model import AccessReview
from propel_assets.settings import load_settings

AS_OF = date(2026, 9, 30)
NIGHT = datetime(2026, 9, 30, 4, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
TENANT = "https://auth.example.com"
SCHEMA = """
CREATE SCHEMA propel_auth_history;
CREATE SCHEMA propel_auth_marts;
SET TimeZone = 'UTC';
CREATE TABLE propel_auth_history.user_loads (read_at TIMESTAMPTZ, full_load_started_at TIMESTAMPTZ);
CREATE TABLE propel_auth_history.org_loads (read_at TIMESTAMPTZ, full_load_started_at TIMESTAMPTZ);
CREATE TABLE propel_auth_history.users_history (user_id VARCHAR, email VARCHAR, first_name VARCHAR, last_name VARCHAR,
    enabled BOOLEAN, locked BOOLEAN, mfa_enabled BOOLEAN, valid_from TIMESTAMPTZ, valid_to TIMESTAMPTZ);
CREATE TABLE propel_auth_history.orgs_history (org_id VARCHAR, name VARCHAR, is_saml_configured BOOLEAN,
    valid_from TIMESTAMPTZ, valid_to TIMESTAMPTZ);
CREATE TABLE propel_auth_history.memberships_history (org_id VARCHAR, user_id VARCHAR, user_role VARCHAR,
    additional_roles VARCHAR, inherited_user_roles_plus_current_role VARCHAR, valid_from TIMESTAMPTZ,
    valid_to TIMESTAMPTZ);
CREATE TABLE propel_auth_marts.fct_user_activity_daily (user_id VARCHAR, day DATE, observed_at TIMESTAMPTZ,
    is_signup_day BOOLEAN DEFAULT false);
CREATE TABLE propel_auth_marts.fct_user_changes (org_id VARCHAR, user_id VARCHAR, change VARCHAR, old_value VARCHAR,
    new_value VARCHAR, seen_at TIMESTAMPTZ);
CREATE TABLE propel_auth_marts.audit_user_marts (as_of TIMESTAMPTZ);
CREATE TABLE propel_auth_marts.fct_api_keys (api_key_id VARCHAR, owner_kind VARCHAR, user_id VARCHAR, org_id VARCHAR,
    created_at TIMESTAMPTZ, expires_at TIMESTAMPTZ, status VARCHAR, day DATE, as_of TIMESTAMPTZ);
CREATE TABLE propel_scans (load_id VARCHAR, table_name VARCHAR, mode VARCHAR, verdict VARCHAR, reason VARCHAR,
    rows_expected BIGINT, rows_read BIGINT, total_max BIGINT, values_read JSON, resume_state JSON,
    started_at TIMESTAMPTZ, finished_at TIMESTAMPTZ);
"""


class Written:
    """A warehouse in memory: histories and marts as these tests write them."""

    def __init__(self) -> None:
        self._db = duckdb.connect()
        self._db.execute(SCHEMA)

    def rows(self, sql: str, *params: Any, limit: int | None = None) -> list[tuple[Any, ...]]:
        try:
            rows = self._db.execute(sql.replace("%s", "?"), params).fetchall()
        except duckdb.CatalogException as error:
            raise DatabaseUndefinedRelation(error) from error
        return rows if limit is None else rows[:limit]

    def complete_loads_of(self, name: str) -> str:
        return f"{name} s"

    def add(self, table: str, **values: Any) -> None:
        marks = ", ".join("?" * len(values))
        self._db.execute(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})", [*values.values()])

    def add_load(self, at: datetime) -> None:
        self.add("propel_auth_history.user_loads", read_at=at, full_load_started_at=at - HOUR)
        self.add("propel_auth_marts.audit_user_marts", as_of=at)

    def add_member(self, user_id: str, org_id: str, **user: Any) -> None:
        flags = {"enabled": True, "locked": False, "mfa_enabled": True, **user}
        self.add("propel_auth_history.users_history", user_id=user_id, valid_from=NIGHT - 90 * DAY, **flags)
        self.add(
            "propel_auth_history.memberships_history",
            org_id=org_id,
            user_id=user_id,
            user_role="Owner",
            valid_from=NIGHT - 90 * DAY,
        )
        self.add("propel_auth_marts.fct_user_activity_daily", user_id=user_id, day=AS_OF, observed_at=NIGHT)

    def add_scan(
        self, table: str, at: datetime, rows: int, total: int, mode: str = "full", tenant: str = TENANT, active: int = 1
    ) -> None:
        self.add(
            "propel_scans",
            load_id=f"{at.timestamp():.1f}",
            table_name=table,
            mode=mode,
            verdict="proved" if mode == "full" else "counted",
            rows_expected=rows if mode == "full" else None,
            rows_read=rows,
            total_max=total,
            values_read=json.dumps({"user_id": rows, "last_active_at": active}),
            resume_state=json.dumps({"tenant_id": tenant}),
            started_at=at - HOUR,
            finished_at=at,
        )

    def add_key(self, key_id: str, user_id: str, org_id: str | None, created: datetime, at: datetime) -> None:
        self.add(
            "propel_auth_marts.fct_api_keys",
            api_key_id=key_id,
            owner_kind="user",
            user_id=user_id,
            org_id=org_id,
            created_at=created,
            status="active",
            day=at.date(),
            as_of=at,
        )

    def review(self, since: date | None = None, *, with_names: bool = False) -> AccessReview:
        target = load_settings({"auth_url": TENANT, "api_key": "key"}).target
        return build_review(self, target, AS_OF, since, with_names=with_names)  # type: ignore[arg-type]


@pytest.fixture
def written() -> Iterator[Written]:
    """Return histories with one org, one user and one load."""
    warehouse = Written()
    warehouse.add_load(NIGHT)
    warehouse.add("propel_auth_history.org_loads", read_at=NIGHT)
    warehouse.add("propel_auth_history.orgs_history", org_id="org", name="Acme", valid_from=NIGHT - 90 * DAY)
    warehouse.add_member("user", "org")
    warehouse.add_scan("user_query", NIGHT, 1, 1)
    warehouse.add_scan("org_query", NIGHT, 1, 1)
    yield warehouse
    warehouse._db.close()


def page_of(review: AccessReview) -> str:
    return render_files(review)[PAGE].decode()


def test_a_load_without_api_keys_is_in_the_review_and_makes_it_final(written) -> None:
    written.add_key("old", "user", None, NIGHT - 30 * DAY, NIGHT - 2 * DAY)
    written.add_scan("end_user_api_keys", NIGHT + HOUR, 0, 0)
    review = written.review()
    assert review.is_preliminary is False
    assert (review.api_keys, review.api_keys_at) == ([], NIGHT + HOUR)


def test_a_load_with_api_keys_that_the_marts_do_not_have_is_preliminary(written) -> None:
    written.add_key("old", "user", None, NIGHT - 30 * DAY, NIGHT - 2 * DAY)
    written.add_scan("end_user_api_keys", NIGHT + HOUR, 1, 1)
    review = written.review()
    assert review.is_preliminary is True
    assert [key.api_key_id for key in review.api_keys] == ["old"]


def test_the_rows_of_a_load_of_recent_changes_are_not_compared_with_the_total(written) -> None:
    written.add_scan("user_query", NIGHT + 5 * HOUR, 7, 2_500, mode="recent")
    review = written.review()
    users = review.scans[0]
    assert (users.last_at, users.last_verdict, users.last_rows, users.last_total) == (
        NIGHT + 5 * HOUR,
        "counted",
        None,
        None,
    )
    assert "04:00 UTC, the last load in the history up to the end of 2026-09-30" in page_of(review)


def test_a_key_that_is_newer_than_the_last_full_load_of_users_has_not_lost_its_owner(written) -> None:
    started = NIGHT - HOUR
    keys = {
        "joined later": ("user", "other", started + timedelta(minutes=1)),
        "left": ("user", "other", started - timedelta(minutes=1)),
        "signed up later": ("new", None, started + timedelta(minutes=1)),
        "deleted": ("gone", None, started - timedelta(minutes=1)),
    }
    for key_id, (user_id, org_id, created) in keys.items():
        written.add_key(key_id, user_id, org_id, created, NIGHT + HOUR)
    details = {key.api_key_id: [e.detail for e in key.exceptions] for key in written.review().api_keys}
    assert details == {
        "joined later": [],
        "left": ["its owner has left the org"],
        "signed up later": [],
        "deleted": ["its owner was deleted"],
    }


def test_the_longest_gap_begins_with_the_last_load_before_the_period(written) -> None:
    written.add_load(NIGHT - 20 * DAY)
    written.add_load(NIGHT - DAY)
    review = written.review(since=AS_OF - 10 * DAY)
    assert (review.loads, review.longest_gap) == (2, 19 * DAY)


def test_a_role_that_looks_like_a_json_list_is_shown_as_it_is(written) -> None:
    changes = (
        ("joined_org", None, "[Beta] Admin"),
        ("role_changed", '["a"]', "Member"),
        ("additional_roles_changed", None, '["a", "b"]'),
    )
    for change, old, new in changes:
        written.add(
            "propel_auth_marts.fct_user_changes",
            org_id="org",
            user_id="user",
            change=change,
            old_value=old,
            new_value=new,
            seen_at=NIGHT,
        )
    [org] = written.review().orgs
    assert {(c.change, c.old, c.new) for c in org.changes} == {
        ("joined", "", "[Beta] Admin"),
        ("role changed", '["a"]', "Member"),
        ("additional roles changed", "", "a, b"),
    }


def test_a_deleted_org_with_changes_keeps_its_name_and_is_not_in_the_scope(written) -> None:
    for org_id, name in (("gone", "Gone"), ("forgotten", "Forgotten")):
        written.add(
            "propel_auth_history.orgs_history",
            org_id=org_id,
            name=name,
            valid_from=NIGHT - 90 * DAY,
            valid_to=NIGHT - DAY,
        )
    written.add(
        "propel_auth_marts.fct_user_changes", org_id="gone", user_id="user", change="left_org", seen_at=NIGHT - DAY
    )
    review = written.review()
    assert [(org.name, org.is_deleted) for org in review.orgs] == [("Acme", False), ("Gone", True)]
    scope = "1 orgs, 1 memberships, 0 active API keys; also 1 deleted org with changes in the period"
    assert scope in page_of(review)


def test_values_that_the_privacy_policy_drops_are_no_exceptions_and_named_on_the_cover(written) -> None:
    written._db.execute("UPDATE propel_auth_history.users_history SET mfa_enabled = NULL")
    review = written.review()
    assert review.exceptions == []
    note = "Exceptions that depend on mfa_enabled are not known: the history has no value of it."
    assert review.notes == [note]
    cover = page_of(review).partition('<section id="exceptions">')[0]
    assert note in cover


@pytest.mark.parametrize("last_day", [AS_OF, AS_OF - 200 * DAY])
def test_administrators_are_not_dormant_if_the_last_activity_is_not_stored(written, last_day) -> None:
    written._db.execute("UPDATE propel_auth_marts.fct_user_activity_daily SET day = ?", [last_day])
    dormant = [e.kind for e in written.review().exceptions]
    assert dormant == (["Dormant administrator"] if last_day < AS_OF else [])
    written._db.execute("DELETE FROM propel_scans WHERE table_name = 'user_query'")
    written.add_scan("user_query", NIGHT - DAY, 1, 1)
    written.add_scan("user_query", NIGHT - HOUR, 1, 1, active=0)
    written.add_scan("user_query", NIGHT, 1, 1, mode="recent")
    review = written.review()
    assert review.exceptions == []
    assert [member.last_active_day for member in review.members()] == [None]
    note = "Exceptions that depend on last_active_at are not known: the last full load has no value of it."
    assert review.notes == [note]
    assert note in page_of(review)
    assert ">not known</span>" in page_of(review)


def test_the_numbers_of_values_are_not_known_after_an_erasure(written) -> None:
    written._db.execute("UPDATE propel_scans SET values_read = NULL")
    review = written.review()
    assert review.notes == []
    assert [member.last_active_day for member in review.members()] == [AS_OF]
    written._db.execute(
        "UPDATE propel_auth_marts.fct_user_activity_daily SET day = ?, is_signup_day = true", [AS_OF - 200 * DAY]
    )
    assert written.review().exceptions == [], (
        "of an activity that is not stored, the mart has the days of sign-ups only"
    )


def test_included_roles_in_another_order_are_no_change(written) -> None:
    roles = {"old_value": '["Owner", "Admin"]', "new_value": '["Admin", "Owner"]', "seen_at": NIGHT}
    written.add(
        "propel_auth_marts.fct_user_changes", org_id="o1", user_id="u1", change="included_roles_changed", **roles
    )
    assert not [c for org in written.review().orgs for c in org.changes if c.change == "included roles changed"]


def test_a_role_that_includes_the_owner_role_owns_the_org(written) -> None:
    roles = ["Super Owner", "Owner", "Admin"]
    written._db.execute(
        "UPDATE propel_auth_history.memberships_history SET user_role = ?, inherited_user_roles_plus_current_role = ?",
        [roles[0], json.dumps(roles)],
    )
    review = written.review()
    assert [member.through for member in review.members()] == [
        "Super Owner: assigned; Owner, Admin: included in Super Owner"
    ]
    assert review.exceptions == []


def test_the_tenant_is_that_of_the_last_load_in_the_review(written) -> None:
    written.add_scan("org_query", NIGHT + 5 * DAY, 1, 1, tenant="https://auth.acme.com")
    written.add_scan("user_query", NIGHT + 5 * DAY, 1, 1, tenant="https://auth.acme.com")
    written.add("propel_scans", load_id="events", table_name="user_query", mode="events", verdict="counted",
                finished_at=NIGHT)  # fmt: skip
    review = written.review()
    assert review.tenant == TENANT
    assert TENANT in page_of(review)


@pytest.mark.parametrize(("enabled", "detail"), [(None, "locked"), (True, "locked"), (False, "disabled")])
def test_a_locked_user_is_not_called_disabled(written, enabled, detail) -> None:
    written._db.execute("UPDATE propel_auth_history.users_history SET locked = true, enabled = ?", [enabled])
    assert [e.detail for e in written.review().exceptions] == [f"role Owner; {detail}"]


@pytest.mark.parametrize(
    ("email", "name", "shown"),
    [
        ("ada@example.com", "Ada", "ids, names and e-mail addresses"),
        ("0f9a" * 16, None, "ids and hashes of e-mail addresses"),
        (None, None, "ids only"),
        (None, "Ada", "ids and names"),
    ],
)
def test_the_cover_names_the_personal_data_that_the_review_has(written, email, name, shown) -> None:
    written._db.execute("UPDATE propel_auth_history.users_history SET email = ?, first_name = ?", [email, name])
    row = '<tr><th scope="row">Personal data</th><td>{}</td></tr>'
    assert row.format(shown) in page_of(written.review(with_names=True))
    assert row.format("ids only") in page_of(written.review())


def test_changes_before_the_first_load_are_not_known_if_it_was_on_the_first_day(written) -> None:
    written._db.execute("DELETE FROM propel_auth_history.user_loads")
    since = AS_OF - 10 * DAY
    written.add_load(NIGHT - 10 * DAY)
    written.add_load(NIGHT)
    review = written.review(since=since)
    assert review.unknown_changes == [
        "Changes before 2026-09-20 04:00 UTC are not known: it is the first load in the history."
    ]
    assert "None between 2026-09-20 04:00 and 2026-09-30 04:00 UTC." in page_of(review)
    assert written.review(since=since + DAY).unknown_changes == []


def test_a_review_is_preliminary_while_changes_and_activity_are_older_than_the_history(written) -> None:
    assert written.review().is_preliminary is False
    written._db.execute("UPDATE propel_auth_marts.audit_user_marts SET as_of = ?", [NIGHT - DAY])
    assert written.review().is_preliminary is True
    written._db.execute("DROP TABLE propel_auth_marts.audit_user_marts")
    assert written.review().is_preliminary is True
