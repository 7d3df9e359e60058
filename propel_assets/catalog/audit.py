"""The audit tables: how each table was read, what changed, and what checks found. propel-assets writes them."""

from functools import partial

from propel_assets.catalog.model import (
    Audit,
    Table,
    boolean,
    double,
    identifier,
    integer,
    json,
    json_list,
    text,
    timestamp,
)

_audit = partial(Table, scan="", group="audit", path="", shape=Audit())

PROPEL_SCANS = _audit(
    name="propel_scans",
    key=("load_id", "table_name"),
    description="One row per load and table: how the table was read, and how many rows it must have.",
    columns=(
        text("load_id", "dlt's id of the load. The load is complete once `_dlt_loads` has this id.", required=True),
        text("table_name", "The table.", required=True),
        text("mode", "`full`; `recent`: only recent changes were read; `events`: only what events named."),
        text("verdict", "`proved`, `counted` or `skipped`.", required=True),
        text("reason", "Why the table was skipped, or why the scan is not proved."),
        integer("rows_expected", "Rows the table must have after the load. Null for skipped and merged tables."),
        integer("rows_read", "Different rows that were read."),
        integer("total_min", "Smallest total that PropelAuth returned during the scan."),
        integer("total_max", "Largest total that PropelAuth returned during the scan."),
        integer("attempts", "Attempts of the scan: how many times the list was read."),
        integer("pages", "Responses with rows."),
        integer("requests", "Requests of the whole scan."),
        integer("retries", "Requests that were retried."),
        integer("rate_limited", "Responses with status 429."),
        double("waited_seconds", "Seconds spent waiting for the rate limit, summed over workers."),
        integer("concurrency", "Highest number of concurrent requests."),
        json("unknown_fields", "Fields that differ from the catalog: how each differs and which column stores it."),
        json("values_read", "Number of values read for each column, those in `__v_text` included."),
        json_list(
            "variants",
            "Values in `__v_text`, because their column cannot hold them: column, reason, number.",
            items="json",
        ),
        integer("rows_deleted", "Rows that were deleted because events named them and PropelAuth does not have them."),
        integer(
            "event_loads",
            "Number of complete loads of events when the scan began. Null for tables that events do not change.",
        ),
        json("resume_state", "Where the next scan resumes: row counts, and how far the list was read."),
        timestamp("started_at", "When the scan began (UTC).", required=True),
        timestamp("finished_at", "When the scan ended (UTC).", required=True),
    ),
)

PROPEL_CHECKS = _audit(
    name="propel_checks",
    key=("load_id", "table_name", "check_name", "checked_at"),
    description="One row per evaluation of a check.",
    columns=(
        text("load_id", "The load that was checked.", required=True),
        text("table_name", "The table.", required=True),
        text("check_name", "The check.", required=True),
        boolean("passed", "Whether the check passed.", required=True),
        text("severity", "`ERROR` or `WARN`.", required=True),
        text("summary", "One sentence without personal data.", required=True),
        timestamp("checked_at", "When the check was evaluated (UTC).", required=True),
    ),
)

PROPEL_SCAN_STATE = _audit(
    name="propel_scan_state",
    key=(),
    description="Users, orgs and memberships that the last two proved full scans returned, for the comparison with "
    "webhooks in `propel_event_grades`. Empty without webhooks. A row without ids marks a scan as complete.",
    columns=(
        text("load_id", "The load of the scan.", required=True),
        text("table_name", "The table that was scanned.", required=True),
        identifier("user_id", "The user, as the table has it.", person="subject"),
        identifier("org_id", "The org, as the table has it."),
        text("user_role", "The member's role."),
        json_list("additional_roles", "The member's further roles."),
        boolean("enabled", "Whether the user was enabled."),
        boolean("locked", "Whether the user was locked out."),
    ),
)

PROPEL_EVENT_GRADES = _audit(
    name="propel_event_grades",
    key=("load_id", "table_name", "event_type"),
    description="The grade of the webhooks: one row per proved full scan and type of event that reports changes of its "
    "table. The scan is compared with the previous proved scan. A change without an event was missed.",
    columns=(
        text("load_id", "The load of the scan.", required=True),
        text("table_name", "The table that was scanned.", required=True),
        text("event_type", "PropelAuth's name of the event type that reports the change.", required=True),
        text("previous_load_id", "The load of the previous scan, with which the scan is compared.", required=True),
        timestamp("compared_from", "When the previous scan began (UTC).", required=True),
        timestamp("compared_to", "When the scan ended (UTC).", required=True),
        integer("changes", "Changes of the event type between the previous scan and this scan.", required=True),
        integer("missed", "Changes without an event.", required=True),
        double(
            "late_seconds_median",
            "Median time from `created_at` to the receipt of the event. Only `*.created`: other changes have no time.",
        ),
        double("late_seconds_max", "Longest time from `created_at` to the receipt of the event. Only `*.created`."),
        timestamp("last_event_at", "When the last event of any type was received (UTC).", required=True),
        timestamp(
            "graded_at",
            "When the comparison was last made (UTC). The next proved full load makes it again, with late events.",
            required=True,
        ),
        boolean("is_settled", "Whether the grade is final: computed at least 2 minutes after the scan.", required=True),
    ),
)

PROPEL_CHANGES = _audit(
    name="propel_changes",
    key=(),
    description="The change log: one row for each user, org or membership that was read between full loads, or found "
    "changed after that. It is written before the rows of its load. Empty without webhooks.",
    columns=(
        text("load_id", "The load that wrote the row of the table.", required=True),
        text("table_name", "`user_query`, `org_query` or `org_membership`.", required=True),
        identifier("user_id", "The user, as stored in the table.", person="subject"),
        identifier("org_id", "The org, as stored in the table."),
        text("change", "`added`, `changed`, `deleted` or `unchanged`.", required=True),
        text("mode", "The mode of the load.", required=True),
        timestamp("changed_after", "The change was made after this time: the row was read before (UTC)."),
        timestamp("changed_before", "The change was made before this time (UTC)."),
        timestamp("observed_from", "The row was read after this time (UTC).", required=True),
        timestamp("observed_to", "The row was read before this time (UTC).", required=True),
    ),
)
