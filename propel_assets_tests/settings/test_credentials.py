"""The auth URL and the keys: missing, refused, and read from dlt's files."""

from pathlib import Path

import pytest

from propel_assets.errors import SettingsError
from propel_assets.settings import Settings, credentials, normalize_auth_url, require_credentials

DEMO = "To try without a tenant: propel-assets demo."


def refusal(settings: Settings) -> str:
    with pytest.raises(SettingsError) as error:
        require_credentials(settings)
    return str(error.value)


def test_all_missing_settings_are_named_at_once() -> None:
    assert refusal(Settings()) == (
        "No PropelAuth auth URL and no API key. Set PROPELAUTH_AUTH_URL and PROPELAUTH_API_KEY, or auth_url in "
        ".dlt/config.toml and api_key in .dlt/secrets.toml under [sources.propel_auth_source]. In a Dagster project of "
        f"your own, the options auth_url and api_key of PropelAuthConfig can be set instead. {DEMO}"
    )


def test_a_missing_setting_of_an_environment_is_named_with_the_places_of_that_environment() -> None:
    assert refusal(Settings(auth_url="https://auth.example.com", environment="staging")) == (
        "No PropelAuth API key. Set STAGING__PROPELAUTH_API_KEY, or api_key in .dlt/secrets.toml under "
        "[sources.propel_auth_source.staging]. In a Dagster project of your own, the option api_key of "
        f"PropelAuthConfig can be set instead. {DEMO}"
    )


@pytest.mark.parametrize(
    ("url", "quoted"),
    [
        ("https://auth.example.com/api", "is 'https://auth.example.com/api'; it must look like"),
        ("auth.example.com", "is 'auth.example.com'; it must look like"),
        ("https://user:secret@auth.example.com", "is 'https://auth.example.com'; it must look like"),
        ("https://auth.example.com?key=secret", "is 'https://auth.example.com'; it must look like"),
        ("https://[auth", "is 'https://[auth'; it must look like"),
        ("secret0123456789abcdef", "is not a URL; it must look like"),
    ],
)
def test_a_refused_url_is_quoted_without_secrets(url, quoted) -> None:
    with pytest.raises(SettingsError) as error:
        normalize_auth_url(url)
    assert str(error.value).startswith(f"PROPELAUTH_AUTH_URL {quoted} https://auth.example.com: ")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("url", "normalized"),
    [
        ("https://Auth.Example.com/", "https://auth.example.com"),
        ("HTTPS://auth.example.com:443", "https://auth.example.com"),
        ("https://auth.example.com:8443", "https://auth.example.com:8443"),
        ("https://auth.example.com:80", "https://auth.example.com:80"),
        ("http://localhost:80", "http://localhost"),
        ("http://[::1]:8400", "http://[::1]:8400"),
    ],
)
def test_the_same_host_has_one_url(url, normalized) -> None:
    assert normalize_auth_url(url) == normalized


def test_only_what_a_load_uses_is_looked_up_in_dlts_files(monkeypatch) -> None:
    found: list[str] = []
    monkeypatch.setattr(credentials, "read_from_dlt", lambda _, name: found.append(name) or "")
    settings = require_credentials(Settings(auth_url="https://auth.example.com", api_key="k"))
    assert (settings.auth_url, found) == ("https://auth.example.com", ["oauth_token"])


@pytest.mark.parametrize("command", ["load", "status"])
def test_a_file_that_dlt_cannot_read_is_named_in_one_sentence(command, run_process) -> None:
    Path(".dlt").mkdir()
    Path(".dlt/secrets.toml").write_text('key = "the-secret', encoding="utf-8")
    ran = run_process(command)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith("Error: ./.dlt/secrets.toml cannot be read.")
    assert ran.stderr.count("\n") == 1
    assert "the-secret" not in ran.stderr
