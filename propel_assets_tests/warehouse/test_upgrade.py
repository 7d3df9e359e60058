"""A database that an earlier version wrote loads on with this one."""

from pathlib import Path

import duckdb
import pytest

from propel_assets import __version__
from propel_assets.catalog import BY_NAME
from propel_assets.sandbox.running import Sandbox
from propel_assets_tests.released import FOLDER, TABLES, WORLD, read, write
from propel_assets_tests.truth import Rows, by_key, truth

RELEASES = sorted(path for path in FOLDER.iterdir() if (path / "load.sql").exists())


@pytest.fixture
def world(monkeypatch):
    """The world the releases were loaded from, with people who came and left."""
    with Sandbox(**WORLD) as sandbox:
        monkeypatch.setenv("PROPELAUTH_AUTH_URL", sandbox.url)
        monkeypatch.setenv("PROPELAUTH_API_KEY", sandbox.api_key)
        sandbox.store.delete_user(min(sandbox.store.users))
        sandbox.store.add_user()
        yield sandbox


def rows(file: Path, name: str) -> Rows:
    with duckdb.connect(str(file), read_only=True) as database:
        columns = [column.name for column in BY_NAME[name].columns]
        found = database.execute(f"SELECT {', '.join(columns)} FROM propel_auth_data.{name}").fetchall()
    return by_key(BY_NAME[name], [dict(zip(columns, row, strict=True)) for row in found])


@pytest.mark.slow
@pytest.mark.parametrize("release", RELEASES, ids=lambda path: path.name)
def test_a_database_of_an_earlier_version_loads_on(release, world, tmp_path, run_cli) -> None:
    file = tmp_path / "propel_auth_pipeline.duckdb"
    read(release, file)
    before = rows(file, "end_user_api_key_usage")
    assert len(rows(file, "user_query")) == WORLD["users"]
    done = run_cli("load", *TABLES)
    assert done.returncode == 0, done.stderr
    for name in ("user_query", "org_membership"):
        assert rows(file, name) == truth(world.store, name)
    assert before.keys() <= rows(file, "end_user_api_key_usage").keys()


@pytest.mark.slow
def test_what_this_version_writes_can_be_kept(tmp_path) -> None:
    write(tmp_path / __version__)
    read(tmp_path / __version__, tmp_path / "copy.duckdb")
    assert len(rows(tmp_path / "copy.duckdb", "user_query")) == WORLD["users"]


def test_there_is_a_release_to_upgrade_from() -> None:
    assert RELEASES
