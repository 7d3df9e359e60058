"""The sandbox and Dagster together, to try things: `propel-assets demo` and `propel-assets dev`."""

import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from datetime import date
from pathlib import Path
from typing import Any

import click
import dagster as dg
import urllib3

from propel_assets.catalog import TABLES
from propel_assets.definitions import build_defs
from propel_assets.defs.assets import PREFIX, asset_key
from propel_assets.defs.resources import PropelAuthApiKey, Warehouse
from propel_assets.errors import PropelError, WarehouseError
from propel_assets.sandbox.running import Sandbox
from propel_assets.settings import child_environment, dagster_home

STEP_DONE = {dg.DagsterEventType.STEP_SUCCESS, dg.DagsterEventType.STEP_FAILURE}
HOST = "127.0.0.1"
EVERYTHING = dg.define_asset_job("demo", selection=dg.AssetSelection.assets(*map(asset_key, TABLES)).downstream())
NEXT = """
Next:
  {bin}/propel-assets dev        the same in the Dagster UI: lineage, checks, schedules
  {bin}/propel-assets status     what is in the warehouse, how old, last checks
  {bin}/python -c "import dlt; print(dlt.pipeline('propel_auth_pipeline').dataset().user_query.arrow())"
"""
POLL_SECONDS, PROGRESS_SECONDS = 0.5, 5
DEV_GUIDE = """
Dagster UI: http://{host}:{port}/asset-groups
  1. The page shows the lineage of all assets; in the menu it is called Lineage.
  2. Click "Materialize all" to load every table and to build what depends on them.
  3. Open Runs to follow the run. Open an asset to see its rows, columns and checks.

PropelAuth sandbox: {sandbox.url} ({users:,} users, {orgs:,} orgs)
  API key: {sandbox.api_key}
  User token: {sandbox.user_token}
  List the faults:  {bin}/propel-assets fault --list
  Turn one on:      {bin}/propel-assets fault scim_off --url {sandbox.url}
  Turn all off:     {bin}/propel-assets fault --clear --url {sandbox.url}

Ctrl-C stops both.
"""


def prepared_home() -> Path:
    """Return the folder of the Dagster instance: DAGSTER_HOME, or .dagster_home here, made when missing."""
    named = dagster_home()
    home = Path(named) if named else Path(".dagster_home").resolve()
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "dagster.yaml").exists():
        shutil.copy(Path(__file__).with_name("dagster.yaml"), home)
    return home


def run_demo(
    *, users: int, orgs: int, seed: int, now: date, show: Callable[[Sequence[str], Sequence[Sequence[str]]], None]
) -> None:
    """Load every table of a sandbox through Dagster, and show what came of it.

    Raises:
        WarehouseError: a table could not be loaded; the reason was printed when it happened.
    """
    started = time.monotonic()
    with Sandbox(users=users, orgs=orgs, seed=seed, now=now) as sandbox:
        click.echo(f"A PropelAuth with {users:,} users and {orgs:,} orgs answers at {sandbox.url}.")
        somebody = next(iter(sandbox.store.users))
        person = sandbox.store.user_object(somebody)
        look_ups = {"id": somebody, "email": person["email"], "username": person.get("username", "nobody")}
        api_key = PropelAuthApiKey(auth_url=sandbox.url, api_key=sandbox.api_key, oauth_token=sandbox.user_token)
        definitions = build_defs(
            resources={"propel_auth": api_key, "warehouse": Warehouse(destination="duckdb")},
            loggers={"progress": _progress_logger()},
            more_jobs=[EVERYTHING],
        )
        with dg.DagsterInstance.from_config(str(prepared_home())) as instance:
            result = definitions.resolve_job_def("demo").execute_in_process(
                instance=instance,
                raise_on_error=False,
                run_config={
                    "ops": {f"load_user_by_{kind}": {"config": {"values": [v]}} for kind, v in look_ups.items()},
                    "loggers": {"progress": {}},
                },
            )
    show(("asset", "rows", "checks passed", "seconds"), _rows(result))
    if not result.success:
        raise WarehouseError("Not every table was loaded: see the lines above.")
    click.echo(f"\n{len(result.get_asset_materialization_events())} assets in {time.monotonic() - started:.0f} s.")
    click.echo(NEXT.format(bin=_shown(Path(sys.executable).parent)))


def _shown(folder: Path) -> str:
    """Return ``folder`` as short as it can be typed here."""
    return str(folder.relative_to(Path.cwd())) if folder.is_relative_to(Path.cwd()) else str(folder)


def _rows(result: dg.ExecuteInProcessResult) -> list[tuple[str, ...]]:
    """Return one row per asset: rows in the table, checks passed, and how long its scan took."""
    checks = result.get_asset_check_evaluations()
    rows = []
    for event in result.get_asset_materialization_events():
        told = event.materialization.metadata
        name = event.materialization.asset_key.path[-1]
        mine = [check for check in checks if check.asset_key == event.materialization.asset_key]
        rows_told = told.get("dagster/row_count")  # a view has none
        count = "skipped" if "skipped" in told else f"{rows_told.value:,}" if rows_told else "view"
        passed = f"{sum(check.passed for check in mine)} of {len(mine)}"
        seconds = told["load_seconds"] if "load_seconds" in told else told["Execution Duration"]
        rows.append((name, count, passed, f"{seconds.value:.1f}"))
    order = [table.name for table in TABLES]
    return sorted(rows, key=lambda row: (order.index(row[0]), "") if row[0] in order else (len(order), row[0]))


