"""Runs of a Dagster job in this process: one line per step, then one row per asset.

`propel-assets refresh` and `propel-assets demo` use it. The run is stored in the Dagster instance, so the UI shows it.
"""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import click
import dagster as dg

from propel_assets.catalog import TABLES
from propel_assets.cli.instance import prepare_dagster_home
from propel_assets.cli.rendering import print_table
from propel_assets.defs.dagster_compat import assets_of, resolve_job
from propel_assets.defs.environment import Environment

STEP_ENDED = {dg.DagsterEventType.STEP_SUCCESS, dg.DagsterEventType.STEP_FAILURE}


def run_job(
    definitions: dg.Definitions, job_name: str, environment: Environment, ops: Mapping[str, Any] | None = None
) -> tuple[dg.ExecuteInProcessResult, set[dg.AssetKey]]:
    """Run a job of ``definitions`` and print a line per step. ``ops``: their run config.

    Return the result, and the assets that were to be materialized and are not. Dagster calls a run a success although
    it skipped what a missing table is needed for.
    """
    lines = _Lines(environment)
    logger = logging.Logger("propel_assets.progress", logging.DEBUG)
    logger.addHandler(lines)
    loggers = {"progress": dg.LoggerDefinition(lambda _: logger)}
    job = resolve_job(dg.Definitions.merge(definitions, dg.Definitions(loggers=loggers)), job_name)
    lines.steps = sum(not lines.is_check(node.name) for node in job.nodes)
    with dg.DagsterInstance.from_config(str(prepare_dagster_home())) as instance:
        result = job.execute_in_process(
            instance=instance, raise_on_error=False, run_config={"ops": ops or {}, "loggers": {"progress": {}}}
        )
    found = {event.materialization.asset_key for event in result.get_asset_materialization_events()}
    return result, assets_of(job) - found


def print_assets(result: dg.ExecuteInProcessResult) -> None:
    """Print one row per asset: rows in the table, checks passed, duration."""
    checks = result.get_asset_check_evaluations()
    rows = []
    for event in result.get_asset_materialization_events():
        metadata = event.materialization.metadata
        name = event.materialization.asset_key.path[-1]
        own_checks = [check for check in checks if check.asset_key == event.materialization.asset_key]
        row_count = metadata.get("dagster/row_count")  # a view has none
        count = "skipped" if "skipped" in metadata else f"{row_count.value:,}" if row_count else "view"
        passed = f"{sum(check.passed for check in own_checks)} of {len(own_checks)}"
        seconds = metadata["load_seconds"] if "load_seconds" in metadata else metadata["Execution Duration"]
        rows.append((name, count, passed, f"{seconds.value:.1f}"))
    order = [table.name for table in TABLES]
    rows.sort(key=lambda row: (order.index(row[0]), "") if row[0] in order else (len(order), row[0]))
    print_table(("asset", "rows", "checks passed", "seconds"), rows)


def print_skipped(result: dg.ExecuteInProcessResult) -> None:
    """Print why tables were not read."""
    for event in result.get_asset_materialization_events():
        if reason := event.materialization.metadata.get("skipped"):
            click.echo(f"skipped: {event.materialization.asset_key.path[-1]} was not read. {reason.value}")


def names_of(assets: Iterable[dg.AssetKey]) -> str:
    """Return the names of assets as a sorted list."""
    return ", ".join(sorted(key.path[-1] for key in assets))


class _Lines(logging.Handler):
    """Prints one line per step of a run that loads or builds tables, and why a step failed; nothing else.

    ``steps``: how many there are.
    """

    def __init__(self, environment: Environment) -> None:
        super().__init__()
        self.steps = self._done = 0
        self._prefix = environment.named("")

    def is_check(self, step: str) -> bool:
        """Return whether a step only evaluates checks."""
        return step.startswith(f"{self._prefix}check_")

    def emit(self, record: logging.LogRecord) -> None:
        """Print the end of a step."""
        event: Any = getattr(record, "dagster_event", None)
        if event is None or event.event_type not in STEP_ENDED:
            return
        step = event.step_key.removeprefix(self._prefix)
        if event.event_type == dg.DagsterEventType.STEP_FAILURE:
            data = event.step_failure_data
            reason = data.user_failure_data.description if data.user_failure_data else data.error.cls_name
            click.echo(f"{step}: failed. {reason}", err=True)
        elif not self.is_check(event.step_key):
            self._done += 1
            seconds = event.step_success_data.duration_ms / 1_000
            verb, _, what = step.partition("_")
            done = {"load": "loaded", "build": "built"}[verb]
            number = f"[{self._done:{len(str(self.steps))}}/{self.steps}]"
            click.echo(f"{number} {what} {done} in {seconds:.1f} s", err=True)
