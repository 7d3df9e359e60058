"""The connection of dbt, from dlt's credentials."""

import pytest

from propel_assets.marts.runner import how_to_build, profile_from_dlt
from propel_assets.settings import load_settings
from propel_assets.warehouse.pipeline import build_pipeline

TLS = {
    "sslmode": "verify-full",
    "sslcert": "/tls/client.crt",
    "sslkey": "/tls/client.key",
    "sslrootcert": "/tls/ca.crt",
}


def test_no_job_is_recommended_where_the_marts_cannot_be_built() -> None:
    found = {name: how_to_build(load_settings({"destination": name}).target) for name in ("postgres", "snowflake")}
    assert "propel_auth_refresh" in found["postgres"]
    assert found["snowflake"].startswith("History and marts are built on DuckDB and PostgreSQL only.")


@pytest.mark.parametrize("is_in_url", [True, False])
def test_dbt_connects_to_postgresql_with_the_tls_settings_of_the_loads(is_in_url, monkeypatch, tmp_path) -> None:
    given = {**TLS, "connect_timeout": "7", "keepalives_idle": "50"}
    query = "&".join(f"{name}={value}" for name, value in given.items()) if is_in_url else ""
    monkeypatch.setenv("DESTINATION__POSTGRES__CREDENTIALS", f"postgresql://loader:secret@db.example.com/auth?{query}")
    target = load_settings({"destination": "postgres"}).target
    output = profile_from_dlt(target, build_pipeline(target, str(tmp_path), print)).output
    assert (output["host"], output["user"], output["dbname"]) == ("db.example.com", "loader", "auth")
    connection = {name: output.get(name) for name in given}
    expected = {**TLS, "connect_timeout": 7, "keepalives_idle": 50} if is_in_url else {}
    defaults = {**dict.fromkeys(TLS), "connect_timeout": 15, "keepalives_idle": 30}
    assert connection == {**defaults, **expected}