def _progress_logger() -> dg.LoggerDefinition:
    """Return a logger that says one line per step of a run, and nothing else."""

    class Lines(logging.Handler):
        """Prints steps as they end."""

        done = 0

        def emit(self, record: logging.LogRecord) -> None:
            """Print the end of a loading step, or why a step failed."""
            event: Any = getattr(record, "dagster_event", None)
            if event is None or event.event_type not in STEP_DONE:
                return
            step = event.step_key
            if event.event_type == dg.DagsterEventType.STEP_FAILURE:
                data = event.step_failure_data
                said = data.user_failure_data.description if data.user_failure_data else data.error.message
                click.echo(f"{step}: failed. {said}", err=True)
            elif step.startswith(("load_", "build_")):
                self.done += 1
                seconds = event.step_success_data.duration_ms / 1_000
                what = step.removeprefix("load_") + (" loaded" if step.startswith("load_") else "")
                click.echo(f"[{self.done:2}] {PREFIX}: {what} in {seconds:.1f} s", err=True)

    @dg.logger
    def progress(_context: dg.InitLoggerContext) -> logging.Logger:
        logger = logging.Logger("propel_assets.progress", logging.DEBUG)
        logger.addHandler(Lines())
        return logger

    return progress


def run_dev(*, port: int, sandbox_port: int, users: int, orgs: int, seed: int, now: date) -> None:
    """Run a sandbox and `dagster dev` on it until Ctrl-C or SIGTERM, which stop both.

    Raises:
        PropelError: a port is in use, or `dagster dev` ended by itself.
    """
    port, sandbox_port = _require_free_ports({"--port": port, "--sandbox-port": sandbox_port})
    with Sandbox(users=users, orgs=orgs, seed=seed, now=now, port=sandbox_port) as sandbox:
        environment = child_environment(
            {
                "PROPELAUTH_AUTH_URL": sandbox.url,
                "PROPELAUTH_API_KEY": sandbox.api_key,
                "PROPELAUTH_OAUTH_TOKEN": sandbox.user_token,
                "DAGSTER_HOME": str(prepared_home()),
            }
        )
        guide = DEV_GUIDE.format(
            bin=_shown(Path(sys.executable).parent), host=HOST, port=port, sandbox=sandbox, users=users, orgs=orgs
        )
        click.echo(f"Starting Dagster; this takes 10 to 30 s.\n{guide}")
        command = [
            sys.executable,
            "-W",
            "ignore:Function `dev_command` is superseded",
            *("-m", "dagster", "dev", "-m", "propel_assets.definitions", "-h", HOST, "-p", str(port)),
        ]
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _stop)
        # A session of its own, so that Ctrl-C reaches it once: `dagster dev` takes a second one for "at once".
        process = subprocess.Popen(command, env=environment, start_new_session=True)  # noqa: S603 - our own words
        status = _wait_until_stopped(process, environment["DAGSTER_HOME"], port, guide)
    if status is not None:
        raise PropelError(f"`dagster dev` ended with status {status}. The lines above have the reason.")


def _wait_until_stopped(process: subprocess.Popen[bytes], home: str, port: int, guide: str) -> int | None:
    """Wait until this process is interrupted, then stop ``process``; return its status if it ended otherwise."""
    ready = False
    try:
        ready = _wait_for_ui(process, port)
        if ready:
            click.echo(f"\nThe Dagster UI is ready.\n{guide}")
        status = process.wait()
    except KeyboardInterrupt:
        try:
            if ready:
                _cancel_runs(home, port)
        finally:
            process.send_signal(signal.SIGINT)
            status = process.wait()
        if status in (0, -signal.SIGINT, 128 + signal.SIGINT):
            return None
    with suppress(ProcessLookupError):  # a `dagster dev` that was killed leaves its UI, which holds the port
        os.killpg(process.pid, signal.SIGTERM)
    return status


def _require_free_ports(ports: dict[str, int]) -> list[int]:
    """Return the ports, by option, that this process can listen on; a free one for 0.

    Raises:
        PropelError: one of them cannot be used.
    """
    found = []
    with ExitStack() as sockets:  # each is held until all are checked: the same port twice is refused
        for option, port in ports.items():
            try:
                listener = sockets.enter_context(socket.create_server((HOST, port)))
            except OSError as error:
                reason = os.strerror(error.errno or 0).lower()
                raise PropelError(f"Cannot use port {port} of {HOST}: {reason}. Choose another {option}.") from error
            found.append(listener.getsockname()[1])
    return found


def _wait_for_ui(process: subprocess.Popen[bytes], port: int) -> bool:
    """Print a line every 5 s until the UI responds. Return False if ``process`` ends before."""
    started = printed = time.monotonic()
    while process.poll() is None:
        try:
            urllib3.request("GET", f"http://{HOST}:{port}/server_info", timeout=5, retries=False)
            return True
        except urllib3.exceptions.HTTPError:
            pass
        if time.monotonic() - printed >= PROGRESS_SECONDS:
            printed = time.monotonic()
            click.echo(f"Starting Dagster: {printed - started:.0f} s")
        with suppress(subprocess.TimeoutExpired):
            process.wait(POLL_SECONDS)
    return False


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


def _cancel_runs(home: str, port: int) -> None:
    """Cancel what is under way: `dagster dev` would leave it behind, reading from a sandbox that is gone."""
    from dagster_graphql import DagsterGraphQLClient

    under_way = dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTED])
    with dg.DagsterInstance.from_config(home) as instance:
        if runs := instance.get_run_ids(under_way):
            click.echo(f"Cancelling {len(runs)} run(s) that are under way.")
            DagsterGraphQLClient(HOST, port_number=port).terminate_runs(list(runs))
