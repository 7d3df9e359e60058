"""Numbers that were wrong, or could mislead, over several simulated days against what happened in the sandbox."""

from datetime import UTC, datetime, timedelta

import duckdb
import pytest

from propel_assets.marts.runner import open_dbt

DAY, HOUR = 86_400, 3_600
MARTS = "propel_auth_marts"


def invite(store, org_id: str, email: str, *, hours: int = 5 * 24) -> dict:
    """Send an invitation that expires after ``hours``, and return it as the API sends it."""
    with store.lock:
        store.now += 1
        store.version += 1
        sent = {
            "invitee_email": email,
            "org_id": org_id,
            "org_name": store.orgs[org_id].wire["name"],
            "role_in_org": "Member",
            "additional_roles_in_org": [],
            "created_at": store.now,
            "expires_at": store.now + hours * HOUR,
            "inviter_email": None,
            "inviter_user_id": None,
        }
        store.invites.append(sent)
        return sent


def close(store, sent: dict) -> None:
    """Take an invitation off the list."""
    with store.lock:
        store.version += 1
        store.invites.remove(sent)


def accept(store, sent: dict) -> str:
    """Sign up the invited user, and let the user join."""
    user_id = store.add_user(email=sent["invitee_email"])
    store.add_membership(user_id, sent["org_id"])
    close(store, sent)
    return user_id


def funnel(query, *columns: str) -> dict[str, tuple]:
    rows = query(f"SELECT invitee_email, {', '.join(columns)} FROM {MARTS}.fct_invite_funnel ORDER BY created_at")
    return {email: tuple(values) for email, *values in rows}


@pytest.fixture
def invites(simulate):
    return simulate("+fct_invite_funnel", scans=("users", "orgs", "invites"))


def test_the_outcome_of_an_invite_does_not_change_after_it_is_gone(invites, query) -> None:
    store, org_id = invites.store, next(iter(invites.store.orgs))
    revoked, expired = invite(store, org_id, "revoked@x.example"), invite(store, org_id, "expired@x.example", hours=20)
    invites.load()
    close(store, revoked)
    invites.wait(days=1)
    close(store, expired)
    invites.load()
    wanted = {"revoked@x.example": ("vanished",), "expired@x.example": ("expired",)}
    assert wanted.items() <= funnel(query, "status").items()
    invites.wait(days=10)  # now the revoked one would have expired too
    invites.load()
    assert wanted.items() <= funnel(query, "status").items()


def test_two_invites_and_one_join_are_one_acceptance(invites, query) -> None:
    store, org_id = invites.store, next(iter(invites.store.orgs))
    first = invite(store, org_id, "twice@x.example")
    invites.load()
    close(store, first)
    invites.wait(days=1)
    second = invite(store, org_id, "Twice@x.example")
    invites.load()
    invites.wait(days=1)
    accept(store, second)
    invites.load()
    found = query(
        f"SELECT status FROM {MARTS}.fct_invite_funnel WHERE lower(invitee_email) = 'twice@x.example' ORDER BY 1 DESC"
    )
    assert found == [("replaced",), ("accepted",)]


def test_joining_long_after_a_revoked_invite_is_no_acceptance(invites, query) -> None:
    store, org_id = invites.store, next(iter(invites.store.orgs))
    revoked = invite(store, org_id, "late@x.example", hours=1000)
    invites.load()
    close(store, revoked)
    invites.wait(days=1)
    invites.load()
    invites.wait(days=1)
    invites.load()
    store.add_membership(store.add_user(email="late@x.example"), org_id)
    invites.wait(days=1)
    invites.load()
    assert funnel(query, "status")["late@x.example"] == ("vanished",)


def test_a_membership_that_is_read_before_or_after_its_invite_is_an_acceptance(invites, query) -> None:
    """The users may be loaded before the invites of the same refresh, or after them."""
    store, org_id = invites.store, next(iter(invites.store.orgs))
    sent = invite(store, org_id, "seen-late@x.example")
    invites.load()
    invites.load("users")
    accept(store, sent)
    invites.wait(hours=1)
    invites.load("invites")
    assert funnel(query, "status")["seen-late@x.example"] == ("vanished",)  # not decided: users are older
    invites.wait(hours=1)
    invites.load("users")
    assert funnel(query, "status")["seen-late@x.example"] == ("accepted",)


