"""Databases as released versions wrote them, in files in `releases`: one folder per version.

`python -m propel_assets_tests.released` writes that of the version installed. Run it once, when a version is released.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import duckdb

from propel_assets import __version__
from propel_assets.sandbox.running import Sandbox

FOLDER = Path(__file__).parent / "releases"
TABLES = ("user_query", "org_query", "pending_org_invites", "custom_role_mappings", "end_user_api_key_usage")
WORLD: dict[str, Any] = {"users": 60, "orgs": 6, "seed": 7}


def write(folder: Path) -> None:
    """Load the world into DuckDB by the command, and export the database to ``folder``."""
    with tempfile.TemporaryDirectory() as place, Sandbox(**WORLD) as sandbox:
        file = Path(place) / "propel_auth_pipeline.duckdb"
        settings = {
            "PROPELAUTH_AUTH_URL": sandbox.url,
            "PROPELAUTH_API_KEY": sandbox.api_key,
            "DESTINATION__DUCKDB__CREDENTIALS": str(file),
            "DLT_DATA_DIR": place,
        }
        command = [sys.executable, "-m", "propel_assets.cli", "load", *TABLES]
        subprocess.run(command, cwd=place, env={**os.environ, **settings}, check=True)
        with duckdb.connect(str(file)) as database:
            database.execute(f"EXPORT DATABASE '{folder}' (FORMAT parquet, COMPRESSION zstd)")
    load = folder / "load.sql"
    load.write_text(re.sub(r"'[^']*/([^'/]+\.parquet)'", r"'\1'", load.read_text()))


def read(folder: Path, file: Path) -> None:
    """Make the DuckDB file of the database in ``folder``."""
    load = (folder / "load.sql").read_text()
    with duckdb.connect(str(file)) as database:
        database.execute((folder / "schema.sql").read_text())
        database.execute(re.sub(r"'([^']+\.parquet)'", rf"'{folder}/\1'", load))


if __name__ == "__main__":
    write(FOLDER / __version__)
