"""Argument types and options that several commands take."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import click
from click.shell_completion import CompletionItem

from propel_assets.catalog import BY_NAME, describe_unknown_table
from propel_assets.settings import Settings, load_settings

PORT = click.IntRange(0, 65_535)


class TableName(click.ParamType):
    """The name of a table, in any case."""

    name = "table"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name as the catalog has it, or end with a usage error that has the closest names."""
        name = str(value).lower()
        if name in BY_NAME:
            return name
        return self.fail(describe_unknown_table(str(value)), param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the names that begin with ``incomplete``."""
        return [CompletionItem(n) for n in BY_NAME if n.startswith(incomplete.lower())]


class UserId(click.ParamType):
    """The id of a user at PropelAuth, a UUID, in the form that the API has it in."""

    name = "user id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the id, or end with a usage error."""
        try:
            return str(click.UUID.convert(value, param, ctx))
        except click.BadParameter:
            return self.fail(f"No such user: {value!r} is not a user id. Ids of PropelAuth are UUIDs.", param, ctx)


class Duration(click.ParamType):
    """A time span such as `26h`: a number and a unit."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Return the time span, or end with a usage error."""
        found = re.fullmatch(r"(\d{1,6})([smhd])", str(value).strip().lower())
        if found is None:
            return self.fail(f"{value!r} is not a time span. Write a number and s, m, h or d, such as 26h.", param, ctx)
        unit = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}[found[2]]
        return timedelta(**{unit: int(found[1])})


def table_arguments(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the argument `[TABLE]...`, passed as ``tables``."""
    return click.argument("tables", nargs=-1, type=TableName(), metavar="[TABLE]...")(command)


def sandbox_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that decide what a sandbox has, passed as ``users``, ``orgs``, ``seed`` and ``now``."""
    options = [
        click.option("--users", default=2500, type=click.IntRange(min=0), show_default=True, help="Number of users."),
        click.option("--orgs", default=120, type=click.IntRange(min=0), show_default=True, help="Number of orgs."),
        click.option("--seed", default=1, show_default=True, help="The same seed and --now give the same data."),
        click.option(
            "--now",
            metavar="YYYY-MM-DD",
            type=click.DateTime(["%Y-%m-%d"]),
            # The sandbox's clock starts at noon. Before noon, its activity would be later than the load that reads it.
            callback=lambda _context, _option, value: (value or datetime.now(UTC) - timedelta(hours=12)).date(),
            help="Date of the sandbox; its clock starts at 12:00 UTC. Default: the last noon (UTC) that has passed.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def current_settings() -> Settings:
    """Return the settings of the running command, for the environment that `--environment` names.

    Raises:
        SettingsError: a value is not allowed.
    """
    return load_settings(environment=click.get_current_context().find_root().params.get("environment"))