def test_hours_to_accept_are_bounds_also_across_midnight(invites, query) -> None:
    store, org_id = invites.store, next(iter(invites.store.orgs))
    invites.wait(hours=10)  # 22:00
    sent = invite(store, org_id, "midnight@x.example")
    invites.load()
    invites.wait(hours=3)
    joined_at = store.now
    accept(store, sent)
    invites.load()
    [(least, most)] = [funnel(query, "hours_to_accept_at_least", "hours_to_accept_at_most")["midnight@x.example"]]
    assert least <= (joined_at - sent["created_at"]) / HOUR <= most
    assert least == pytest.approx(1 / 6, abs=0.01)
    assert most == pytest.approx(3 + 1 / 6, abs=0.01)


def test_a_key_that_expired_three_hours_ago_has_a_negative_time_left(simulate, query) -> None:
    life = simulate("+fct_api_keys", scans=("users", "orgs", "end_user_api_keys", "end_user_api_keys_archived"))
    key = next(key for key in life.store.api_keys.values() if key.archived_at is None)
    key.wire["expires_at_seconds"] = life.store.now - 3 * HOUR
    life.load()
    [(status, left)] = query(
        f"SELECT status, days_until_expiry FROM {MARTS}.fct_api_keys WHERE api_key_id = '{key.api_key_id}'"
    )
    assert status == "expired"
    assert left == pytest.approx(-(3 + 1 / 6) / 24, abs=0.001)


def test_a_key_of_a_user_who_left_the_org_is_an_orphan(simulate, query) -> None:
    life = simulate("+fct_api_keys", scans=("users", "orgs", "end_user_api_keys", "end_user_api_keys_archived"))
    store = life.store
    key = next(key for key in store.api_keys.values() if key.archived_at is None)
    user_id, org_id = next((u, o) for o, members in store.of_org.items() for u in members)
    store.update_user(user_id, enabled=True)
    key.wire |= {"user_id": user_id, "org_id": org_id}
    reason = (
        f"SELECT is_orphan, orphan_reason FROM {MARTS}.fct_api_keys WHERE api_key_id = '{key.api_key_id}' ORDER BY day"
    )
    life.load()
    assert query(reason) == [(False, None)]
    store.remove_membership(user_id, org_id)
    life.wait(days=1)
    life.load()
    assert query(reason) == [(False, None), (True, "owner_left_org")]


def test_the_trend_of_an_org_uses_the_latest_load_at_least_28_days_ago(simulate, query) -> None:
    life = simulate("+fct_org_health")
    store = life.store
    org_id, members = next((o, list(m)) for o, m in store.of_org.items() if len(m) > 2)
    life.load()
    store.remove_membership(members[0], org_id)
    life.wait(days=29)
    life.load()
    row = f"SELECT trend_days, member_trend FROM {MARTS}.fct_org_health WHERE org_id = '{org_id}' ORDER BY day"
    assert query(row) == [(None, None), (29, -1)]
    life.wait(days=5)
    life.load()
    assert query(row)[-1] == (34, -1)


def test_an_org_is_dormant_when_no_member_was_active_in_30_days(simulate, query) -> None:
    life = simulate("+fct_org_health")
    store = life.store
    org_id, members = next((o, list(m)) for o, m in store.of_org.items() if m)
    for user_id in members:
        wire = store.users[user_id].wire
        store.update_user(user_id, created_at=min(wire["created_at"], store.now - 40 * DAY), last_active_at=store.now)
    last = max(store.users[user_id].wire["last_active_at"] for user_id in members)
    with store.lock:
        store.now = last + 30 * DAY - 11 * 60  # a load 10 minutes later is still within 30 days
    life.load()
    row = (
        f"SELECT active_members_30d > 0, is_dormant FROM {MARTS}.fct_org_health WHERE org_id = '{org_id}' ORDER BY day"
    )
    assert query(row)[-1] == (True, False)
    life.wait(days=1)
    life.load()
    assert query(row)[-1] == (False, True)
    agree = f"SELECT count(*) FROM {MARTS}.fct_org_health WHERE is_dormant AND active_members_30d > 0"
    assert query(agree) == [(0,)]


