"""Delivery of alerts: one total time limit, no mail is sent twice, no secret appears in a reason."""

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from propel_assets.reporting import delivery
from propel_assets.reporting.alerts import Alert, AlertState, Cause, Problem
from propel_assets.reporting.delivery import Message, deliver, targets
from propel_assets.settings import AlertSettings, load_settings
from propel_assets_tests.processes import free_port
from propel_assets_tests.reporting.servers import (
    SECRET,
    MailServer,
    Webhook,
    dripping,
    endless,
    running_incident_service,
    running_mail_server,
    running_webhook,
)

MAIL: Any = {"sender": "dagster@example.com", "recipients": "data@example.com"}
ALERT = Message("PropelAuth: a test", "- Run failed: what to do")


@pytest.fixture
def short_limit(monkeypatch) -> None:
    monkeypatch.setattr(delivery, "SECONDS", 1.2)


@pytest.mark.parametrize("stage", ["status line", "headers"])
def test_a_webhook_that_drips_is_given_up_on_at_the_limit(stage, short_limit) -> None:
    with dripping(stage) as server:
        settings = AlertSettings(webhook=f"http://127.0.0.1:{server.port}/secret")
        failures = deliver(settings, {"webhook": [ALERT]})
    assert failures == {"webhook": ("Alert target webhook: no success within 1.2 s.", 0)}


@pytest.mark.parametrize("stage", ["greeting", "EHLO", "MAIL", "RCPT", "DATA", "end of mail", "TLS handshake"])
def test_a_mail_server_that_drips_is_given_up_on_at_the_limit(stage, short_limit) -> None:
    scheme = "smtps" if stage == "TLS handshake" else "smtp"
    with dripping(stage) as server:
        settings = AlertSettings(smtp=f"{scheme}://127.0.0.1:{server.port}", **MAIL)
        failures = deliver(settings, {"e-mail": [ALERT]})
        assert server.mails == []
    assert failures == {"e-mail": ("Alert target e-mail: no success within 1.2 s.", 0)}


def test_a_mail_that_was_accepted_is_delivered_although_the_server_drips_afterwards() -> None:
    with dripping("QUIT") as server:
        failures = deliver(AlertSettings(smtp=f"smtp://127.0.0.1:{server.port}", **MAIL), {"e-mail": [ALERT]})
        (mail,) = server.mails
    assert failures == {}
    assert ALERT.text in mail


def test_a_target_that_drips_does_not_delay_the_other_one(monkeypatch) -> None:
    monkeypatch.setattr(delivery, "SECONDS", 5.0)
    with dripping("headers") as web, dripping("QUIT") as mail:
        settings = AlertSettings(webhook=f"http://127.0.0.1:{web.port}/", smtp=f"smtp://127.0.0.1:{mail.port}", **MAIL)
        failures = deliver(settings, {"webhook": [ALERT], "e-mail": [ALERT]})
        assert len(mail.mails) == 1
    assert list(failures) == ["webhook"]


def test_no_process_is_started_without_a_target(monkeypatch) -> None:
    monkeypatch.setattr("subprocess.run", None)
    assert deliver(AlertSettings(), {}) == {}


def test_a_reason_that_is_not_ascii_reaches_the_caller() -> None:
    settings = AlertSettings(smtp="smtp://127.0.0.1:1", sender="not an address", recipients="ä@example.com")
    failures = deliver(settings, {"e-mail": [ALERT]})
    assert failures == {
        "e-mail": ("PROPELAUTH_ALERT_FROM must be set to e-mail addresses, for example data@example.com.", 0)
    }
    assert json.dumps(failures)


# --- webhook and e-mail ---


@pytest.fixture
def mail_server(tmp_path) -> Iterator[MailServer]:
    with running_mail_server(tmp_path) as server:
        yield server


def test_the_error_of_an_unreachable_webhook_has_no_path(run_cli) -> None:
    done = run_cli("alert", PROPELAUTH_ALERT_WEBHOOK=f"http://127.0.0.1:{free_port()}/{SECRET}")
    assert done.returncode == 1
    assert "webhook: The webhook at 127.0.0.1 could not be reached" in done.stderr
    assert SECRET not in done.stderr


