"""The metrics of the dbt project, computed by MetricFlow, equal the figures of their marts."""

import re
from collections.abc import Callable
from datetime import date
from typing import Any

import pytest
from metricflow.engine.metricflow_engine import MetricFlowEngine, MetricFlowQueryRequest
from metricflow.protocols.sql_client import SqlEngine
from metricflow.sql.render.duckdb_renderer import DuckDbSqlPlanRenderer
from metricflow_semantics.model.dbt_manifest_parser import parse_manifest_from_dbt_generated_manifest
from metricflow_semantics.model.semantic_manifest_lookup import SemanticManifestLookup

from propel_assets.marts.runner import Dbt, profile_of
from propel_assets.settings import Target
from propel_assets_tests.marts.conftest import DESCRIPTIONS

Metric = Callable[..., dict[Any, Any]]


class DuckDbSql:
    """What MetricFlow needs to render SQL. It does not run any."""

    sql_engine_type = SqlEngine.DUCKDB
    sql_plan_renderer = DuckDbSqlPlanRenderer()


@pytest.fixture(scope="module")
def manifest(loaded, tmp_path_factory) -> Any:
    """The semantic manifest that dbt writes."""
    folder = tmp_path_factory.mktemp("semantic")
    dbt = Dbt(profile_of(Target(), type="duckdb", path=str(loaded.file)), folder)
    assert dbt.run("compile", "--select", "dim_date").failed == {}
    return parse_manifest_from_dbt_generated_manifest((folder / "semantic_manifest.json").read_text())


@pytest.fixture(scope="module")
def metric(loaded, manifest) -> Metric:
    client: Any = DuckDbSql()
    engine = MetricFlowEngine(SemanticManifestLookup(manifest), client)

    def values(name: str, *group_by: str) -> dict[Any, Any]:
        """Return the values of a metric by the dimensions it is grouped by."""
        request = MetricFlowQueryRequest.create(metric_names=[name], group_by_names=list(group_by))
        rows = loaded.query(engine.explain(request).sql_statement.sql, time_zone="America/Los_Angeles")
        keys = [tuple(value.date() if hasattr(value, "date") else value for value in row[:-1]) for row in rows]
        return {key[0] if len(key) == 1 else key: row[-1] for key, row in zip(keys, rows, strict=True)}

    return values


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


def test_retention(metric, loaded) -> None:
    found = metric("retention", "metric_time__day", "cohort__weeks_after")
    sql = (
        "SELECT cohort_week, weeks_after, active_at_or_after_share FROM fct_retention_weekly WHERE weeks_observed >= 8"
    )
    ours = {(week, int(k)): share for week, k, share in loaded.query(sql)}
    assert len(ours) > 100
    assert {(week, int(k)): share for (week, k), share in found.items() if share is not None} == pytest.approx(ours)


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