def test_churn_is_not_compared_with_an_old_report_or_for_deleted_users(simulate, small_sandbox, query) -> None:
    life = simulate("+audit_churned_users", scans=("users", "user_reports", "org_reports"))
    rows = f"SELECT user_id, found_by FROM {MARTS}.audit_churned_users WHERE window_days = 7"
    life.load()
    churned = dict(query(rows))
    assert churned
    assert set(churned.values()) == {"both"}
    gone = next(iter(churned))
    life.store.delete_user(gone)
    life.load("users")
    assert dict(query(rows)).keys() == churned.keys() - {gone}
    small_sandbox.faults.parse("insights_off")
    life.wait(days=1)
    life.load()
    assert query(rows) == []


def test_owners_by_additional_role_are_owners(simulate, query) -> None:
    life = simulate("+fct_security_posture", "fct_role_mix", "+fct_user_changes")
    store = life.store
    org_id = next(o for o, org in store.orgs.items() if org.role_mapping == "Default" and store.of_org[o])
    for user_id in list(store.of_org[org_id]):
        store.change_role(user_id, org_id, "Member")
    life.load()
    flags = f"SELECT owners, has_no_owner FROM {MARTS}.fct_security_posture WHERE org_id = '{org_id}' ORDER BY day"
    mix = f"SELECT members FROM {MARTS}.fct_role_mix WHERE org_id = '{org_id}' AND role = 'Owner' ORDER BY day"
    assert query(flags)[-1] == (0, True)
    owner = next(iter(store.of_org[org_id]))
    store.change_role(owner, org_id, "Member", "Owner")
    life.wait(days=1)
    life.load()
    assert query(flags)[-1] == (1, False)
    assert query(mix)[-1] == (1,)
    changed = f"SELECT change, old_value, new_value FROM {MARTS}.fct_user_changes WHERE user_id = '{owner}'"
    assert query(changed) == [("additional_roles_changed", None, '["Owner"]')]


def test_orgs_without_members_are_in_every_mart_of_orgs(simulate, query) -> None:
    life = simulate("+fct_org_health", "fct_security_posture", "fct_role_mix", "fct_seat_usage")
    org_id = life.store.add_org()
    life.load()
    for mart in ("fct_org_daily", "fct_security_posture", "fct_seat_usage", "fct_org_health"):
        assert query(f"SELECT members FROM {MARTS}.{mart} WHERE org_id = '{org_id}'") == [(0,)]
    members = query(f"SELECT sum(members), sum(org_members) FROM {MARTS}.fct_role_mix WHERE org_id = '{org_id}'")
    assert members == [(0, 0)]


def test_a_sign_up_stays_an_active_day_once_the_user_is_active_again(simulate, query) -> None:
    life = simulate("+fct_user_activity_daily")
    user_id = life.store.add_user()
    signed_up = datetime.fromtimestamp(life.store.now, UTC).date()
    life.wait(days=3)
    life.store.touch_user(user_id)
    life.load()
    days = f"SELECT day, is_signup_day FROM {MARTS}.fct_user_activity_daily WHERE user_id = '{user_id}' ORDER BY day"
    assert query(days) == [(signed_up, True), (signed_up + timedelta(days=3), False)]


def test_country_domains_of_free_mail_providers_are_free(simulate, query) -> None:
    life = simulate("+dim_user")
    classes = {"yahoo.co.uk": "free", "gmx.at": "free", "hey.com": "free", "company-1.example": "corporate"}
    users = {life.store.add_user(email=f"Someone@{domain.upper()}"): kind for domain, kind in classes.items()}
    life.load()
    found = dict(query(f"SELECT user_id, email_domain_class FROM {MARTS}.dim_user"))
    assert {user_id: found[user_id] for user_id in users} == users


def test_a_full_refresh_keeps_history(simulate, query) -> None:
    life = simulate(scans=("users", "orgs", "invites", "end_user_api_keys"))
    store = life.store
    life.load()
    gone, active = list(store.users)[:2]
    store.delete_user(gone)
    store.touch_user(active)
    life.wait(days=1)
    life.load()
    marts = (
        "propel_auth_history.users_history",
        "propel_auth_history.memberships_history",
        "propel_auth_history.orgs_history",
        "propel_auth_history.user_readings",
        *(
            f"{MARTS}.{mart}"
            for mart in (
                *("fct_user_activity_daily", "fct_org_activity_daily", "fct_user_security_daily", "fct_org_daily"),
                *("fct_role_mix", "fct_org_health", "fct_invite_funnel", "fct_api_keys"),
            )
        ),
    )
    before = {mart: query(f"SELECT count(*) FROM {mart}") for mart in marts}
    assert all(rows > [(0,)] for rows in before.values())
    with open_dbt(life.settings) as dbt:
        assert dbt.run("build", "--full-refresh").failed == {}
    assert {mart: query(f"SELECT count(*) FROM {mart}") for mart in marts} == before


