"""The charts draw only figures that exist."""

from datetime import date, timedelta

import duckdb

from propel_assets.reporting.charts import Query, active_users, cohorts, mfa, roles, seats, signups

MONDAY = date(2026, 11, 23)
ENGAGEMENT = "active_users BIGINT, provider_active_users BIGINT, provider_is_complete BOOLEAN, is_complete BOOLEAN"
MARTS = {
    "fct_signups_daily": "day DATE, signups BIGINT, provider_signups BIGINT, is_complete BOOLEAN",
    "fct_engagement_weekly": f"week_start DATE, {ENGAGEMENT}",
    "fct_engagement_daily": f"day DATE, {ENGAGEMENT}",
    "fct_retention_weekly": "cohort_week DATE, weeks_after BIGINT, cohort_users BIGINT, "
    "active_at_or_after_users BIGINT, weeks_observed BIGINT",
}


def marts_with(**rows: list[tuple]) -> Query:
    """Return the function that queries marts with these rows."""
    db = duckdb.connect()
    db.execute("CREATE SCHEMA marts")
    for mart, columns in MARTS.items():
        db.execute(f"CREATE TABLE marts.{mart} ({columns})")
        for row in rows.get(mart, []):
            db.execute(f"INSERT INTO marts.{mart} VALUES ({', '.join('?' * len(row))})", row)
    return lambda sql: db.execute(sql).fetchall()


def signup_days(days: int, *, loaded: range, counted: range) -> list[tuple]:
    """Return a row per day up to `MONDAY`; ranges are of days before it: 10 sign-ups of ours, 12 of PropelAuth's."""
    return [
        (
            MONDAY - timedelta(days=n),
            10 if n in loaded else 0,
            12 if n in counted else None,
            n in loaded and n > loaded[0],
        )
        for n in range(days)
    ]


def test_a_week_without_figures_of_propelauth_is_not_drawn_as_zero() -> None:
    chart = signups(marts_with(fct_signups_daily=signup_days(70, loaded=range(70), counted=range(29, 70))), "marts")
    assert chart is not None
    assert chart.head == ("Week of", "Sign-ups", "As PropelAuth counts")
    assert chart.rows[0] == ("2026-11-23", "10", "")
    assert chart.rows[4] == ("2026-10-26", "70", "")  # the day before is the last with a figure of PropelAuth
    assert chart.rows[5] == ("2026-10-19", "70", "84")
    assert "it counts 492 and the loads 410" in chart.summary


def test_weeks_without_a_load_of_users_are_not_drawn_as_zero() -> None:
    chart = signups(marts_with(fct_signups_daily=signup_days(70, loaded=range(30, 70), counted=range(70))), "marts")
    assert chart is not None
    assert [row[0] for row in chart.rows[:2]] == ["2026-10-19", "2026-10-12"]
    assert chart.headline == ("280", "sign-ups in the four weeks before this one")
    assert "it counts 480 and the loads 400" in chart.summary
    never = signups(marts_with(fct_signups_daily=signup_days(70, loaded=range(0), counted=range(70))), "marts")
    assert never is None


def test_the_active_users_of_the_last_week_are_of_the_figure_that_goes_on() -> None:
    weeks = [MONDAY - timedelta(weeks=n) for n in range(80)]

    def chart_of(last_counted: int):
        rows = [(week, 40, 60 if n >= last_counted else None, n >= last_counted, True) for n, week in enumerate(weeks)]
        chart = active_users(marts_with(fct_engagement_weekly=rows), "marts")
        assert chart is not None
        return chart

    assert chart_of(0).headline == ("60", "users active in the last full week, as PropelAuth counts")
    assert chart_of(15).headline == ("40", "users active in the last full week, as seen by loads: at least")
    assert chart_of(15).head == ("Week of", "As PropelAuth counts", "As seen by loads: at least")
    assert chart_of(60).title == "Active users per week, as seen by loads: at least"  # all are older than the chart


def daily_chart(days: list[tuple]):
    """Return the chart of daily rows: day, our figure, PropelAuth's, whether its figure is complete, and ours."""
    chart = active_users(marts_with(fct_engagement_daily=days), "marts")
    assert chart is not None
    return chart


