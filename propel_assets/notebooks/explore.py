"""The users and organizations of PropelAuth in pictures, from the tables of the last load, whatever the warehouse.

    marimo run explore.py     as an app; marimo edit to change it
    python explore.py         the figures in the terminal
    marimo export ipynb explore.py -o explore.ipynb     for Jupyter

Run it where the tables were loaded, with the same settings. It shows no one's name or e-mail address.
"""

import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium", app_title="PropelAuth: users and organizations")


@app.cell
def _():
    import sys

    import altair as alt
    import dlt
    import marimo as mo
    import pandas as pd
    from dlt.destinations.exceptions import DatabaseUndefinedRelation, DestinationConnectionError
    from dlt.pipeline.exceptions import CannotRestorePipelineException

    from propel_assets.settings import disable_dlt_telemetry

    disable_dlt_telemetry()
    NOT_THERE = (CannotRestorePipelineException, DatabaseUndefinedRelation, DestinationConnectionError)
    return NOT_THERE, alt, dlt, mo, pd, sys


@app.cell
def _(NOT_THERE, dlt, mo, sys):
    NO_DATA = (
        "Nothing to show: user_query, org_query, org_membership and chart_metrics are not all there, or the warehouse "
        "cannot be reached now. Run `propel-assets load`, or `propel-assets demo`, then this again in the same folder."
    )

    def ask(sql):
        """Return a data frame. The SQL is DuckDB's; dlt translates it for other warehouses."""
        return tables(sql, "duckdb").df()

    try:
        tables = dlt.attach("propel_auth_pipeline").dataset()
        totals = ask(
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
        ).iloc[0]
    except NOT_THERE:
        totals = None

    if totals is None and mo.app_meta().mode == "script":
        sys.exit(NO_DATA)
    mo.stop(totals is None, mo.callout(mo.md(NO_DATA), kind="warn"))
    return ask, totals


@app.cell
def _(mo, totals):
    figures = {
        "users": f"{totals.users:,}",
        "active this month": f"{totals.active_this_month:,.0f}",
        "organizations": f"{totals.orgs:,}",
        "seats taken": f"{totals.memberships:,}",
        "users with a second factor": f"{totals.with_mfa / max(totals.users, 1):.0%}",
    }
    mo.vstack(
        [
            mo.md("# Users and organizations\nWhat PropelAuth had at the last load."),
            mo.hstack([mo.stat(value, label=label, bordered=True) for label, value in figures.items()], widths="equal"),
        ]
    )
    return (figures,)


@app.cell
def _(alt, mo):
    def titled(title, subtitle):
        return alt.Title(title, subtitle=subtitle, anchor="start", fontSize=16, subtitlePadding=6, offset=12)

    cadence = mo.ui.radio(["Daily", "Weekly", "Monthly"], value="Weekly", inline=True, label="Per")
    cadence
    return cadence, titled


@app.cell
def _(alt, ask, cadence, titled):
    _counts = ask(
        f"""
        SELECT date, result AS users, cadence_completed AS complete
        FROM chart_metrics
        WHERE metric = 'signups' AND cadence = '{cadence.value}'
        """
    )
    alt.Chart(
        _counts,
        description=f"Sign-ups, {cadence.value}",
        title=titled("Sign-ups", "As PropelAuth counts them. Pale: a period that is not over yet."),
    ).mark_bar(color="#4c78a8").encode(
        x=alt.X("date:T", title=None, axis=alt.Axis(format="%b %Y")),
        y=alt.Y("users:Q", title=None),
        opacity=alt.condition("datum.complete", alt.value(1), alt.value(0.4)),
        tooltip=[alt.Tooltip("date:T", title="from"), alt.Tooltip("users:Q", format=",")],
    ).properties(width="container", height=220)
    return


@app.cell
def _(alt, ask, cadence, titled):
    _counts = ask(
        f"""
        SELECT date, result AS users
        FROM chart_metrics
        WHERE metric = 'active_users' AND cadence = '{cadence.value}' AND cadence_completed
        """
    )
    alt.Chart(
        _counts, title=titled("Active users", "Active at least once in the period; periods that are over.")
    ).mark_area(color="#72b7b2", line={"color": "#2c7f79"}, opacity=0.5).encode(
        x=alt.X("date:T", title=None, axis=alt.Axis(format="%b %Y")),
        y=alt.Y("users:Q", title=None),
        tooltip=[alt.Tooltip("date:T", title="from"), alt.Tooltip("users:Q", format=",")],
    ).properties(width="container", height=220)
    return


