"""The commands `propel-assets sandbox` and `propel-assets fault`."""

import json
import re
import shlex
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any, TypeGuard

import click

from propel_assets.cli.arguments import PORT, sandbox_options
from propel_assets.cli.rendering import log
from propel_assets.sandbox.switches import LIMITS, SWITCHES, Fault, parse_json, parse_option, read_switch

CHANGES_PER_MINUTE = 20
DEFAULT_URL = "http://127.0.0.1:8400"
PROFILE_FORMAT = 1
SECONDS = 10
"""Time limit of one request to the sandbox."""


@click.command(short_help="Run a PropelAuth simulator on this machine.")
@click.option("--port", default=8400, type=PORT, show_default=True, help="Port on 127.0.0.1; 0 for a free one.")
@sandbox_options
@click.option(
    "--fault",
    "faults",
    multiple=True,
    help="A fault that is on from the start, as for `propel-assets fault`, for example latency_ms=50. Repeatable.",
)
@click.option(
    "--profile",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Behave as the tenant that `propel-assets probe` has measured.",
)
@click.option("--webhook-url", metavar="URL", default="", help="Post signed webhook events to this URL.")
@click.option("--live", is_flag=True, help="Let users sign up, log in, change and leave, by the clock of this machine.")
@click.option(
    "--changes-per-minute",
    type=click.FloatRange(min=0, min_open=True, max=60_000),
    help=f"With --live: how many changes happen. Default: {CHANGES_PER_MINUTE}.",
)
def sandbox(
    port: int,
    users: int,
    orgs: int,
    seed: int,
    now: date,
    faults: tuple[str, ...],
    profile: Path | None,
    webhook_url: str,
    live: bool,
    changes_per_minute: float | None,
) -> None:
    """Run a PropelAuth simulator on this machine, with users, orgs, roles, API keys and insight reports.

    \b
    Examples:
      propel-assets sandbox
      propel-assets sandbox --port 8400 --users 100000 --seed 7
      propel-assets sandbox --fault rate_limit=10 --fault latency_ms=50
      propel-assets sandbox --live --webhook-url http://127.0.0.1:8401/webhooks/propelauth
    """
    from propel_assets.sandbox.running import Sandbox, serve

    if changes_per_minute is not None and not live:
        raise click.UsageError("--changes-per-minute needs --live.")
    if webhook_url and not re.fullmatch(r"https?://[^\s/]\S*", webhook_url):
        raise click.BadParameter(f"{webhook_url!r} is not an http(s) URL.", param_hint="--webhook-url")
    try:
        for option in faults:
            parse_option(option)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--fault") from error

    profile_faults = _read_profile(profile) if profile else {}

    def print_settings(url: str) -> None:
        click.echo(f"PROPELAUTH_AUTH_URL={url}\nPROPELAUTH_API_KEY={Sandbox.api_key}")
        click.echo(f"PROPELAUTH_OAUTH_TOKEN={Sandbox.user_token}")
        if webhook_url:
            click.echo(f"PROPELAUTH_WEBHOOK_SECRET={Sandbox.webhook_secret}")

    try:
        serve(
            port=port,
            users=users,
            orgs=orgs,
            seed=seed,
            now=now,
            faults=faults,
            profile=profile_faults,
            webhook_url=webhook_url,
            live=live,
            changes_per_minute=(changes_per_minute or CHANGES_PER_MINUTE) if live else 0,
            on_ready=print_settings,
        )
    except OSError as error:
        raise click.ClickException(f"Cannot listen on port {port}: {error.strerror}. Choose another --port.") from error


def _read_profile(file: Path) -> dict[str, Any]:
    """Return the faults of a profile.

    Raises:
        click.BadParameter: the file is not a profile.
    """
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        faults = document["faults"] if document["format"] == PROFILE_FORMAT else {"format": document["format"]}
        parse_json(faults)
    except (ValueError, TypeError, LookupError, OSError, RecursionError) as error:
        raise click.BadParameter(
            f"{file} is not a profile of format {PROFILE_FORMAT}. Write one: propel-assets probe --output {file}",
            param_hint="--profile",
        ) from error
    return faults


