"""A Dagster instance per test, and runs in it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from propel_assets.definitions import defs as our_definitions

Run = Callable[..., dg.ExecuteInProcessResult]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A DAGSTER_HOME with telemetry off."""
    folder = tmp_path / "dagster_home"
    folder.mkdir()
    (folder / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    return folder


@pytest.fixture
def instance(request: pytest.FixtureRequest) -> Iterator[dg.DagsterInstance]:
    """A Dagster instance: in files of `home` for a test that uses it, in memory for all others."""
    if "home" in request.fixturenames:
        made = dg.DagsterInstance.from_config(str(request.getfixturevalue("home")))
    else:
        made = dg.DagsterInstance.ephemeral()
    with made:
        yield made


@pytest.fixture
def run(settings, instance) -> Run:
    """Materialize these tables on the sandbox and run their checks, as the UI's button does, in this process."""

    def materialize(
        *tables: str, defs: dg.Definitions | None = None, job: str = "", config: dict[str, Any] | None = None
    ) -> dg.ExecuteInProcessResult:
        definitions = defs or our_definitions
        found = definitions.resolve_job_def(job) if job else definitions.resolve_implicit_global_asset_job_def()
        keys = [dg.AssetKey(["propel_auth", *table.split("/")]) for table in tables]
        return found.execute_in_process(
            instance=instance, asset_selection=keys or None, raise_on_error=False, run_config=config or {}
        )

    return materialize
