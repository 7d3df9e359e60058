"""The metrics of the dbt project, computed by MetricFlow, equal the figures of their marts."""

import re
import shutil
from collections import Counter
from collections.abc import Callable
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import pytest

from propel_assets.marts.runner import duckdb_profile, run_dbt
from propel_assets.settings import Target
from propel_assets_tests.marts.conftest import DESCRIPTIONS, SEARCH_PATH, Loaded

Metric = Callable[..., dict[Any, Any]]


@pytest.fixture(scope="module")
def manifest(loaded, tmp_path_factory) -> Any:
    """The semantic manifest that dbt writes. The imports are here because they take 3 s, also where no test runs."""
    from metricflow_semantics.model.dbt_manifest_parser import parse_manifest_from_dbt_generated_manifest

    folder = tmp_path_factory.mktemp("semantic")
    profile = duckdb_profile(Target(), str(loaded.file))
    assert run_dbt(profile, folder, "compile", "--select", "dim_date").failed == {}
    return parse_manifest_from_dbt_generated_manifest((folder / "semantic_manifest.json").read_text())


@pytest.fixture(scope="module")
def metric_of(manifest) -> Callable[[Loaded], Metric]:
    """Return the metrics of a warehouse."""
    from metricflow.engine.metricflow_engine import MetricFlowEngine, MetricFlowQueryRequest
    from metricflow.protocols.sql_client import SqlEngine
    from metricflow.sql.render.duckdb_renderer import DuckDbSqlPlanRenderer
    from metricflow_semantics.model.semantic_manifest_lookup import SemanticManifestLookup

    # What MetricFlow needs to render SQL. It does not run any.
    client: Any = SimpleNamespace(sql_engine_type=SqlEngine.DUCKDB, sql_plan_renderer=DuckDbSqlPlanRenderer())
    engine = MetricFlowEngine(SemanticManifestLookup(manifest), client)

    def of(warehouse: Loaded) -> Metric:
        def values(name: str, *group_by: str) -> dict[Any, Any]:
            """Return the values of a metric by the dimensions it is grouped by."""
            request = MetricFlowQueryRequest.create(metric_names=[name], group_by_names=list(group_by))
            rows = warehouse.query(engine.explain(request).sql_statement.sql, time_zone="America/Los_Angeles")
            keys = [tuple(value.date() if hasattr(value, "date") else value for value in row[:-1]) for row in rows]
            return {key[0] if len(key) == 1 else key: row[-1] for key, row in zip(keys, rows, strict=True)}

        return values

    return of


@pytest.fixture(scope="module")
def metric(loaded, metric_of) -> Metric:
    return metric_of(loaded)


def test_signups(metric, loaded) -> None:
    found = {day: n for day, n in metric("signups", "metric_time__day").items() if n}
    assert found == dict(loaded.query("SELECT day, signups FROM fct_signups_daily WHERE signups > 0"))
    by_class = metric("signups", "metric_time__day", "user__email_domain_class")
    ours = loaded.query(
        "SELECT day, signups_corporate_domain FROM fct_signups_daily WHERE signups_corporate_domain > 0"
    )
    assert {day: n for (day, kind), n in by_class.items() if kind == "corporate" and n} == dict(ours)


@pytest.mark.parametrize(
    ("grain", "mart", "column"),
    [
        ("day", "fct_engagement_daily", "day"),
        ("week", "fct_engagement_weekly", "week_start"),
        ("month", "fct_engagement_monthly", "month_start"),
    ],
)
def test_active_users(metric, loaded, grain, mart, column) -> None:
    found = metric("active_users", f"metric_time__{grain}")
    ours = dict(loaded.query(f"SELECT {column}, active_users FROM {mart}"))
    assert set(found) <= {period for period, users in ours.items() if users is not None}
    [(first_load,)] = loaded.query("SELECT min(day) FROM user_loads")
    whole = {period: users for period, users in ours.items() if period >= first_load}
    assert {period: found.get(period, 0) for period in whole} == whole
    since = f"SELECT date_trunc('{grain}', day)::DATE, count(DISTINCT user_id) FROM fct_user_activity_daily"
    counted = dict(loaded.query(f"{since} WHERE NOT is_before_first_load GROUP BY 1"))
    assert counted
    assert found == counted


def test_seats(metric, loaded) -> None:
    for name, column in (("seats_used", "sum(members)"), ("seats", "sum(max_users)")):
        ours = dict(loaded.query(f"SELECT day, {column} FROM fct_org_daily GROUP BY day"))
        assert metric(name, "metric_time__day") == ours
    [(share,)] = loaded.query("SELECT sum(members) / sum(max_users) FROM fct_org_daily WHERE max_users IS NOT NULL")
    assert list(metric("seat_utilization", "metric_time__day").values()) == [pytest.approx(share)]
    [(capped, all_members)] = loaded.query(
        "SELECT count(*) FILTER (max_users IS NOT NULL), count(*) FROM org_membership JOIN org_query USING (org_id)"
    )
    assert 0 < capped < all_members
    assert metric("capped_seats_used", "metric_time__day") == {load_day(loaded): capped}


def load_day(loaded: Loaded) -> date:
    """Return the day of the only load of users."""
    [(day,)] = loaded.query("SELECT max(finished_at)::DATE FROM propel_scans WHERE table_name = 'user_query'")
    return day