@click.command(short_help="Turn faults of a running sandbox on or off.")
@click.argument("options", nargs=-1, metavar="[NAME[=VALUE][,LIMIT=VALUE]...]...")
@click.option("--url", default=DEFAULT_URL, show_default=True, help="URL of the running sandbox.")
@click.option("--clear", is_flag=True, help="Turn the named faults off; all of them when none is named.")
@click.option("--list", "list_all", is_flag=True, help="List the faults and their limits. Needs no sandbox.")
def fault(options: tuple[str, ...], url: str, clear: bool, list_all: bool) -> None:
    """Turn faults of a running sandbox on or off, then show those that are on. Without NAME, only show them.

    Prints the URL of the sandbox, and the command that turns the faults off again, on standard error.

    \b
    Examples:
      propel-assets fault --list
      propel-assets fault scim_off
      propel-assets fault rate_limit=5 retry_after=seconds
      propel-assets fault server_error=503,path=/api/backend/v1/org,requests=3
      propel-assets fault missing_field=users.last_name --url http://127.0.0.1:8402
      propel-assets fault --clear scim_off
      propel-assets fault --clear
    """
    if list_all:
        click.echo(_list_of_faults())
        return
    try:
        named = [(name, read_switch(name, False, {})) for name in options] if clear else map(parse_option, options)
        switches = dict(named)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="NAME") from error
    on = _request("GET", url)  # first, so that only a sandbox receives what changes something
    if switches:
        body = {name: None if clear or found is None else asdict(found) for name, found in switches.items()}
        on = _request("POST", url, body)
    elif clear:
        on = _request("DELETE", url)
    click.echo("\n".join(_option(name, Fault(**found)) for name, found in on.items()) or "No fault is on.")
    log(f"Sandbox: {url}")
    if on:
        named_on = [name for name in switches if name in on] or list(on)
        where = "" if url == DEFAULT_URL else f" --url {shlex.quote(url)}"
        it = "it" if len(named_on) == 1 else "them"
        log(f"To turn {it} off: propel-assets fault --clear {' '.join(named_on)}{where}")


def _list_of_faults() -> str:
    """Return every fault and limit, with its effect and the allowed values."""
    formatter = click.HelpFormatter(max_width=100)
    for title, switches in (("Faults", SWITCHES), ("Limits of a fault", LIMITS)):
        with formatter.section(title):
            rows = [(name, f"{switch.effect}. Allowed: {switch.allowed}.") for name, switch in switches.items()]
            formatter.write_dl(rows)
    return formatter.getvalue().rstrip()


def _option(name: str, fault: Fault) -> str:
    """Return ``fault`` as it is written on a command line."""
    unlimited = Fault(fault.value)
    limits = {limit: getattr(fault, limit) for limit in LIMITS if getattr(fault, limit) != getattr(unlimited, limit)}
    return f"{name}={json.dumps(fault.value)}" + "".join(f",{limit}={value}" for limit, value in limits.items())


def _request(method: str, url: str, body: Any = None) -> dict[str, Any]:
    """Send one request to the switches of the sandbox at ``url`` and return those that are on.

    Raises:
        click.ClickException: no sandbox responds, or it refuses.
    """
    import urllib3

    try:
        response = urllib3.request(
            method, f"{url.rstrip('/')}/sandbox/faults", json=body, timeout=SECONDS, retries=False, redirect=False
        )
    except urllib3.exceptions.HTTPError as error:
        reason = getattr(error.__cause__, "strerror", None) or type(error).__name__
        raise click.ClickException(
            f"No sandbox responds at {url}: {reason}. Start one with `propel-assets sandbox` or `propel-assets dev`, "
            "or set its URL with --url."
        ) from error
    try:
        answer = response.json()
    except ValueError:
        answer = None
    if response.status == 400 and isinstance(answer, dict):
        raise click.ClickException(f"The sandbox at {url} refused: {answer.get('error')}")
    if response.status == 200 and _is_description(answer):
        return answer
    raise click.ClickException(
        f"{url} is not a sandbox with faults: {method} /sandbox/faults returned status {response.status}. Set the URL "
        "of `propel-assets sandbox` or `propel-assets dev` with --url."
    )


def _is_description(answer: Any) -> TypeGuard[dict[str, Any]]:
    """Return whether ``answer`` maps names to faults, as a sandbox responds."""
    keys = asdict(Fault(None)).keys()
    return isinstance(answer, dict) and all(
        isinstance(found, dict) and found.keys() == keys for found in answer.values()
    )
