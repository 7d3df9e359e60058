"""A Dagster instance of its own on disk, and runs in it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from propel_assets.defs.build import build_definitions

Run = Callable[..., dg.ExecuteInProcessResult]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A DAGSTER_HOME with nothing in it but the wish not to call home."""
    folder = tmp_path / "dagster_home"
    folder.mkdir()
    (folder / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    return folder


@pytest.fixture
def instance(home: Path) -> Iterator[dg.DagsterInstance]:
    """A real instance, whose runs and events are files."""
    with dg.DagsterInstance.from_config(str(home)) as made:
        yield made


@pytest.fixture
def run(settings, instance) -> Run:
    """Materialize these tables on the sandbox and run their checks, as the UI's button does, in this process."""

    def materialize(
        *tables: str, defs: dg.Definitions | None = None, job: str = "", config: dict[str, Any] | None = None
    ) -> dg.ExecuteInProcessResult:
        definitions = defs or build_definitions()
        found = definitions.resolve_job_def(job) if job else definitions.resolve_implicit_global_asset_job_def()
        keys = [dg.AssetKey(["propel_auth", *table.split("/")]) for table in tables]
        return found.execute_in_process(
            instance=instance, asset_selection=keys or None, raise_on_error=False, run_config=config or {}
        )

    return materialize