@pytest.mark.parametrize(("query", "encrypted"), [("", False), ("?starttls=always", True)])
def test_a_mail_reaches_every_recipient(mail_server, monkeypatch, query, encrypted) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", mail_server.certificate)
    settings = AlertSettings(
        smtp=f"smtp://{mail_server.address}{query}",
        sender="dagster@example.com",
        recipients="data@example.com, On Call <oncall@example.com>",
    )
    assert deliver(settings, {"e-mail": [ALERT]}) == {}
    (mail,) = mail_server.mails
    assert mail.is_encrypted == encrypted
    assert mail.recipients == ["data@example.com", "oncall@example.com"]
    assert "Subject: PropelAuth: a test" in mail.content
    assert "- Run failed: what to do" in mail.content


def test_a_recipient_whom_the_mail_server_refuses_is_reported_and_the_others_receive_one_mail(mail_server) -> None:
    mail_server.refused = {"oncal@example.com"}
    settings = AlertSettings(
        smtp=f"smtp://{mail_server.address}",
        sender="dagster@example.com",
        recipients="data@example.com, oncal@example.com",
    )
    state, logged = AlertState(), []
    for alerts in ([Alert("a", "what to do")], [], []):
        state.deliver(settings, alerts, "", logged.append)
    assert [mail.recipients for mail in mail_server.mails] == [["data@example.com"]]
    assert logged == [
        f"The mail server {mail_server.address} refused 1 of 2 recipients: correct PROPELAUTH_ALERT_TO. "
        "The others received it."
    ]


def test_a_mail_server_with_an_untrusted_certificate_receives_nothing(mail_server) -> None:
    smtp = f"smtp://user:secret-word@{mail_server.address}?starttls=always"
    failures = deliver(AlertSettings(smtp=smtp, **MAIL), {"e-mail": [ALERT]})
    reason = f"The mail server {mail_server.address} did not accept it: SSLCertVerificationError."
    assert failures == {"e-mail": (reason, 0)}
    assert mail_server.mails == []


# --- apprise ---


def apprise(server: Webhook) -> str:
    """Return the URL of apprise that posts the text as `server` expects it."""
    return f"json://127.0.0.1:{server.server_port}/services/{SECRET}?:message=text"


def test_an_alert_reaches_every_service_of_apprise(run_cli) -> None:
    with running_webhook() as one, running_webhook() as other:
        urls = f"{apprise(one)} {apprise(other)}"
        done = run_cli("alert", PROPELAUTH_ALERT_APPRISE=urls)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["apprise URL 1: delivered", "apprise URL 2: delivered"]
    assert one.texts == other.texts == ["This is a test of propel-assets. Alerts are delivered here."]
    assert SECRET not in done.stdout + done.stderr


def test_a_service_that_refuses_is_reported_by_its_status_and_retried_alone(run_cli) -> None:
    with running_webhook() as one, running_webhook() as other:
        one.status = 404
        settings = AlertSettings(apprise=f"{apprise(one)},{apprise(other)}")
        state, logged = AlertState(), []
        state.deliver(settings, [Alert("a", "what to do")], "", logged.append)
        assert logged == ["The apprise URL 1 (json) did not accept it. It returned 404. It is retried."]
        assert list(state.pending) == ["apprise URL 1"]
        state.deliver(settings, [], "", logged.append)
    assert (one.requests, other.requests) == (2, 1)


def test_a_redirect_of_a_service_is_not_followed() -> None:
    with running_webhook() as server:
        server.status = 307
        failures = deliver(AlertSettings(apprise=apprise(server)), {"apprise URL 1": [ALERT]})
    assert failures == {"apprise URL 1": ("The apprise URL 1 (json) did not accept it. It returned 307.", 0)}
    assert server.requests == 1


def test_a_service_that_drips_is_given_up_on_at_the_limit(short_limit) -> None:
    with dripping("headers") as server:
        settings = AlertSettings(apprise=f"json://127.0.0.1:{server.port}/")
        failures = deliver(settings, {"apprise URL 1": [ALERT]})
    assert failures == {"apprise URL 1": ("Alert target apprise URL 1: no success within 1.2 s.", 0)}


def test_an_endless_response_of_a_service_takes_limited_memory() -> None:
    with endless() as url:
        failures = deliver(AlertSettings(apprise=url), {"apprise URL 1": [ALERT]})
    reason = "Alert target apprise URL 1: the process that delivers ended with status 1."
    assert failures == {"apprise URL 1": (reason, 0)}  # out of memory, before the limit of time


