"""No secret outlives a run: canaries are looked for in every file that runs with failures leave behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOKEN, WRONG_KEY, PRIVACY_KEY = "canary-token-of-a-user", "canary-key-of-nobody", "canary-key-to-hash-by"
MATERIALIZE = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "propel_assets.definitions"]
TABLES = ("user_query", "org_membership", "pending_org_invites", "oauth_userinfo")


@pytest.fixture
def materialize(small, tmp_path, monkeypatch):
    """Run Dagster in a process of its own, all of whose files are in the test's folder."""
    for variable in ("DAGSTER_HOME", "DLT_DATA_DIR", "TMPDIR"):
        (tmp_path / variable).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / variable))
    (tmp_path / "DAGSTER_HOME" / "dagster.yaml").write_text("telemetry: {enabled: false}\n")

    def run(**environment: str) -> subprocess.CompletedProcess:
        select = " or ".join(f"key:propel_auth/{name}" for name in TABLES)
        env = {**os.environ, "PROPELAUTH_PRIVACY_KEY": PRIVACY_KEY, **environment}
        return subprocess.run(
            [*MATERIALIZE, "--select", select], env=env, capture_output=True, text=True, timeout=250, check=False
        )

    return run


def left_in(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_key_token_or_address_is_in_any_file_that_runs_with_failures_leave(small, materialize, tmp_path) -> None:
    small.faults.set("retyped_field", "users.email")
    runs = [materialize(PROPELAUTH_OAUTH_TOKEN=TOKEN), materialize(PROPELAUTH_API_KEY=WRONG_KEY)]
    assert all(ran.returncode != 0 for ran in runs)
    said = "".join(ran.stdout + ran.stderr for ran in runs)
    assert "PROPELAUTH_OAUTH_TOKEN is not a valid access token" in said
    assert "PROPELAUTH_API_KEY is not a key of this environment" in said

    left = left_in(tmp_path)
    assert {"propel_auth_pipeline.duckdb", "DAGSTER_HOME", "DLT_DATA_DIR"} <= {name.split("/")[0] for name in left}
    assert any(name.endswith(".err") for name in left)  # compute logs
    left["stdout and stderr"] = said.encode()
    secrets = [small.api_key, TOKEN, WRONG_KEY, PRIVACY_KEY]
    assert [(name, secret) for name, text in left.items() for secret in secrets if secret.encode() in text] == []

    database = left.pop("propel_auth_pipeline.duckdb")
    addresses = [user.wire["email"] for user in small.store.users.values()]
    addresses += [invite["invitee_email"] for invite in small.store.invites]
    assert any(address.encode() in database for address in addresses)  # so they would be found
    assert [(name, a) for name, text in left.items() for a in addresses if a.encode() in text] == []
