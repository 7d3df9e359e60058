"""The check `volume`: a load with an unusual number of rows is reported."""

import base64
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from xml.etree import ElementTree

import dagster as dg
import duckdb
import pytest

from propel_assets.catalog import BY_NAME
from propel_assets.defs.checks import check_evaluation
from propel_assets.privacy.policy_file import load_policy
from propel_assets.settings import load_settings
from propel_assets.warehouse.checks import examine
from propel_assets.warehouse.query import open_warehouse

TABLE = BY_NAME["org_query"]
HISTORY = [100, 102, 99, 101, 103, 100]


@pytest.fixture
def volume(loaded, tmp_path):
    """Record loads with these numbers of rows in the audit tables, the newest last, and examine the table."""

    def look(*rows: int, mode: str = "full", table=TABLE):
        first = datetime.now(UTC) - timedelta(days=len(rows))
        with duckdb.connect(str(tmp_path / "propel_auth_pipeline.duckdb")) as db:
            db.execute("USE propel_auth_data")
            db.execute("UPDATE _dlt_loads SET status = 1")  # those of the fixture
            for at, read in enumerate(rows):
                load, time = f"{mode}-{at}", first + timedelta(days=at)
                db.execute(
                    "INSERT INTO _dlt_loads SELECT ?, schema_name, 0, ?, schema_version_hash FROM _dlt_loads LIMIT 1",
                    [load, time],
                )
                db.execute(
                    "INSERT INTO propel_scans BY NAME SELECT ? load_id, ? table_name, ? AS mode, 'proved' verdict, "
                    "? rows_read, ? started_at, ? finished_at",
                    [load, table.name, mode, read, time, time],
                )
        settings = load_settings()
        with open_warehouse(settings.target, load_policy(settings.privacy_settings)) as warehouse:
            (finding,) = examine(warehouse, table, ["volume"])
        return finding

    return look


@pytest.mark.parametrize(
    ("rows", "usual"), [(100, True), (92, True), (109, True), (60, False), (200, False), (0, False)]
)
def test_a_load_is_held_against_the_median_of_those_before(volume, rows, usual) -> None:
    finding = volume(*HISTORY, rows)
    assert finding.passed == usual
    assert finding.severity == "WARN" or usual
    assert (
        f"{rows} rows, expected 90 to 111" in finding.summary or f"{rows} rows, expected 90 to 110" in finding.summary
    )
    assert finding.evidence["history"] == [*HISTORY, rows]


def test_a_table_whose_size_varies_widely_may_vary_widely(volume) -> None:
    assert volume(100, 160, 80, 140, 90, 150, 200).passed


def test_one_odd_load_before_does_not_widen_what_is_expected(volume) -> None:
    assert not volume(*HISTORY, 5000, 60).passed


def test_fewer_than_five_loads_before_say_nothing(volume) -> None:
    finding = volume(100, 100, 100, 100, 1)
    assert finding.passed
    assert "there are 4." in finding.summary


def test_the_command_line_shows_the_volume_check(volume, run_cli) -> None:
    volume(*HISTORY, 60)
    said = run_cli("check", TABLE.name).stdout
    assert re.search(r"^org_query +volume +WARN +60 rows, expected 90 to 111", said, re.MULTILINE)


def test_dagster_shows_a_chart_of_the_loads(volume) -> None:
    result = check_evaluation(volume(*HISTORY, 60), dg.AssetKey("org_query"))
    markdown: Any = result.metadata["chart"].value
    assert markdown.startswith("60 rows, expected 90 to 11")
    (data,) = re.findall(r"!\[Rows per load\]\(data:image/svg\+xml;base64,(.+)\)$", markdown)
    svg = ElementTree.fromstring(base64.b64decode(data))
    paths = [path.attrib["d"] for path in svg.iter("{http://www.w3.org/2000/svg}path")]
    assert max(path.count("L") for path in paths) == len(HISTORY)  # a line through each load