def failed(*causes: str) -> dict[str, Problem | None]:
    return {cause: Problem(Cause(f"Run failed: {cause}", "f00d"), cause, "reason " * 200) for cause in causes}


def test_pagerduty_has_one_incident_for_each_cause_and_resolves_it_by_its_recovery(tmp_path, monkeypatch) -> None:
    settings, state, logged = AlertSettings(apprise="pagerduty://integration-key@api-key"), AlertState(), []

    def report(findings: dict[str, Problem | None]) -> None:
        new, resolved = state.update(findings)
        state.deliver(settings, [*new, *resolved], "staging", logged.append)

    with running_incident_service("events.pagerduty.com", tmp_path, monkeypatch) as service:
        report(failed("a", "b"))
        report({"a": None} | {"b": Problem(Cause("Run failed: c"), "b", "reason")})
        report({"b": None})
    assert logged == []
    paths, events = zip(*service.posts, strict=True)
    assert {*paths} == {"/v2/enqueue"}
    opened = {}
    for event in events:
        if event["event_action"] == "trigger":
            assert len(event["payload"]["summary"]) <= 1024
            assert event["payload"]["severity"] == "warning"
            title = event["payload"]["summary"].splitlines()[0]
            assert opened.setdefault(event["dedup_key"], title) == title
    assert [*opened.values()] == [
        "PropelAuth staging: Run failed: a (f00d)",
        "PropelAuth staging: Run failed: b (f00d)",
        "PropelAuth staging: Run failed: c",
    ]
    # Each incident is opened once and resolved once.
    actions = [(event["event_action"], opened[event["dedup_key"]][-8:]) for event in events]
    a, b, c = "a (f00d)", "b (f00d)", "ailed: c"
    assert actions == [("trigger", a), ("trigger", b), ("trigger", c), ("resolve", a), ("resolve", b), ("resolve", c)]


def test_only_the_alerts_that_a_service_did_not_accept_are_retried(tmp_path, monkeypatch) -> None:
    settings, state, logged = AlertSettings(apprise="pagerduty://integration-key@api-key"), AlertState(), []
    alerts, _ = state.update(failed("a", "b"))
    with running_incident_service("events.pagerduty.com", tmp_path, monkeypatch) as service:
        service.limit = 1
        state.deliver(settings, alerts, "", logged.append)
        assert state.pending == {"apprise URL 1": alerts[1:]}
        service.limit = 2
        state.deliver(settings, [], "", logged.append)
    assert logged == ["The apprise URL 1 (pagerduty) did not accept it. It returned 500. It is retried."]
    assert state.pending == {}
    assert len({event["dedup_key"] for _, event in service.posts}) == len(service.posts) == 2


def test_a_recovery_opens_no_alert_at_opsgenie(tmp_path, monkeypatch) -> None:
    with running_incident_service("api.opsgenie.com", tmp_path, monkeypatch) as service:
        settings = AlertSettings(apprise="opsgenie://api-key")
        assert deliver(settings, {"apprise URL 1": [ALERT]}) == {}
        assert deliver(settings, {"apprise URL 1": [ALERT._replace(is_resolved=True)]}) == {}
    ((path, alert),) = service.posts
    assert (path, alert["message"]) == ("/v2/alerts", ALERT.title)


@pytest.mark.parametrize(("is_resolved", "kind"), [(False, "warning"), (True, "success")])
def test_a_service_without_incidents_receives_the_type_of_the_message(is_resolved, kind) -> None:
    with running_webhook() as server:
        url = f"{apprise(server)}&:type=text&:message=other"
        assert deliver(AlertSettings(apprise=url), {"apprise URL 1": [ALERT._replace(is_resolved=is_resolved)]}) == {}
    assert server.texts == [kind]


