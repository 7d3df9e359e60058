"""Charts of the users and organizations of PropelAuth, from the tables of the last load, in any warehouse.

    marimo run explore.py     as an app; marimo edit to change it
    python explore.py         the figures in the terminal
    marimo export ipynb explore.py -o explore.ipynb     for Jupyter

It reads the destination that `propel-assets status` reads in the same folder, with the same settings. It shows no
personal data.
"""

import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium", app_title="PropelAuth: users and organizations")


@app.cell
def _():
    import sys
    from collections import Counter

    import marimo as mo

    from propel_assets.errors import PropelError
    from propel_assets.reporting.drawing import bar_chart, seat_chart, time_chart
    from propel_assets.settings import load_settings
    from propel_assets.warehouse.status import format_age
    from propel_assets.warehouse.tables import open_tables

    return Counter, PropelError, bar_chart, format_age, load_settings, mo, open_tables, seat_chart, sys, time_chart


@app.cell
def _(PropelError, format_age, load_settings, mo, open_tables, sys):
    NEEDED = ("user_query", "org_query", "org_membership", "chart_metrics")

    def log(text):
        print(text, file=sys.stderr)

    try:
        tables, reason = open_tables(load_settings(), NEEDED, log), ""
    except PropelError as error:
        tables, reason = None, f"Nothing to show. {error}"

    if tables is None and mo.app_meta().mode == "script":
        sys.exit(reason)
    mo.stop(tables is None, mo.callout(mo.md(reason), kind="warn"))
    ask = tables.rows  # the SQL is DuckDB's; dlt translates it for other warehouses
    _oldest = min(tables.loaded_at, key=tables.loaded_at.get)
    origin = f"{tables.location}. Age of the oldest table, {_oldest}: {format_age(tables.loaded_at[_oldest])}."
    return ask, origin


@app.cell
def _(ask):
    [totals] = ask(
        """
        SELECT
            (SELECT count(*) FROM user_query) AS users,
            (SELECT count(*) FROM org_query) AS orgs,
            (SELECT count(*) FROM org_membership) AS memberships,
            (SELECT count(*) FROM user_query WHERE mfa_enabled) AS with_mfa,
            (SELECT max(result) FROM chart_metrics
             WHERE metric = 'active_users' AND cadence = 'Monthly'
                 AND date = (SELECT max(date) FROM chart_metrics
                             WHERE metric = 'active_users' AND cadence = 'Monthly')) AS active_this_month
        """
    )
    return (totals,)


@app.cell
def _(mo, origin, totals):
    users, org_count, memberships, with_mfa, active_this_month = totals
    figures = {
        "users": f"{users:,}",
        "active this month": f"{active_this_month or 0:,.0f}",
        "organizations": f"{org_count:,}",
        "seats taken": f"{memberships:,}",
        "users with a second factor": f"{with_mfa / max(users, 1):.0%}",
    }
    mo.vstack(
        [
            mo.md(f"# Users and organizations\n{origin}"),
            mo.hstack([mo.stat(value, label=label, bordered=True) for label, value in figures.items()], widths="equal"),
        ]
    )
    return (figures,)


@app.cell
def _(mo):
    def show(chart):
        return mo.vstack([mo.md(f"### {chart.title}\n{chart.summary}"), mo.Html(chart.svg(width=720))])

    cadence = mo.ui.radio(["Daily", "Weekly", "Monthly"], value="Weekly", inline=True, label="Per")
    cadence
    return cadence, show


@app.cell
def _(ask, cadence, show, time_chart):
    _signups = ask(f"SELECT date, result FROM chart_metrics WHERE metric = 'signups' AND cadence = '{cadence.value}'")
    show(
        time_chart(
            f"Sign-ups, {cadence.value}",
            "As PropelAuth counts them. The last period is not over.",
            None,
            {"Sign-ups": dict(_signups)},
            period="From",
            bars=True,
        )
    )
    return


@app.cell
def _(ask, cadence, show, time_chart):
    _active = ask(
        f"""
        SELECT date, result
        FROM chart_metrics
        WHERE metric = 'active_users' AND cadence = '{cadence.value}' AND cadence_completed
        """
    )
    show(
        time_chart(
            f"Active users, {cadence.value}",
            "Active at least once in the period; periods that are over.",
            None,
            {"Active users": dict(_active)},
            period="From",
        )
    )
    return


@app.cell
def _(ask):
    orgs = ask(
        """
        SELECT o.org_id, o.name, o.max_users, count(m.user_id) AS members
        FROM org_query AS o LEFT JOIN org_membership AS m ON m.org_id = o.org_id
        GROUP BY o.org_id, o.name, o.max_users
        ORDER BY members DESC, o.org_id
        """
    )
    return (orgs,)


@app.cell
def _(Counter, orgs, seat_chart, show):
    _largest = orgs[:15]
    _count = Counter(name for _, name, _, _ in _largest)
    show(
        seat_chart(
            "Seats per organization",
            "The 15 largest, beside the number of seats where it is limited.",
            None,
            [
                (name if _count[name] == 1 else f"{name} {org_id[:8]}", members, seats)
                for org_id, name, seats, members in _largest
            ],
        )
    )
    return


@app.cell
def _(bar_chart, orgs, show):
    _most = {"none": 0, "1": 1, "2 to 5": 5, "6 to 20": 20, "21 to 50": 50, "51 to 200": 200, "more": float("inf")}
    _sizes = [next(size for size, most in _most.items() if members <= most) for *_, members in orgs]
    show(
        bar_chart(
            "Size of organizations",
            "Organizations by their number of members.",
            None,
            ("Members", "Organizations"),
            [(size, _sizes.count(size), f"{_sizes.count(size):,}") for size in _most],
        )
    )
    return


@app.cell
def _(ask, bar_chart, show):
    roles = ask(
        """
        SELECT m.user_role AS role, count(*) AS members, avg(CASE WHEN u.mfa_enabled THEN 1.0 ELSE 0.0 END) AS with_mfa
        FROM org_membership AS m JOIN user_query AS u ON u.user_id = m.user_id
        GROUP BY m.user_role
        ORDER BY members DESC
        """
    )
    _bars = [(role, members, f"{members:,}") for role, members, _ in roles]
    show(bar_chart("Roles", "Members by their role.", None, ("Role", "Members"), _bars))
    return (roles,)


@app.cell
def _(bar_chart, roles, show):
    show(
        bar_chart(
            "Second factor, by role",
            "Share of the members with a second factor.",
            None,
            ("Role", "Share"),
            [(role, float(share), f"{share:.0%}") for role, _, share in roles],
        )
    )
    return


@app.cell
def _(ask, show, time_chart):
    _adoption = ask(
        """
        SELECT CAST(date_trunc('month', created_at) AS DATE) AS month,
            avg(CASE WHEN mfa_enabled THEN 1.0 ELSE 0.0 END) AS with_mfa
        FROM user_query
        GROUP BY CAST(date_trunc('month', created_at) AS DATE)
        """
    )
    show(
        time_chart(
            "Second factor, by month of sign-up",
            "Share of the users with a second factor.",
            None,
            {"Share": {month: float(share) for month, share in _adoption}},
            period="Month",
            percent=True,
        )
    )
    return


@app.cell
def _(figures, mo, origin):
    if mo.app_meta().mode not in ("run", "edit"):  # a terminal, or Jupyter, which cannot draw marimo's own boxes
        print(origin)
        for _label, _value in figures.items():
            print(f"{_value:>8}  {_label}")
    return


if __name__ == "__main__":
    app.run()
