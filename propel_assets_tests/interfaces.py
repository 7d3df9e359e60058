"""The interfaces that `docs/versioning.md` calls stable, as text. The definitions of Dagster are in `defs/snapshot.py`.

    python -m propel_assets_tests.interfaces

writes the file again after an intended change.
"""

import importlib
import inspect
import re
import runpy
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import yaml

import propel_assets
from propel_assets import PropelAuthComponent, PropelAuthConfig, errors
from propel_assets.catalog import AUDIT_TABLES, TABLES
from propel_assets.cli.main import main
from propel_assets.cli.status import _as_prometheus
from propel_assets.marts.sources import PROJECT
from propel_assets.reporting.contract import contract
from propel_assets.settings import Settings, Target, variable_of
from propel_assets.webhooks.app import Receiver, build_app
from propel_assets.webhooks.store import StoreStatus, WebhookStore, events

FILE = Path(__file__).with_suffix(".txt")
HOW_TO_UPDATE = "If the change is intended: python -m propel_assets_tests.interfaces, and a line in CHANGELOG.md"
ROOT = FILE.parents[1]
PRIVATE_TABLES = {"propel_scan_state"}
PRIVATE_COLUMNS = {"resume_state"}
SOURCE_PARAMETERS = ("auth_url", "api_key", "tables")
"""The parameters of `propel_auth_source` that are for plain dlt pipelines."""
MODULES = (
    "propel_assets.definitions:defs",
    "propel_assets.source:propel_auth_source",
    "propel_assets.sandbox.running:Sandbox",
    "propel_assets.warehouse.plain_pipeline:prepare",
    "propel_assets.webhooks.app:app",
    "propel_assets.webhooks.app:build_app",
    "propel_assets.webhooks.store:WebhookStore",
    "propel_assets.errors:exit_on_error",
)
"""What the documentation and the examples import, beside the exports of the package and the errors."""


def describe() -> str:
    """Return one line for each name that is stable."""
    return "\n".join(
        [
            "# The stable interfaces. Written by `python -m propel_assets_tests.interfaces`; do not edit.",
            *_tables(),
            *_marts(),
            *_settings(),
            *_commands(main, "propel-assets"),
            *_python(),
            *_contract(),
            *_metrics(),
            *_webhooks(),
            "",
        ]
    )


def _tables() -> Iterator[str]:
    for table in (*TABLES, *AUDIT_TABLES):
        if table.name not in PRIVATE_TABLES:
            yield f"\ntable {table.name}, key {' '.join(table.key) or 'none'}"
            yield from (f"  {c.name} {c.type}" for c in table.columns if c.name not in PRIVATE_COLUMNS)


def _marts() -> Iterator[str]:
    documents = [yaml.safe_load(file.read_text()) for file in sorted((PROJECT / "models").rglob("*.yml"))]
    for document in documents:
        for model in (*document.get("models", ()), *document.get("seeds", ())):
            yield f"\nmart {model['name']}, grain {model['config']['meta']['grain']}"
            yield from (f"  {column['name']}" for column in model["columns"])
    yield ""
    for document in documents:
        yield from (f"metric {metric['name']}" for metric in document.get("metrics", ()))


def _settings() -> Iterator[str]:
    yield ""
    for setting in fields(Settings):
        yield f"setting {variable_of(setting.name)}, default {setting.default!r}"


def _commands(command: click.Command, name: str) -> Iterator[str]:
    if name == "propel-assets":
        yield "\nexit codes " + " ".join(map(str, runpy.run_path(str(ROOT / "docs" / "generate.py"))["EXIT_CODES"]))
    yield f"\ncommand {name}"
    for parameter in command.params:
        names = ", ".join(parameter.opts) if isinstance(parameter, click.Option) else parameter.human_readable_name
        choices = parameter.type.choices if isinstance(parameter.type, click.Choice) else ()
        yield f"  {names}{': ' if choices else ''}{' '.join(map(str, choices))}"
    if isinstance(command, click.Group):
        for sub in sorted(command.commands):
            yield from _commands(command.commands[sub], f"{name} {sub}")


def _python() -> Iterator[str]:
    yield ""
    for name in sorted(propel_assets.__all__):
        yield f"python propel_assets:{name}"
        found = getattr(propel_assets, name)
        if found in (PropelAuthConfig, PropelAuthComponent):
            yield from (f"  {field}" for field in found.model_fields)
        else:
            names = inspect.signature(found).parameters
            yield from (f"  {n}" for n in names if n in SOURCE_PARAMETERS or name != "propel_auth_source")
    for name in sorted(MODULES):
        module, _, attribute = name.partition(":")
        if attribute != "app":  # connects to the webhook store of the environment
            assert hasattr(importlib.import_module(module), attribute)
        yield f"python {name}"
    for name, found in sorted(vars(errors).items()):
        if inspect.isclass(found) and issubclass(found, errors.PropelError):
            yield f"python propel_assets.errors:{name}({', '.join(base.__name__ for base in found.__bases__)})"


def _contract() -> Iterator[str]:
    document = contract(Target())
    yield f"\ncontract {document['id']}, {document['kind']} {document['apiVersion']}, fields {' '.join(document)}"


def _metrics() -> Iterator[str]:
    yield ""
    texts = _as_prometheus((), StoreStatus(0, 0, None, 0.0), None, "")
    yield from (f"{found}, of status" for found in re.findall(r"^# TYPE (.+)$", texts, re.MULTILINE))
    store = WebhookStore("sqlite://")
    for metric in Receiver(store, ["whsec_c2FuZGJveC13ZWJob29rLXNlY3JldA=="]).registry.collect():
        yield f"{metric.name} {metric.type}, of the receiver"
    store.close()


def _webhooks() -> Iterator[str]:
    yield ""
    store = WebhookStore("sqlite://")
    app: Any = build_app(store, ["whsec_c2FuZGJveC13ZWJob29rLXNlY3JldA=="])
    yield from (f"receiver {' '.join(sorted(route.methods))} {route.path}" for route in app.routes)
    store.close()
    yield f"\nwebhook store {events.name}, key {' '.join(column.name for column in events.primary_key)}"
    yield from (f"  {column.name} {column.type}" for column in events.columns)


if __name__ == "__main__":
    FILE.write_text(describe())
