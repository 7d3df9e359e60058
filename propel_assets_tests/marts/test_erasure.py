"""An erased user is removed from histories and marts, and later loads do not restore the user."""

from pathlib import Path

from propel_assets.settings import load_settings
from propel_assets.warehouse.erasure import erase
from propel_assets.warehouse.load import load_scan
from propel_assets_tests.marts.conftest import SCANS


def test_an_erased_user_is_in_no_history_and_no_mart(small_sandbox, build, tmp_path, monkeypatch) -> None:
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
    receipt = erase(settings, user_id)
    places = {line.where for line in receipt}
    assert {"propel_auth_history.users_history", "propel_auth_history.memberships_history"} <= places
    assert {"propel_auth_marts.dim_user", "propel_auth_marts.bridge_membership"} <= places
    for there in (file.read_bytes(), load()):  # PropelAuth still has the user
        assert user_id.encode() not in there
        assert email.encode() not in there