def test_a_renamed_org_adds_no_version_to_its_memberships(simulate, query) -> None:
    life = simulate("memberships_history", "orgs_history")
    org_id = max(life.store.of_org, key=lambda org: len(life.store.of_org[org]))
    life.load()
    life.store.update_org(org_id, name="Renamed", metadata={"plan": "pro"})
    life.load()
    versions = "SELECT count(*) FROM propel_auth_history.{} WHERE org_id = '{}'"
    assert query(versions.format("orgs_history", org_id)) == [(2,)]
    assert query(versions.format("memberships_history", org_id)) == [(len(life.store.of_org[org_id]),)]


def test_a_user_who_left_and_came_back_has_two_spells_with_bounds_and_reasons(simulate, query) -> None:
    life = simulate("+fct_membership_spells")
    store = life.store
    org_id, (back, deleted, *_) = next((o, list(m)) for o, m in store.of_org.items() if len(m) > 2)
    other = next(o for o, m in store.of_org.items() if o != org_id and back not in m)
    member = next(iter(store.of_org[other]), None) or store.add_user()
    if other not in store.of_user[member]:
        store.add_membership(member, other)
    first = life.load()
    store.remove_membership(back, org_id)
    store.delete_user(deleted)
    store.delete_org(other)
    life.wait(days=1)
    second = life.load()
    store.add_membership(back, org_id)
    life.wait(days=1)
    third = life.load()
    columns = "spell, joined_after, joined_seen_at, left_after, left_seen_at, reason, is_current"
    rows = (
        f"SELECT {columns} FROM {MARTS}.fct_membership_spells WHERE user_id = '{{}}' AND org_id = '{{}}' ORDER BY spell"
    )

    def near(found: datetime | None, wanted: datetime | None) -> bool:
        return found is wanted or (
            found is not None and wanted is not None and abs(found - wanted) < timedelta(minutes=2)
        )

    one, two = query(rows.format(back, org_id))
    for found, wanted in ((one, (None, first, first, second)), (two, (second, third, None, None))):
        assert all(near(time, at) for time, at in zip(found[1:5], wanted, strict=True)), found
    assert (one[0], one[5:]) == (1, ("left", False))
    assert (two[0], two[5:]) == (2, (None, True))
    assert query(rows.format(deleted, org_id))[0][5] == "user_deleted"
    assert query(rows.format(member, other))[0][5] == "org_deleted"


def test_histories_and_marts_have_one_clock_in_every_time_zone(simulate, tmp_path) -> None:
    life = simulate("+dim_user", "+bridge_membership", "+dim_org")
    store = life.store
    edited, deleted, *_ = store.users
    life.load()
    life.wait(days=1)
    store.update_user(edited, first_name="Changed")
    store.delete_user(deleted)
    life.load()
    with duckdb.connect(str(tmp_path / "propel_auth_pipeline.duckdb"), read_only=True) as db:
        for zone in ("UTC", "America/Los_Angeles", "Asia/Tokyo"):
            db.execute(f"SET TimeZone = '{zone}'")
            late = db.execute(f"SELECT count(*) FROM {MARTS}.dim_user WHERE deleted_seen_at > as_of").fetchall()
            assert late == [(0,)]
            point = db.execute(
                f"SELECT users.user_id, history.first_name FROM {MARTS}.dim_user AS users "
                "JOIN propel_auth_history.users_history AS history ON history.user_id = users.user_id "
                "AND history.valid_from <= users.as_of AND (history.valid_to IS NULL OR history.valid_to > users.as_of)"
            ).fetchall()
            assert {user_id for user_id, _ in point} == set(store.users)
            assert dict(point)[edited] == "Changed"
            exact = "SELECT count(*) FROM propel_auth_history.users_history h JOIN propel_auth_marts.dim_user u "
            exact += "ON h.user_id = u.user_id AND h.valid_to = u.deleted_seen_at"
            assert db.execute(exact).fetchall() == [(1,)]
        naive = db.execute(
            "SELECT table_name, column_name FROM information_schema.columns "
            "WHERE table_schema IN ('propel_auth_marts', 'propel_auth_history') AND data_type = 'TIMESTAMP'"
        ).fetchall()
        assert naive == []


