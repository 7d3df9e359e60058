"""`propel-assets dev`: the sandbox and `dagster dev` together."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import date
from pathlib import Path
from typing import Any

import click
import dagster as dg
import urllib3

from propel_assets.cli.instance import prepare_dagster_home, short_path
from propel_assets.cli.sandbox import CHANGES_PER_MINUTE
from propel_assets.cli.warehouse import require_tables_of
from propel_assets.errors import PropelError
from propel_assets.sandbox.running import Sandbox, tenant_id
from propel_assets.settings import child_environment, load_settings

HOST = "127.0.0.1"
POLL_SECONDS, PROGRESS_SECONDS = 0.5, 5
WEBHOOK_PATH = "/webhooks/propelauth"
START_SENSOR = """mutation ($selector: SensorSelector!) {
    startSensor(sensorSelector: $selector) { __typename } }"""
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

{live}Ctrl-C stops everything.
"""
LIVE_GUIDE = """Live mode: users sign up, log in, change and leave, {changes} changes a minute. Once the tables are
loaded, the sensor {sensor} brings each change into user_query within two minutes.
  Lose a tenth of the webhooks:  {bin}/propel-assets fault webhook_lost,share=0.1 --url {sandbox.url}
  To see what was lost, materialize user_query and org_query twice; 2 minutes later, open auth_event.

"""


def run_dev(
    *,
    port: int,
    sandbox_port: int,
    users: int,
    orgs: int,
    seed: int,
    now: date,
    environment: str = "",
    live: bool = False,
) -> None:
    """Run a sandbox and `dagster dev` on it until Ctrl-C or SIGTERM, which stop both.

    ``live``: the sandbox changes, and sends webhooks to a receiver, which is started too.

    Raises:
        PropelError: a port is in use, the tables are of another tenant, or `dagster dev` ended by itself.
    """
    require_tables_of(tenant_id(seed), load_settings(environment=environment))
    ports = {"--port": port, "--sandbox-port": sandbox_port, "of the receiver": 0}
    port, sandbox_port, receiver_port = _require_free_ports(ports)
    changing: dict[str, Any] = {"live": True, "changes_per_minute": CHANGES_PER_MINUTE} if live else {}
    if live:
        changing["webhook_url"] = f"http://{HOST}:{receiver_port}{WEBHOOK_PATH}"
    with ExitStack() as stack:
        sandbox = stack.enter_context(
            Sandbox(users=users, orgs=orgs, seed=seed, now=now, port=sandbox_port, **changing)
        )
        home = prepare_dagster_home()
        prefix = f"{environment.upper()}__" if environment else ""
        variables = child_environment(
            {
                "PROPELAUTH_ENVIRONMENT": environment,
                f"{prefix}PROPELAUTH_AUTH_URL": sandbox.url,
                f"{prefix}PROPELAUTH_API_KEY": sandbox.api_key,
                f"{prefix}PROPELAUTH_OAUTH_TOKEN": sandbox.user_token,
                f"{prefix}PROPELAUTH_WEBHOOK_SECRET": sandbox.webhook_secret,
                f"{prefix}PROPELAUTH_WEBHOOK_STORE": f"sqlite:///{home / 'sandbox_webhooks.db'}",
                "DAGSTER_HOME": str(home),
            }
        )
        sensor = "_".join(filter(None, ("propel_auth", environment, "events"))) if live else ""
        names = {"bin": short_path(Path(sys.executable).parent), "sandbox": sandbox}
        live_guide = LIVE_GUIDE.format(changes=CHANGES_PER_MINUTE, sensor=sensor, **names) if live else ""
        guide = DEV_GUIDE.format(host=HOST, port=port, users=users, orgs=orgs, live=live_guide, **names)
        click.echo(f"The PropelAuth sandbox is at {sandbox.url}. Starting Dagster; this takes 10 to 30 s.")
        command = [
            sys.executable,
            "-W",
            "ignore:Function `dev_command` is superseded",
            *("-m", "dagster", "dev", "-m", "propel_assets.definitions", "-h", HOST, "-p", str(port)),
        ]
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _stop)
        if live:
            stack.enter_context(_receiver(receiver_port, variables))
        # A session of its own, so that Ctrl-C reaches it once: `dagster dev` takes a second one for "at once".
        process = subprocess.Popen(command, env=variables, start_new_session=True)  # noqa: S603 - our own words
        status = _wait_until_stopped(process, variables["DAGSTER_HOME"], port, guide, sensor)
    if status is not None:
        raise PropelError(f"`dagster dev` ended with status {status}. The lines above have the reason.")


@contextmanager
def _receiver(port: int, variables: dict[str, str]) -> Iterator[None]:
    """Run the webhook receiver. Events that are sent before it listens are sent again."""
    command = [sys.executable, "-m", "propel_assets.cli", "webhooks", "--host", HOST, "--port", str(port)]
    with subprocess.Popen(command, env=variables, start_new_session=True, stdout=subprocess.DEVNULL) as process:  # noqa: S603
        try:
            yield
        finally:
            process.terminate()


def _wait_until_stopped(
    process: subprocess.Popen[bytes], home: str, port: int, guide: str, sensor: str = ""
) -> int | None:
    """Wait until this process is interrupted, then stop ``process``; return its status if it ended otherwise.

    ``sensor``: turned on once the UI responds.
    """
    ready = False
    try:
        ready = _wait_for_ui(process, port)
        if ready:
            _start_sensor(port, sensor)
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


def _start_sensor(port: int, name: str) -> None:
    """Turn on a sensor of the code location, as the switch in the UI does."""
    if not name:
        return
    location = {"repositoryName": "__repository__", "repositoryLocationName": "propel_assets.definitions"}
    body = {"query": START_SENSOR, "variables": {"selector": {**location, "sensorName": name}}}
    with suppress(urllib3.exceptions.HTTPError, ValueError, KeyError):
        response = urllib3.request("POST", f"http://{HOST}:{port}/graphql", json=body, timeout=60, retries=False).json()
        if response["data"]["startSensor"]["__typename"] == "Sensor":
            return
    click.echo(f"The sensor {name} is off: turn it on under Automation in the UI.")


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
                raise PropelError(
                    f"Cannot use port {port} of {HOST} ({option}): {reason}. Choose another one."
                ) from error
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
    """Cancel active runs: `dagster dev` would leave them behind, reading from a sandbox that is gone."""
    from dagster_graphql import DagsterGraphQLClient

    active = dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTED])
    with dg.DagsterInstance.from_config(home) as instance:
        if runs := instance.get_run_ids(active):
            click.echo(f"Cancelling {len(runs)} active run(s).")
            DagsterGraphQLClient(HOST, port_number=port).terminate_runs(list(runs))