def test_the_chart_of_active_users_names_the_source_of_a_single_line() -> None:
    chart = daily_chart([(date(2026, 11, day), None, 10 + day, True, True) for day in (23, 24)])
    assert chart.title == "Active users per day, as PropelAuth counts"
    assert "as PropelAuth counts" in chart.summary


def test_a_day_that_is_not_over_is_not_compared_with_the_day_before() -> None:
    counts = (310, 298, 305, 12)
    days = [(MONDAY + timedelta(days=n), users, None, None, n < 3) for n, users in enumerate(counts)]
    chart = daily_chart(days)
    assert chart.summary.startswith("305 users active in the day of 2026-11-25, +2% on the day before")
    assert chart.headline == ("305", "users active that day, as seen by loads: at least")
    assert [row[0] for row in chart.rows] == ["2026-11-25", "2026-11-24", "2026-11-23"]


def test_a_day_that_was_not_over_when_propelauth_counted_has_no_figure_of_it() -> None:
    days = [(MONDAY + timedelta(days=n), None, users, n < 1, n < 2) for n, users in enumerate((60, 12))]
    assert daily_chart(days).headline == ("60", "users active that day, as PropelAuth counts")


def test_the_day_of_the_first_load_is_drawn_as_one_that_is_not_over() -> None:
    chart = daily_chart([(MONDAY, 12, 5, False, False)])
    assert chart.headline == ("12", "users active that day, which was not over, as seen by loads: at least")
    assert chart.summary == (
        "12 users active in the day of 2026-11-23, which was not over, as seen by loads: at least."
    )


def test_a_week_that_was_not_over_when_propelauth_counted_has_no_figure_of_it() -> None:
    rows = [(MONDAY - timedelta(weeks=n), 40, 60, n > 0, True) for n in range(9)]
    chart = active_users(marts_with(fct_engagement_weekly=rows), "marts")
    assert chart is not None
    assert chart.rows[0] == ("2026-11-23", "", "40")
    assert chart.headline == ("40", "users active in the last full week, as seen by loads: at least")


def test_the_weeks_of_the_retention_chart_are_under_the_month_in_which_they_begin() -> None:
    rows = [(date(2026, 6, 29), after, 70, 35, 8) for after in range(49)]
    chart = cohorts(marts_with(fct_retention_weekly=rows), "marts")
    assert chart is not None
    assert chart.head[:2] == ("Weeks that begin in", "Users")
    assert chart.rows[0][:2] == ("Jun 2026", "70")
    assert chart.summary.startswith("70 sign-ups in weeks that begin in 1 month, at least 8 weeks ago.")


def test_figures_of_columns_that_the_privacy_policy_drops_are_not_known() -> None:
    """The marts have null: 0 % with a second factor, and all members idle, would be false."""
    days = [(MONDAY, 300, 120, 0.4), (MONDAY + timedelta(days=1), 300, None, None)]
    chart = mfa(lambda sql: days if "user_security" in sql else [(5, None), (9, None)], "marts")
    assert chart is not None
    assert chart.headline is None
    assert chart.summary == "The share is not known: the last load has no values of `enabled` or `mfa_enabled`."
    assert chart.rows == [("not known", "2")]
    used = seats(lambda sql: [("Acme", 5, 10, None, False, "org-1")], "marts")
    assert used is not None
    assert used.summary.endswith("It is not known which members are idle for 30 days.")
    assert used.rows[0][-1] == "not known"


def test_orgs_without_enabled_members_are_counted_beside_the_bars_of_mfa() -> None:
    orgs = [(5, 0.0), (9, 1.0), (0, None), (0, None)]
    chart = mfa(lambda sql: [(MONDAY, 300, 120, 0.4)] if "user_security" in sql else orgs, "marts")
    assert chart is not None
    assert sum(int(count) for _, count in chart.rows) == 2
    assert chart.summary.endswith("Orgs without enabled members are not shown: 2.")


def test_a_small_share_is_not_shown_as_zero() -> None:
    chart = roles(lambda sql: [("Member", 5_000), ("Manager", 16)] if "role_mix" in sql else [], "marts")
    assert chart is not None
    assert chart.rows == [("Member", "5,000", "100%"), ("Manager", "16", "<1%")]
