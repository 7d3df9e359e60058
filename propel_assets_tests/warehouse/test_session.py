"""A load session: one pipeline for several loads, which leaves nothing behind and survives a failed load."""

import fcntl
import logging
import os
import shutil
import threading
from pathlib import Path

import dlt
import pytest

from propel_assets.catalog import BY_NAME
from propel_assets.errors import KeyRefused
from propel_assets.settings import load_settings
from propel_assets.warehouse import pipeline as pipeline_module
from propel_assets.warehouse import session as session_module
from propel_assets.warehouse.dlt_compat import local_state_folder
from propel_assets.warehouse.folders import PREFIX
from propel_assets.warehouse.load import load_scan
from propel_assets.warehouse.session import open_session


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch) -> Path:
    """An empty folder for the temporary files of this process."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@pytest.fixture
def built(monkeypatch) -> list[str]:
    """The working folders of the pipelines that are built, in order."""
    folders: list[str] = []
    build = pipeline_module.build_pipeline

    def count(target, folder, log=print):
        folders.append(folder)
        return build(target, folder, log)

    monkeypatch.setattr(session_module, "build_pipeline", count)
    return folders


def test_the_loads_of_a_session_share_a_pipeline_and_leave_no_files(settings, sandbox, query, temporary, built) -> None:
    with open_session(settings.target) as session:
        for scan in ("users", "jwks", "users"):
            load_scan(scan, settings, session=session)
            assert [file for file in temporary.rglob("*.parquet")] == []
        assert len(list(temporary.glob(f"{PREFIX}*"))) == 1
    assert len(built) == 1
    assert list(temporary.iterdir()) == []
    assert query("SELECT count(*), count(DISTINCT user_id) FROM user_query") == [(300, 300)]
    assert query("SELECT count(*) FROM propel_scans WHERE table_name = 'user_query'") == [(2,)]


def test_a_failed_load_leaves_nothing_for_the_next_load_of_its_session(settings, sandbox, query, built) -> None:
    with open_session(settings.target) as session:
        load_scan("users", settings, session=session)
        sandbox.store.delete_user(min(sandbox.store.users))
        sandbox.faults.set("key_revoked")
        with pytest.raises(KeyRefused):
            load_scan("users", settings, session=session)
        sandbox.faults.clear()
        load_scan("jwks", settings, session=session)
        assert query("SELECT count(*) FROM user_query") == [(300,)]
        load_scan("users", settings, session=session)
    assert len(built) == 2
    assert query("SELECT count(*) FROM user_query") == [(299,)]


def test_messages_of_a_load_go_to_the_caller_of_that_load(settings, tmp_path, monkeypatch) -> None:
    quick = load_settings({"lock_seconds": 0.5})
    first: list[str] = []
    second: list[str] = []
    with open_session(quick.target) as session:
        load_scan("jwks", quick, log=first.append, session=session)
        monkeypatch.setattr("propel_assets.warehouse.locks.FileLock.acquire", _held)
        with pytest.raises(
            Exception, match=r"Waited 0 s \(PROPELAUTH_LOCK_SECONDS\): another process holds the lock of"
        ):
            load_scan("jwks", quick, log=second.append, session=session)
    assert first == []
    assert second[0].startswith(
        "Waiting: another process holds the lock of propel_auth_pipeline.duckdb. Waits up to 0 s "
    )


def _held(*_: object, **__: object) -> None:
    from filelock import Timeout

    raise Timeout("held")


def test_local_pipeline_state_is_restored_once_and_names_the_tables(settings, monkeypatch) -> None:
    restored: list[str] = []
    sync = session_module.sync_local_pipeline
    monkeypatch.setattr(session_module, "sync_local_pipeline", lambda *args: (restored.append("once"), sync(*args)))
    with open_session(settings.target) as session:
        for scan in ("jwks", "role_mappings"):
            load_scan(scan, settings, session=session)
            assert restored == []
    assert restored == ["once"]
    tables = dlt.attach("propel_auth_pipeline").default_schema.tables
    assert set(BY_NAME) <= set(tables)


def test_nothing_is_logged_about_a_local_state_of_another_destination(settings, monkeypatch, tmp_path, request) -> None:
    load_scan("jwks", settings)
    monkeypatch.setenv("PROPELAUTH_DESTINATION", "filesystem")
    monkeypatch.setenv("DESTINATION__FILESYSTEM__BUCKET_URL", str(tmp_path / "lake"))
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    logging.getLogger("dlt").addHandler(handler)
    request.addfinalizer(lambda: logging.getLogger("dlt").removeHandler(handler))
    pipeline_module.sync_local_pipeline(load_settings().target)
    assert [record.getMessage() for record in records] == []
    assert dlt.attach("propel_auth_pipeline").destination.destination_type.endswith("filesystem")


def test_a_session_without_a_load_changes_nothing(settings, tmp_path, temporary) -> None:
    with open_session(settings.target):
        pass
    assert list(temporary.iterdir()) == []
    assert not (tmp_path / "propel_auth_pipeline.duckdb").exists()


def test_tables_are_loaded_although_the_local_state_cannot_be_written(settings, query, monkeypatch) -> None:
    monkeypatch.setenv("DLT_DATA_DIR", "/proc/nowhere")
    messages: list[str] = []
    load_scan("jwks", settings, log=messages.append)
    assert query("SELECT count(*) > 0 FROM jwks") == [(True,)]
    [message] = messages
    assert message.startswith(
        "The tables are loaded, but dlt's local pipeline state could not be written: FileNotFoundError "
        "(No such file or directory)."
    )
    assert "Set DLT_DATA_DIR to a folder that this user can write to" in message


def test_files_of_the_local_state_that_cannot_be_copied_are_described(settings, monkeypatch) -> None:
    def fail(*_) -> None:
        raise shutil.Error([("from", "to", "[Errno 28] No space left on device")])

    monkeypatch.setattr(pipeline_module, "copy_local_state", fail)
    messages: list[str] = []
    load_scan("jwks", settings, log=messages.append)
    [message] = messages
    assert "could not be written: Error (No space left on device)." in message


def test_a_local_state_that_another_process_has_locked_is_not_waited_for_without_end(
    settings, query, monkeypatch
) -> None:
    monkeypatch.setattr(pipeline_module, "LOCAL_STATE_SECONDS", 0.5)
    lock = Path(f"{local_state_folder('propel_auth_pipeline')}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    messages: list[str] = []
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        load = threading.Thread(target=load_scan, args=("jwks", settings), kwargs={"log": messages.append}, daemon=True)
        load.start()
        load.join(60)
        is_waiting = load.is_alive()
    load.join(60)
    assert not is_waiting
    assert query("SELECT count(*) > 0 FROM jwks") == [(True,)]
    [message] = messages
    assert "could not be written: another process has held" in message


def test_a_killed_session_is_cleaned_up_by_the_next(settings, temporary) -> None:
    abandoned = temporary / f"{PREFIX}{os.getpid()}-x"  # process ids are used again, in containers always
    abandoned.mkdir()
    (abandoned / "rows.parquet").write_text("personal data")
    with open_session(settings.target):
        assert not abandoned.exists()
    shutil.rmtree(abandoned, ignore_errors=True)


def test_the_folder_of_a_running_session_is_not_removed_whatever_its_process_id(settings, temporary) -> None:
    with open_session(settings.target):
        [folder] = temporary.iterdir()
        other = folder.rename(temporary / f"{PREFIX}4194304-x")  # above the largest process id of Linux
        with open_session(settings.target):
            assert other.exists()
        other.rename(folder)
