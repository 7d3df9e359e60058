"""A table whose shape exists is one record in the catalog and, for the sandbox, one endpoint."""

import json
import subprocess
import sys

import pytest

from propel_assets_tests.processes import ROOT


@pytest.mark.slow
def test_a_new_record_appears_everywhere_without_another_edit(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", "")
    command = [sys.executable, "-m", "propel_assets_tests.catalog.made_up_table"]
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found["resources"] == ["org_badges"]
    assert found["group"].endswith("orgs")
    assert found["description"].startswith("A made-up table.")
    assert found["materialized"].count(True) == 1
    checks = {"row_count", "schema", "primary_key_is_unique", "references_exist", "volume", "up_to_date"}
    assert found["checks"] == dict.fromkeys(checks, True)
    assert found["rows"] == [[f"holder{number}@example.com"] for number in range(4)]
    assert found["privacy"] == {"badge_id": "keep", "org_id": "keep", "holder": "hash", "note": "drop"}
    assert found["lineage"] == ["GET /api/backend/v1/org_badges badges.holder_email"]
    assert found["documentation"]
    assert found["dbt_source"]
