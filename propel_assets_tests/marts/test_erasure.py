"""An erasure covers the histories and marts that dbt built, and later builds do not restore the person."""

from pathlib import Path

import pytest

from propel_assets.settings import load_settings
from propel_assets.warehouse.erasure import erase
from propel_assets.warehouse.load import load_scan
from propel_assets_tests.marts.conftest import SCANS


@pytest.mark.slow
def test_no_trace_of_the_person_remains_in_histories_and_marts(small_sandbox, build, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PROPELAUTH_PRIVACY_KEY", "a key for this test only")
    settings = load_settings({"auth_url": small_sandbox.url, "api_key": small_sandbox.api_key})
    store, file = small_sandbox.store, Path(tmp_path / "propel_auth_pipeline.duckdb")
    user_id = next(user for user in store.users if store.of_user.get(user))
    email = store.users[user_id].wire["email"]

    def load() -> bytes:
        for scan in SCANS:
            load_scan(scan, settings)
        build(settings)
        return file.read_bytes()

    load()
    store.update_user(user_id, first_name="Changed")
    assert user_id.encode() in load()
    receipt = erase(settings.target, settings.privacy_settings, user_id)
    assert receipt.is_complete, receipt
    places = {record.where for record in receipt.records}
    assert {"propel_auth_history.users_history", "propel_auth_history.memberships_history"} <= places
    assert {"propel_auth_marts.dim_user", "propel_auth_marts.bridge_membership"} <= places
    for content in (file.read_bytes(), load()):  # the user still exists at PropelAuth
        assert user_id.encode() not in content
        assert email.encode() not in content
