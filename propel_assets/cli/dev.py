"""`propel-assets dev`: the sandbox and `dagster dev` together."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from datetime import date
from pathlib import Path

import click
import dagster as dg
import urllib3

from propel_assets.cli.instance import prepare_dagster_home, short_path
from propel_assets.errors import PropelError
from propel_assets.sandbox.running import Sandbox
from propel_assets.settings import child_environment

HOST = "127.0.0.1"
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


def run_dev(
    *, port: int, sandbox_port: int, users: int, orgs: int, seed: int, now: date, environment: str = ""
) -> None:
    """Run a sandbox and `dagster dev` on it until Ctrl-C or SIGTERM, which stop both.

    Raises:
        PropelError: a port is in use, or `dagster dev` ended by itself.
    """
    port, sandbox_port = _require_free_ports({"--port": port, "--sandbox-port": sandbox_port})
    with Sandbox(users=users, orgs=orgs, seed=seed, now=now, port=sandbox_port) as sandbox:
        prefix = f"{environment.upper()}__" if environment else ""
        variables = child_environment(
            {
                "PROPELAUTH_ENVIRONMENT": environment,
                f"{prefix}PROPELAUTH_AUTH_URL": sandbox.url,
                f"{prefix}PROPELAUTH_API_KEY": sandbox.api_key,
                f"{prefix}PROPELAUTH_OAUTH_TOKEN": sandbox.user_token,
                "DAGSTER_HOME": str(prepare_dagster_home()),
            }
        )
        guide = DEV_GUIDE.format(
            bin=short_path(Path(sys.executable).parent), host=HOST, port=port, sandbox=sandbox, users=users, orgs=orgs
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
        process = subprocess.Popen(command, env=variables, start_new_session=True)  # noqa: S603 - our own words
        status = _wait_until_stopped(process, variables["DAGSTER_HOME"], port, guide)
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