@pytest.mark.parametrize(
    ("urls", "reason"),
    [
        (f"nothing://{SECRET}", "apprise URL 1 is not a URL that apprise accepts"),
        ("json://hooks.example.com/x", "apprise URL 1 is not encrypted. Write jsons:// instead of json://"),
        (
            "jsons://a.example.com mailto://u:very-secret@example.com",
            "apprise URL 2 is not encrypted. Write mailtos://",
        ),
    ],
)
def test_a_url_that_apprise_cannot_use_is_refused_without_quoting_it(urls, reason, capfd) -> None:
    settings = load_settings({"alert_apprise": urls})
    _, unusable = targets(settings.alert_settings)
    (refused,) = unusable.values()
    assert reason in refused
    captured = capfd.readouterr()
    texts = (refused, repr(settings), repr(settings.alert_settings), captured.out, captured.err)
    assert not any("very-secret" in text for text in texts)


def test_urls_above_the_limit_are_reported() -> None:
    usable, unusable = targets(AlertSettings(apprise=" ".join(["jsons://hooks.example.com"] * 12)))
    assert list(usable) == [f"apprise URL {number}" for number in range(1, 11)]
    reason = "PROPELAUTH_ALERT_APPRISE has 12 URLs. Only the first 10 are used. Remove the others."
    assert unusable == {"apprise URL 11": reason}


def test_recipients_without_a_mail_server_are_reported() -> None:
    usable, unusable = targets(AlertSettings(recipients="data@example.com"))
    reason = "PROPELAUTH_ALERT_TO has recipients, but PROPELAUTH_ALERT_SMTP, the mail server, is not set."
    assert (usable, unusable) == ({}, {"e-mail": reason})


def test_without_the_extra_the_package_to_install_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    _, unusable = targets(AlertSettings(apprise="jsons://hooks.example.com"))
    assert "Install propel-assets with the extra `apprise`." in unusable["apprise URL 1"]


# --- settings ---

MAIL_SETTINGS = {"alert_smtp": "smtp://smtp.example.com", "alert_from": "a@example.com", "alert_to": "b@example.com"}


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"alert_webhook": f"http://hooks.example.com/{SECRET}"}, "must begin with https"),
        ({"alert_webhook": f"hooks.example.com/{SECRET}"}, "no https or http scheme or no host"),
        ({"alert_webhook": f"https://[/{SECRET}"}, "cannot be read as a URL"),
        ({**MAIL_SETTINGS, "alert_smtp": f"http://{SECRET}"}, "PROPELAUTH_ALERT_SMTP must look like smtp://"),
        ({**MAIL_SETTINGS, "alert_smtp": f"smtp://u:{SECRET}@h:port"}, "PROPELAUTH_ALERT_SMTP"),
        ({**MAIL_SETTINGS, "alert_smtp": "smtp://smtp.example.com?starttls=maybe"}, "must be always or never"),
        ({**MAIL_SETTINGS, "alert_smtp": "smtp://u:very-secret@smtp.example.com?starttls=never"}, "in clear text"),
        ({**MAIL_SETTINGS, "alert_from": ""}, "PROPELAUTH_ALERT_FROM must be set"),
        ({**MAIL_SETTINGS, "alert_to": "no address"}, "PROPELAUTH_ALERT_TO must be set"),
    ],
)
def test_a_wrong_setting_is_refused_without_quoting_secrets(wrong, reason) -> None:
    settings = load_settings(wrong)
    _, unusable = targets(settings.alert_settings)
    (refused,) = unusable.values()
    assert reason in refused
    assert "very-secret" not in refused + repr(settings) + repr(settings.alert_settings)


def test_a_target_that_cannot_be_used_does_not_stop_delivery_to_the_others(run_cli) -> None:
    with running_webhook() as server:
        done = run_cli("alert", PROPELAUTH_ALERT_WEBHOOK=server.url, PROPELAUTH_ALERT_APPRISE=f"nosuch://{SECRET}")
    assert (done.returncode, done.stdout) == (1, "webhook: delivered\n")
    assert "apprise URL 1: PROPELAUTH_ALERT_APPRISE: apprise URL 1 is not a URL that apprise accepts" in done.stderr
    (text,) = server.texts
    assert "cannot be used: PROPELAUTH_ALERT_APPRISE: apprise URL 1" in text
    assert SECRET not in text + done.stderr


def test_the_command_without_a_target_names_the_settings(run_cli) -> None:
    done = run_cli("alert")
    assert done.returncode == 1
    assert "Set PROPELAUTH_ALERT_WEBHOOK to the URL of an incoming webhook, or PROPELAUTH_ALERT_SMTP" in done.stderr
