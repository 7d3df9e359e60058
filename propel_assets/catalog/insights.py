"""PropelAuth's insight reports and chart metrics."""

from propel_assets.catalog.model import (
    API,
    DOCS,
    INSIGHTS,
    MetricGrid,
    Reference,
    ReportGrid,
    Table,
    boolean,
    date,
    identifier,
    integer,
    json,
    json_list,
    text,
    timestamp,
)

DOC = f"{DOCS}/insights"
DAYS = ("30", "60", "90")

REPORT_COLUMNS = (
    text("type", "The type of report.", required=True),
    text("interval", "The report's interval: a number of days, `Weekly` or `Monthly`.", required=True),
    identifier("report_id", "The report that the row belongs to.", required=True),
    identifier("id", "The row's id within its report.", required=True),
    timestamp("report_time", "When PropelAuth computed the report (UTC).", required=True),
)

USER_REPORT = Table(
    name="user_report",
    scan="user_reports",
    group="insights",
    path=f"{API}/user_report/{{type}}",
    items="user_reports",
    key=("type", "interval", "report_id", "id"),
    description="PropelAuth's insight reports on users: re-engagement, churn, top inviters, champions. Only the latest "
    "report of each type and interval.",
    columns=(
        *REPORT_COLUMNS,
        identifier("user_id", "The reported user.", required=True, person="subject"),
        text("email", "The user's e-mail address.", "direct_identifier", required=True),
        timestamp("user_created_at", "When the user signed up (UTC).", required=True),
        timestamp("last_active_at", "When the user was last active (UTC).", required=True),
        text("username", "Username.", "direct_identifier"),
        text("first_name", "First name.", "personal"),
        text("last_name", "Last name.", "personal"),
        json_list("org_data", "List of the user's orgs: name, id, role. Null for none.", "identifier", items="json"),
        json("extra_properties", "What the report counted, for example `num_invites`."),
    ),
    shape=ReportGrid(
        (
            ("reengagement", ("Weekly", "Monthly")),
            ("churn", ("7", "14", "30")),
            ("top_inviter", DAYS),
            ("champion", DAYS),
        )
    ),
    doc=DOC,
    feature=INSIGHTS,
    references=(Reference(("user_id",), "user_query"),),
)

ORG_REPORT = Table(
    name="org_report",
    scan="org_reports",
    group="insights",
    path=f"{API}/org_report/{{type}}",
    items="org_reports",
    key=("type", "interval", "report_id", "id"),
    description="PropelAuth's insight reports on orgs: re-engagement, churn, growth, attrition. Only the latest "
    "report of each type and interval.",
    columns=(
        *REPORT_COLUMNS,
        identifier("org_id", "The reported org.", required=True),
        text("name", "The org's name.", required=True),
        integer("num_users", "Users in the org.", required=True),
        timestamp("org_created_at", "When the org was created (UTC).", required=True),
        json("extra_properties", "What the report counted."),
    ),
    shape=ReportGrid(
        (
            ("reengagement", ("Weekly", "Monthly")),
            ("churn", ("7", "14", "30")),
            ("growth", DAYS),
            ("attrition", DAYS),
        )
    ),
    doc=DOC,
    feature=INSIGHTS,
    references=(Reference(("org_id",), "org_query"),),
)

CHART_METRICS = Table(
    name="chart_metrics",
    scan="chart_metrics",
    group="insights",
    path=f"{API}/chart_metrics/{{metric}}",
    items="metrics",
    key=("metric", "cadence", "date"),
    description="PropelAuth's own figures: sign-ups, created orgs, active users and active orgs per day, week and "
    "month.",
    columns=(
        text("metric", "`signups`, `orgs_created`, `active_users` or `active_orgs`.", required=True),
        text("cadence", "`Daily`, `Weekly` or `Monthly`.", required=True),
        date("date", "The first day of the period.", required=True),
        integer("result", "The figure.", required=True),
        boolean("cadence_completed", "False while the period is not over.", required=True),
        text("chart_type", "The metric as the response names it."),
    ),
    shape=MetricGrid(("signups", "orgs_created", "active_users", "active_orgs"), ("Daily", "Weekly", "Monthly")),
    doc=DOC,
    load="merge",
    feature=INSIGHTS,
    recent=True,
)
