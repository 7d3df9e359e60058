"""Names of folders, unwritable folders, and files of other versions: loaded, or refused in one sentence."""

import struct
from pathlib import Path

import duckdb
import pytest

from propel_assets.warehouse.destinations.duckdb_file import HEADER, MAGIC, NEWEST_VERSION

# Quotes and separators of SQL, glob patterns, characters of URLs, and others than ASCII.
UNUSUAL = "\"double\" 'single' ; * [x] # & \\ ünïcödé 雪"
DUCKDB_2 = 999  # the storage version in the header of a file that DuckDB 2.0.0 has written
TABLES = ("user_query", "chart_metrics")  # one replaced, one merged


def load_twice_and_check(run_process, folder: Path, monkeypatch) -> None:
    monkeypatch.delenv("DESTINATION__DUCKDB__CREDENTIALS")
    monkeypatch.chdir(folder)
    for words in (("load", *TABLES), ("load", "user_query", "--recent"), ("status",)):
        done = run_process(*words)
        assert done.returncode == 0, done.stderr
    with duckdb.connect(str(folder / "propel_auth_pipeline.duckdb"), read_only=True) as db:
        assert db.execute("SELECT count(*) FROM propel_auth_data.user_query").fetchall() == [(60,)]
        assert db.execute("SELECT count(*) > 0 FROM propel_auth_data.chart_metrics").fetchall() == [(True,)]


@pytest.mark.slow
def test_the_working_directory_may_have_any_name(small, tmp_path, run_process, monkeypatch) -> None:
    folder = tmp_path / f"{UNUSUAL} %s %20"
    folder.mkdir()
    load_twice_and_check(run_process, folder, monkeypatch)


@pytest.mark.slow
def test_the_temporary_folder_may_have_any_name(small, tmp_path, run_process, monkeypatch) -> None:
    folder = tmp_path / f"{UNUSUAL} ?"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    load_twice_and_check(run_process, tmp_path, monkeypatch)
    assert list(folder.iterdir()) == []


def test_a_folder_that_duckdb_cannot_write_to_is_refused_before_anything_is_read(
    small, tmp_path, run_process, monkeypatch
) -> None:
    monkeypatch.delenv("DESTINATION__DUCKDB__CREDENTIALS")
    folder = tmp_path / "why?"
    folder.mkdir()
    monkeypatch.chdir(folder)
    done = run_process("load", "user_query")
    assert done.returncode == 1
    assert "its path has a question mark. Rename the folder, or set another file" in " ".join(done.stderr.split())
    assert not small.requests


def test_a_temporary_folder_that_dlt_cannot_use_is_refused_before_anything_is_read(small, tmp_path, run_cli) -> None:
    folder = tmp_path / "100%s"
    folder.mkdir()
    for words in (("load", "user_query"), ("status",)):
        done = run_cli(*words, TMPDIR=str(folder))
        assert done.returncode == 1
        assert "has a percent sign in its path, which dlt cannot use. Set TMPDIR" in " ".join(done.stderr.split())
    assert not small.requests


def test_an_unwritable_home_is_a_hint_and_the_tables_are_loaded(small, query, run_process) -> None:
    # Folders in /proc cannot be created by any user, root included.
    unwritable = {name: "/proc/no-home" for name in ("HOME", "XDG_CACHE_HOME", "DLT_DATA_DIR")}
    done = run_process("load", "user_query", **unwritable)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "Set DLT_DATA_DIR to a folder that this user can write to" in " ".join(done.stderr.split())
    assert query("SELECT count(*) FROM user_query") == [(60,)]


@pytest.mark.parametrize("file", ["config.toml", "secrets.toml"])
def test_a_file_of_dlt_with_a_byte_order_mark_is_refused_in_one_sentence(file, small, tmp_path, run_process) -> None:
    (tmp_path / ".dlt").mkdir()
    (tmp_path / ".dlt" / file).write_text('\ufeff[runtime]\nlog_level = "WARNING"\n', encoding="utf-8")
    done = run_process("load", "user_query")
    assert done.returncode == 1
    assert done.stderr.count("\n") <= 3, done.stderr
    assert file in done.stderr
    assert "without a byte order mark (BOM)" in " ".join(done.stderr.split())
    assert not small.requests


@pytest.mark.parametrize("words", [("load", "user_query"), ("status",), ("check",)])
def test_a_database_of_duckdb_2_is_refused_in_one_sentence(words, loaded, tmp_path, run_cli) -> None:
    file = tmp_path / "propel_auth_pipeline.duckdb"
    content = bytearray(file.read_bytes())
    magic, version = HEADER.unpack_from(content)
    assert (magic, version <= NEWEST_VERSION) == (MAGIC, True)
    struct.pack_into("<Q", content, HEADER.size - 8, DUCKDB_2)
    file.write_bytes(content)
    done = run_cli(*words)
    assert done.returncode == 1
    assert f"{file.name} was written by DuckDB 2 or later" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert file.read_bytes() == content
    assert not loaded.requests
