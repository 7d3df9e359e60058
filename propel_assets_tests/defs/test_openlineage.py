"""OpenLineage: the sensor of dagster-openlineage reports the assets of this project."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "openlineage_definitions.py"
SCRIPT = """
import runpy, sys
import dagster as dg

defs = runpy.run_path(sys.argv[1])["defs"]
storage = {
    "module": "dagster._core.storage.event_log",
    "class": "ConsolidatedSqliteEventLogStorage",
    "config": {"base_dir": sys.argv[2]},
}
with dg.DagsterInstance.local_temp(sys.argv[2], overrides={"event_log_storage": storage}) as instance:
    keys = [dg.AssetKey(["propel_auth", "custom_role_mappings"])]
    job = dg.Definitions.merge(defs, dg.Definitions(jobs=[dg.define_asset_job("one", selection=keys)]))
    assert job.resolve_job_def("one").execute_in_process(instance=instance).success
    sensor = job.resolve_sensor_def("openlineage_sensor")
    cursor = None
    for _ in range(3):
        context = dg.build_sensor_context(instance=instance, cursor=cursor, definitions=job)
        sensor.evaluate_tick(context)
        cursor = context.cursor
"""


@pytest.mark.slow
def test_the_sensor_reports_runs_and_tables_without_personal_data(small, tmp_path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    file = tmp_path / "openlineage.json"
    transport = {
        "OPENLINEAGE__TRANSPORT__TYPE": "file",
        "OPENLINEAGE__TRANSPORT__LOG_FILE_PATH": str(file),
        "OPENLINEAGE__TRANSPORT__APPEND": "true",
    }
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(EXAMPLE), str(home)],
        env={**os.environ, **transport},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    events = [json.loads(line) for line in file.read_text().splitlines()]
    outputs = {output["name"] for event in events for output in event.get("outputs", ())}
    assert any("custom_role_mappings" in name for name in outputs), outputs
    assert {"START", "COMPLETE"} <= {event["eventType"] for event in events}
    assert any("load_role_mappings" in event["job"]["name"] for event in events), "the step"
    assert "@" not in file.read_text()
    assert small.api_key not in file.read_text()