def test_days_without_a_load_or_an_event_have_rows_with_a_flag(simulate, query) -> None:
    life = simulate("+fct_signups_daily", "+fct_engagement_daily", scans=("users", "orgs", "chart_metrics"))
    first = life.load().date()
    life.wait(days=4)
    last = life.load().date()
    days = [first + timedelta(days=n) for n in range(5)]
    dates = query(f"SELECT day, has_reading FROM {MARTS}.dim_date WHERE day >= DATE '{first}' ORDER BY day")
    assert dates == [(day, day in (first, last)) for day in days]
    signups = query(
        f"SELECT day, signups, is_complete FROM {MARTS}.fct_signups_daily WHERE day >= DATE '{first}' ORDER BY 1"
    )
    assert [day for day, *_ in signups] == days
    assert [complete for *_, complete in signups] == [True] * 4 + [False]
    [(rows, gaps)] = query(f"SELECT count(*), date_diff('day', min(day), max(day)) + 1 FROM {MARTS}.fct_signups_daily")
    assert rows == gaps
    engaged = query(
        f"SELECT day, active_users IS NULL, active_users_7d IS NULL FROM {MARTS}.fct_engagement_daily "
        f"WHERE day >= DATE '{first - timedelta(days=1)}' ORDER BY day"
    )
    assert engaged == [
        (first - timedelta(days=1), True, True),  # before the first load
        *((day, False, day not in (first, last)) for day in days),
    ]


def test_open_periods_have_no_churn_and_no_projection(simulate, query) -> None:
    life = simulate("+fct_growth_accounting", "fct_mau_billing", scans=("users", "orgs", "chart_metrics"))
    life.load()  # 24 November
    life.wait(days=7)
    life.load()  # 1 December
    growth = (
        f"SELECT month, churned_users IS NULL, user_quick_ratio IS NULL, is_complete FROM {MARTS}.fct_growth_accounting"
    )
    assert [row[1:] for row in query(f"{growth} ORDER BY month")] == [(True, True, True), (True, True, False)]
    billing = f"SELECT days_counted, projected_mau FROM {MARTS}.fct_mau_billing ORDER BY month DESC LIMIT 1"
    assert query(billing) == [(1, None)]
    life.wait(days=31)
    life.load()  # 1 January: December is over
    assert [row[1] for row in query(f"{growth} ORDER BY month")] == [True, False, True]
    life.wait(days=9)
    life.load()
    [(days, projected)] = query(billing)
    assert days == 10
    assert projected is not None


def test_a_time_in_the_data_is_never_after_as_of(simulate, query) -> None:
    """PropelAuth's clock may be ahead of ours."""
    life = simulate("+dim_user", "+dim_org")
    with life.store.lock:
        life.store.now += 2 * HOUR
    life.store.touch_user(next(iter(life.store.users)))
    created = life.store.add_org()
    with life.store.lock:
        life.store.now -= 2 * HOUR + 60
    life.load()
    assert query(f"SELECT count(*) FROM {MARTS}.dim_user WHERE last_active_at > as_of OR first_seen_at > as_of") == [
        (0,)
    ]
    assert query(f"SELECT created_at <= as_of FROM {MARTS}.dim_org WHERE org_id = '{created}'") == [(True,)]


def test_accounts_are_compared_by_size_and_plan_over_two_months(simulate, query) -> None:
    life = simulate("+fct_account_growth_monthly")
    store = life.store
    grows, shrinks, dies = sorted(store.orgs, key=lambda org: -len(store.of_org[org]))[:3]
    store.update_org(grows, metadata={"plan": "pro"})
    before = {org: len(members) for org, members in store.of_org.items()}
    life.load()
    assert query(f"SELECT count(*) FROM {MARTS}.fct_account_growth_monthly") == [(0,)]
    outsider = store.add_user()
    store.add_membership(outsider, grows)
    store.remove_membership(next(iter(store.of_org[shrinks])), shrinks)
    store.delete_org(dies)
    new = store.add_org()
    life.wait(days=10)
    life.load()
    totals = (
        "accounts_at_start, new_accounts, lost_accounts, accounts_at_end, expanded_accounts, contracted_accounts, "
        "members_at_start, retained_members"
    )
    sums = ", ".join(f"sum({name})" for name in totals.split(", "))
    kept = sum(len(store.of_org[org]) for org in store.orgs if org != new)
    rows = query(f"SELECT {sums} FROM {MARTS}.fct_account_growth_monthly")
    assert rows == [(len(before), 1, 1, len(store.orgs), 1, 1, sum(before.values()), kept)]
    pro = query(
        f"SELECT accounts_at_start, expanded_accounts FROM {MARTS}.fct_account_growth_monthly WHERE plan = 'pro'"
    )
    assert sum(row[1] for row in pro) == 1