def test_retention(metric, loaded) -> None:
    found = metric("retention", "metric_time__day", "cohort__weeks_after")
    sql = (
        "SELECT cohort_week, weeks_after, active_at_or_after_share FROM fct_retention_weekly WHERE weeks_observed >= 8"
    )
    ours = {(week, int(k)): share for week, k, share in loaded.query(sql)}
    assert len(ours) > 100
    assert {(week, int(k)): share for (week, k), share in found.items() if share is not None} == pytest.approx(ours)


def test_users_of_cohorts_and_retained_users_are_those_of_the_table_of_users(metric, loaded) -> None:
    """Week k of a cohort counts once the last sign-up of the cohort is k + 8 weeks ago."""
    rows = loaded.query(
        """
        WITH users AS (
            SELECT date_trunc('week', created_at)::DATE AS week, epoch(created_at) AS signed_up,
                epoch(last_active_at) - epoch(created_at) AS active
            FROM user_query
        ),
        cohorts AS (SELECT week, max(signed_up) AS last_signed_up FROM users GROUP BY week),
        load AS (SELECT epoch(max(finished_at)) AS loaded_at FROM propel_scans WHERE table_name = 'user_query')
        SELECT week, k, count(*), count(*) FILTER (active >= k * 7 * 86400)
        FROM users JOIN cohorts USING (week), range(53) weeks (k), load
        WHERE loaded_at - last_signed_up >= (k + 8) * 7 * 86400
        GROUP BY ALL
        """
    )
    assert len(rows) > 100
    for name, column in (("cohort_users", 2), ("retained_users", 3)):
        by_cell = metric(name, "metric_time__day", "cohort__weeks_after")
        ours = {(week, k): row[column] for row in rows for week, k in [row[:2]]}
        assert {cell: n for cell, n in by_cell.items() if n} == {cell: n for cell, n in ours.items() if n}, name
        by_week: Counter[int] = Counter()
        for (_, k), users in ours.items():
            by_week[k] += users
        by_metric = metric(name, "cohort__weeks_after")
        assert {k: n for k, n in by_metric.items() if n} == {k: n for k, n in by_week.items() if n}, name


def test_enabled_users_and_users_with_mfa_are_those_of_the_table_of_users(metric, loaded) -> None:
    [(users, enabled, with_mfa)] = loaded.query(
        "SELECT count(*), count(*) FILTER (enabled), count(*) FILTER (enabled AND mfa_enabled) FROM user_query"
    )
    assert 0 < with_mfa < enabled < users
    assert metric("enabled_users", "metric_time__day") == {load_day(loaded): enabled}
    assert metric("users_with_mfa", "metric_time__day") == {load_day(loaded): with_mfa}


def test_a_period_has_the_figures_of_its_last_load(metric_of, loaded, tmp_path) -> None:
    file = Path(shutil.copy(loaded.file, tmp_path / loaded.file.name))
    with duckdb.connect(str(file)) as db:
        db.execute(f"SET search_path = '{SEARCH_PATH}'")
        for mart, columns in {
            "fct_user_security_daily": ("enabled_users", "users_with_mfa"),
            "fct_org_daily": ("members", "max_users"),
        }.items():
            more = ", ".join(f"{column} + 7 AS {column}" for column in columns)
            db.execute(f"INSERT INTO {mart} SELECT * REPLACE (day - 1 AS day, {more}) FROM {mart}")
    two_days = Loaded(loaded.sandbox, file)
    found = metric_of(two_days)
    last_days = "day IN (SELECT max(day) FROM fct_org_daily GROUP BY date_trunc('month', day))"
    for name, mart, value in (
        ("enabled_users", "fct_user_security_daily", "sum(enabled_users)"),
        ("users_with_mfa", "fct_user_security_daily", "sum(users_with_mfa)"),
        ("seats_used", "fct_org_daily", "sum(members)"),
        ("capped_seats_used", "fct_org_daily", "sum(members) FILTER (max_users IS NOT NULL)"),
        ("seats", "fct_org_daily", "sum(max_users)"),
    ):
        by_month = f"SELECT date_trunc('month', day)::DATE, {value} FROM {mart} WHERE {last_days} GROUP BY 1"
        assert found(name, "metric_time__month") == dict(two_days.query(by_month)), name


def test_every_metric_has_a_test(manifest) -> None:
    tests = Path(__file__).read_text(encoding="utf-8")
    assert {found.name for found in manifest.metrics if f'"{found.name}"' not in tests} == set()


def test_mfa_adoption(metric, loaded) -> None:
    found = metric("mfa_adoption", "metric_time__day")
    assert found == pytest.approx(dict(loaded.query("SELECT day, mfa_adoption FROM fct_user_security_daily")))
    assert all(isinstance(day, date) for day in found)


def test_a_metric_names_a_mart_and_a_reconciliation_that_exist(manifest) -> None:
    columns = {c["name"]: c["description"] for c in DESCRIPTIONS["audit_metric_reconciliation"]["columns"]}
    reconciled = set(re.findall(r"`(\w+)`", columns["metric"]))
    for found in manifest.metrics:
        meta = (found.config.meta if found.config else None) or {}
        if mart := meta.get("mart"):
            table, column = mart.split(".")
            assert column in {c["name"] for c in DESCRIPTIONS[table]["columns"]}, found.name
        if reconciliation := meta.get("reconciliation"):
            assert reconciliation.split(".")[1] in reconciled, found.name
