"""Environment variables and arguments to settings, and the environment as a value."""

from dataclasses import fields

import pytest

from propel_assets.errors import SettingsError
from propel_assets.settings import (
    FIELDS,
    Settings,
    load_settings,
    report_misspelled_variables,
    require_credentials,
    variable_of,
)

SECRETS = [f.name for f in fields(Settings) if f.metadata["secret"]]


@pytest.mark.parametrize(
    ("variable", "text", "sentence"),
    [
        ("PROPELAUTH_PAGE_SIZE", "many", "is 'many'; it must be a whole number."),
        ("PROPELAUTH_PAGE_SIZE", "0", "is 0; it must be at least 1."),
        ("PROPELAUTH_MAX_RPS", "fast", "is 'fast'; it must be a number."),
        ("PROPELAUTH_MAX_RPS", "nan", "is nan; it must be at least 0."),
        ("PROPELAUTH_RECENT_MINUTES", "-1", "is -1.0; it must be at least 0."),
        ("PROPELAUTH_MAX_LOSS", "20", "is 20.0; it must be from 0 to 1."),
        ("PROPELAUTH_ALLOW_LOSS", "maybe", "is 'maybe'; set it to true or false."),
        ("PROPELAUTH_TABLE_FORMAT", "csv", "is 'csv'; choose one of delta, parquet."),
        ("PROPEL_EXECUTOR", "dask", "is 'dask'; choose one of in_process, multiprocess, celery, k8s."),
        ("PROPELAUTH_ENVIRONMENT", "Prod", "is 'Prod'; a name has at most 20 lowercase letters, "),
    ],
)
def test_a_refused_value_is_quoted_with_its_variable_and_what_is_allowed(variable, text, sentence, monkeypatch) -> None:
    monkeypatch.setenv(variable, text)
    with pytest.raises(SettingsError) as error:
        load_settings()
    assert str(error.value).startswith(f"{variable} {sentence}")


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_in_no_text_of_settings(name, monkeypatch) -> None:
    monkeypatch.setenv(variable_of(name), "the-secret")
    settings = load_settings()
    assert getattr(settings, name) == "the-secret"
    parts = (settings.target, settings.privacy_settings, settings.alert_settings, settings.tenant)
    assert "the-secret" not in repr((settings, parts))


def test_an_argument_comes_before_a_variable_and_an_empty_one_is_ignored(monkeypatch) -> None:
    monkeypatch.setenv("PROPELAUTH_DESTINATION", "postgres")
    assert load_settings({"destination": "snowflake"}).destination == "snowflake"
    assert load_settings({"destination": ""}).destination == "postgres"
    assert load_settings({"allow_loss": False}).allow_loss is False


def test_two_environments_have_their_own_settings_in_one_process(monkeypatch) -> None:
    monkeypatch.setenv("PROPELAUTH_PAGE_SIZE", "50")
    for name in ("STAGING", "PRODUCTION"):
        monkeypatch.setenv(f"{name}__PROPELAUTH_AUTH_URL", f"https://{name.lower()}.example.com")
        monkeypatch.setenv(f"{name}__PROPELAUTH_API_KEY", f"key of {name}")
    monkeypatch.setenv("STAGING__PROPELAUTH_PAGE_SIZE", "7")
    staging, production = (require_credentials(load_settings(environment=n)) for n in ("staging", "production"))
    assert (staging.auth_url, staging.api_key, staging.page_size) == (
        "https://staging.example.com",
        "key of STAGING",
        7,
    )
    assert (production.auth_url, production.page_size) == ("https://production.example.com", 50)
    assert staging.target.named("propel_auth_data") == "staging_propel_auth_data"
    assert production.target.named("propel_auth_data") == "production_propel_auth_data"
    assert load_settings().target.named("propel_auth_data") == "propel_auth_data"


def test_the_environment_variable_names_the_environment_where_no_argument_does(monkeypatch) -> None:
    monkeypatch.setenv("PROPELAUTH_ENVIRONMENT", "staging")
    assert load_settings().environment == "staging"
    assert load_settings(environment="production").environment == "production"


@pytest.mark.parametrize(
    ("variable", "setting"),
    [
        ("PROPELAUTH_DESTINATON", "PROPELAUTH_DESTINATION"),
        ("PROPELAUTH_APIKEY", "PROPELAUTH_API_KEY"),
        ("PROPELAUTH_EXECUTOR", "PROPEL_EXECUTOR"),
        ("STAGING__PROPELAUTH_API_KEYS", "STAGING__PROPELAUTH_API_KEY"),
        ("STAGING__API_KEY", "STAGING__PROPELAUTH_API_KEY"),
    ],
)
def test_a_misspelled_variable_is_reported_with_the_setting_that_it_is_close_to(variable, setting, monkeypatch) -> None:
    monkeypatch.setenv(variable, "x")
    monkeypatch.setenv("PROPELAUTH_ENVIRONMENT", "staging")
    messages: list[str] = []
    for _ in range(2):  # logged once
        report_misspelled_variables(messages.append)
    assert messages == [f"{variable} is not a setting. Did you mean {setting}?"]


@pytest.mark.parametrize(
    "variable",
    [
        *(f"PROPELAUTH_{name}" for name in ("VERIFIER_KEY", "REDIRECT_URI", "CLIENT_SECRET", "LOG_LEVEL")),
        *map(variable_of, FIELDS),
        *(f"STAGING__{variable_of(name)}" for name in FIELDS),
        "STAGING__DESTINATION__POSTGRES__CREDENTIALS",
        "PRODUCTION__PROPELAUTH_APIKEY",
        "DESTINATON",
    ],
)
def test_a_setting_and_a_variable_of_another_program_are_not_reported(variable, monkeypatch) -> None:
    monkeypatch.setenv(variable, "x")
    monkeypatch.setenv("PROPELAUTH_DESTINATON", " ")  # empty, as Compose sets a variable without a value
    messages: list[str] = []
    report_misspelled_variables(messages.append, "staging")
    assert messages == []