def test_activation_of_a_user_who_signed_up_after_the_first_load(simulate, query) -> None:
    life = simulate("+fct_activation", scans=("users", "orgs", "invites"))
    store, org_id = life.store, next(iter(life.store.orgs))
    sent = invite(store, org_id, "new@x.example")
    life.load()
    life.wait(hours=2)
    user_id = accept(store, sent)
    signed_up = store.users[user_id].wire["created_at"]
    store.update_user(user_id, mfa_enabled=False)
    life.load()
    life.wait(days=2)
    store.update_user(user_id, mfa_enabled=True)
    store.touch_user(user_id)
    life.load()
    columns = (
        "hours_to_first_org_at_most, days_to_first_return_at_most, hours_to_first_accepted_invite_at_most, "
        "hours_to_mfa_at_most, signup_day"
    )
    [row] = query(f"SELECT {columns} FROM {MARTS}.fct_activation")
    assert row[0] == pytest.approx(1 / 6, abs=0.02)
    assert row[1] == 2
    assert row[2] == pytest.approx(1 / 6, abs=0.02)
    assert row[3] == pytest.approx(48 + 1 / 6, abs=0.02)
    assert row[4] == datetime.fromtimestamp(signed_up, UTC).date()


def test_changes_of_a_user_are_one_log(simulate, query) -> None:
    life = simulate("+fct_user_changes")
    store = life.store
    user_id = next(u for u, orgs in store.of_user.items() if orgs)
    org_id = next(iter(store.of_user[user_id]))
    store.update_user(user_id, mfa_enabled=True, enabled=True, locked=False)
    life.load()
    assert query(f"SELECT count(*) FROM {MARTS}.fct_user_changes") == [(0,)]
    life.wait(days=1)
    store.update_user(user_id, mfa_enabled=False, enabled=False)
    newcomer = store.add_user()
    life.load()
    life.wait(days=1)
    store.remove_membership(user_id, org_id)
    life.load()
    life.wait(days=1)
    store.delete_user(newcomer)
    life.load()
    found = query(f"SELECT user_id, org_id, change FROM {MARTS}.fct_user_changes ORDER BY seen_at, change")
    assert found == [
        (user_id, None, "disabled"),
        (user_id, None, "mfa_disabled"),
        (newcomer, None, "signed_up"),
        (user_id, org_id, "left_org"),
        (newcomer, None, "deleted"),
    ]
    bounds = query(f"SELECT count(*) FROM {MARTS}.fct_user_changes WHERE changed_after < seen_at")
    assert bounds == [(len(found),)]


def test_retention_cells_are_complete_once_every_user_had_the_week(simulate, query) -> None:
    life = simulate("+fct_retention_weekly", scans=("users",))
    user_id = life.store.add_user()
    life.load()
    week = "cohort_week = DATE '2026-11-23'"
    columns = "weeks_after, active_at_or_after_users, is_complete"
    rows = f"SELECT {columns} FROM {MARTS}.fct_retention_weekly WHERE {week} ORDER BY 1"
    cohort = query(f"SELECT DISTINCT cohort_users FROM {MARTS}.fct_retention_weekly WHERE {week}")[0][0]
    assert query(rows) == [(0, cohort, False)]
    life.wait(days=8)
    life.store.touch_user(user_id)
    life.load()
    weeks = query(rows)
    assert weeks[0] == (0, cohort, True)
    assert weeks[1][2] is False
    life.store.delete_user(user_id)  # counts with the last activity that was seen
    life.wait(days=7)
    life.load()
    after = query(rows)
    assert after[1] == (1, weeks[1][1], True)
    assert query(f"SELECT DISTINCT cohort_users FROM {MARTS}.fct_retention_weekly WHERE {week}")[0][0] == cohort
