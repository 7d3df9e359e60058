"""Loading: complete, repeatable, and nothing replaced by what is not proved."""

import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from propel_assets.catalog import SCANS, TABLES
from propel_assets.errors import LossRefused, UnexpectedError
from propel_assets.source import convert
from propel_assets.source.client import Client
from propel_assets.source.convert import Batch, Converter
from propel_assets.source.readers import ScanContext, read_scan
from propel_assets.source.stream import ReadOptions, Rows, ScanResult
from propel_assets.warehouse.load import load_scan
from propel_assets.warehouse.pipeline import build_pipeline


def test_every_user_and_membership_is_loaded_once(settings, sandbox, query) -> None:
    load_scan("users", settings)
    load_scan("users", settings)
    assert {row[0] for row in query("SELECT user_id FROM user_query")} == set(sandbox.store.users)
    assert query("SELECT count(*) FROM user_query") == [(300,)]
    expected = {(user, org) for user, orgs in sandbox.store.of_user.items() for org in orgs}
    assert set(query("SELECT user_id, org_id FROM org_membership")) == expected


def test_a_sudden_loss_is_refused_and_can_be_allowed(settings, sandbox, query, monkeypatch) -> None:
    load_scan("users", settings)
    for user in list(sandbox.store.users)[:100]:
        sandbox.store.delete_user(user)
    with pytest.raises(LossRefused, match="PROPELAUTH_ALLOW_LOSS"):
        load_scan("users", settings)
    assert query("SELECT count(*) FROM user_query") == [(300,)]
    monkeypatch.setenv("PROPELAUTH_ALLOW_LOSS", "true")
    from propel_assets.settings import load_settings

    load_scan("users", load_settings())
    assert query("SELECT count(*) FROM user_query") == [(200,)]


def test_a_defect_while_reading_is_not_reported_as_an_error_of_the_destination(settings, monkeypatch) -> None:
    def fail(*_, **__) -> None:
        raise OverflowError("a value of a row")

    monkeypatch.setattr(Client, "get", fail)
    with pytest.raises(UnexpectedError) as error:
        load_scan("jwks", settings)
    assert str(error.value).startswith("Unexpected OverflowError at test_load.py:")
    assert "a value" not in str(error.value)


@pytest.mark.slow
def test_a_load_does_not_look_for_the_database_of_another_project(settings, query, tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("DESTINATION__DUCKDB__CREDENTIALS")
    other = tmp_path / "other"
    other.mkdir()
    load_in = [sys.executable, "-m", "propel_assets.cli", "load", "custom_role_mappings"]
    subprocess.run(load_in, cwd=other, check=True, capture_output=True)
    shutil.rmtree(other)
    second = subprocess.run(load_in, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert second.returncode == 0, second.stderr
    assert query("SELECT count(*) > 0 FROM custom_role_mappings") == [(True,)]


@pytest.mark.slow
def test_only_documented_requests_are_sent(settings, sandbox) -> None:
    user_id = next(iter(sandbox.store.users))
    email = sandbox.store.user_object(user_id)["email"]
    lookups = {"user_by_id": [user_id], "user_by_email": [email], "user_by_username": ["unknown"]}
    options = ReadOptions(lookups=lookups, usage_per_key=True)
    for scan in SCANS:
        load_scan(scan, replace(settings, oauth_token=sandbox.user_token), options=options)
    documented = [re.compile(re.sub(r"\{\w+\}", "[^/]+", table.path)) for table in TABLES if table.path]
    asked = {(request.method, request.path) for request in sandbox.requests}
    assert {method for method, _ in asked} == {"GET"}
    strange = [path for _, path in asked if not any(known.fullmatch(path) for known in documented)]
    assert not strange
    unused = [known.pattern for known in documented if not any(known.fullmatch(path) for _, path in asked)]
    assert not unused


def test_dlt_logs_of_a_retried_job_have_no_personal_data(settings, caplog) -> None:
    build_pipeline(settings.target, None)
    log = logging.getLogger("dlt")
    log.addHandler(caplog.handler)
    row = 'psycopg2.errors.BadCopy: no\nCONTEXT:  COPY user_query, line 2: "somebody@example.org"'
    log.warning("Job for user_query.csv retried in load 1 with message Traceback (most recent call last):\n%s", row)
    log.removeHandler(caplog.handler)
    assert caplog.messages == ["Job for user_query.csv retried in load 1: psycopg2.errors.BadCopy"]


def test_who_wants_users_alone_does_not_read_their_orgs(settings, sandbox) -> None:
    items = list(read_scan("users", ScanContext(client=Client(settings.tenant), wanted={"user_query"})))
    assert {item.table for item in items if isinstance(item, Rows)} == {"user_query"}
    users, members = (item for item in items if isinstance(item, ScanResult))
    assert users.rows_read == len(sandbox.store.users)
    assert members.skipped
    assert {request.query["include_orgs"] for request in sandbox.requests} == {"false"}


@pytest.mark.slow
@pytest.mark.parametrize("privacy", ["open", "strict"])
def test_both_conversions_load_the_same_rows(settings, query, monkeypatch, privacy) -> None:
    policy = replace(settings, privacy=privacy, privacy_key="0123456789abcdef0123456789abcdef")
    by_duckdb: list[bool] = []
    convert_by_duckdb = Converter.by_duckdb

    def by_duckdb_always(converter: Converter, rows: Sequence[Any]) -> Batch | None:
        batch = convert_by_duckdb(converter, rows)
        by_duckdb.append(batch is not None)
        return batch

    monkeypatch.setattr(Converter, "by_duckdb", by_duckdb_always)
    loaded = []
    for min_rows in (0, 10**9):
        monkeypatch.setattr(convert, "MIN_ROWS", min_rows)
        for scan in ("users", "orgs"):
            load_scan(scan, policy)
        tables = ("user_query", "org_membership", "org_query")
        loaded.append([sorted(query(f"SELECT {table}::VARCHAR FROM {table}")) for table in tables])
    assert by_duckdb == [True, True]
    assert loaded[0] == loaded[1]
    assert [len(rows) for rows in loaded[0]] == [300, len(loaded[0][1]), 24]