@app.cell
def _(ask):
    seats = ask(
        """
        SELECT o.org_id, o.name, o.max_users AS allowed, count(m.user_id) AS taken
        FROM org_query AS o LEFT JOIN org_membership AS m ON m.org_id = o.org_id
        GROUP BY o.org_id, o.name, o.max_users
        """
    )
    return (seats,)


@app.cell
def _(alt, seats, titled):
    _largest = seats.nlargest(15, "taken")
    _same_name = _largest.name.duplicated(keep=False)
    _largest["org"] = _largest.name.mask(_same_name, _largest.name + " " + _largest.org_id.str[:8])
    _org = alt.Y("org:N", sort=list(_largest.org), title=None, axis=alt.Axis(labelLimit=260))
    _taken = (
        alt.Chart(_largest)
        .mark_bar(color="#4c78a8")
        .encode(y=_org, x=alt.X("taken:Q", title=None), tooltip=["org", "taken", "allowed"])
    )
    _allowed = (
        alt.Chart(_largest.dropna(subset=["allowed"]))
        .mark_tick(color="#e45756", thickness=3)
        .encode(y=_org, x="allowed:Q", tooltip=["org", "taken", "allowed"])
    )
    (_taken + _allowed).properties(
        title=titled("Seats per organization", "The 15 largest. Red: the most it may have, if limited."),
        width="container",
        height=alt.Step(24),
    )
    return


@app.cell
def _(alt, pd, seats, titled):
    _sizes = ["none", "1", "2 to 5", "6 to 20", "21 to 50", "51 to 200", "more"]
    _size = pd.cut(seats.taken, [-1, 0, 1, 5, 20, 50, 200, float("inf")], labels=_sizes)
    _orgs = _size.value_counts().rename_axis("size").reset_index(name="orgs")
    alt.Chart(_orgs, title=titled("Size of organizations", "How many have so many seats taken.")).mark_bar(
        color="#72b7b2"
    ).encode(
        x=alt.X("size:N", sort=_sizes, title=None, axis=alt.Axis(labelAngle=0)),
        y=alt.Y("orgs:Q", title=None),
        tooltip=["size", "orgs"],
    ).properties(width="container", height=180)
    return


@app.cell
def _(alt, ask, titled):
    roles = ask(
        """
        SELECT m.user_role AS role, count(*) AS seats, count(DISTINCT m.user_id) AS users,
            avg(CASE WHEN u.mfa_enabled THEN 1.0 ELSE 0.0 END) AS with_mfa
        FROM org_membership AS m JOIN user_query AS u ON u.user_id = m.user_id
        GROUP BY m.user_role
        """
    ).sort_values("seats", ascending=False)
    role = alt.Y("role:N", sort=list(roles.role), title=None)
    alt.Chart(roles, title=titled("Roles", "Seats by the role their user has there.")).mark_bar(color="#4c78a8").encode(
        y=role, x=alt.X("seats:Q", title=None), tooltip=["role", "seats", "users"]
    ).properties(width="container", height=alt.Step(24))
    return role, roles


@app.cell
def _(alt, role, roles, titled):
    alt.Chart(roles, title=titled("Second factor, by role", "Share of the seats whose user has one.")).mark_bar(
        color="#54a24b"
    ).encode(
        y=role,
        x=alt.X("with_mfa:Q", title=None, axis=alt.Axis(format="%"), scale=alt.Scale(domain=[0, 1])),
        tooltip=["role", "seats", alt.Tooltip("with_mfa:Q", format=".0%")],
    ).properties(width="container", height=alt.Step(24))
    return


@app.cell
def _(alt, ask, titled):
    _adoption = ask(
        """
        SELECT date_trunc('month', created_at) AS month, count(*) AS users,
            avg(CASE WHEN mfa_enabled THEN 1.0 ELSE 0.0 END) AS with_mfa
        FROM user_query
        GROUP BY date_trunc('month', created_at)
        """
    )
    alt.Chart(
        _adoption,
        title=titled("Second factor, by month of sign-up", "Share of the users who signed up then."),
    ).mark_line(point=True, color="#54a24b").encode(
        x=alt.X("month:T", title=None, axis=alt.Axis(format="%b %Y")),
        y=alt.Y("with_mfa:Q", title=None, axis=alt.Axis(format="%"), scale=alt.Scale(domain=[0, 1])),
        tooltip=["month:T", "users", alt.Tooltip("with_mfa:Q", format=".0%")],
    ).properties(width="container", height=220)
    return


@app.cell
def _(figures, mo):
    if mo.app_meta().mode not in ("run", "edit"):  # a terminal, or Jupyter, which cannot draw marimo's own boxes
        for _label, _value in figures.items():
            print(f"{_value:>8}  {_label}")
    return


if __name__ == "__main__":
    app.run()
