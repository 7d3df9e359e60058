"""Alerts, sent to a web server and a mail server on this machine: each once, in full, and never lost."""

import datetime
import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import dagster as dg
import pytest
from aiosmtpd.controller import Controller
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from dagster._core.events import DagsterEvent, StepMaterializationData

from propel_assets.definitions import defs
from propel_assets.defs.alerts import MAX_TRIES, SHOWN, alerts, message
from propel_assets.defs.delivery import targets
from propel_assets.errors import SettingsError
from propel_assets.settings import load_settings
from propel_assets_tests.processes import free_port

SECRET = "T00/B00/very-secret"


class Webhook(ThreadingHTTPServer):
    """Takes what is posted, and answers ``status``."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Taker)
        self.status, self.requests, self.texts = 200, 0, []
        self.url = f"http://127.0.0.1:{self.server_port}/services/{SECRET}"


class Taker(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server: Any = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.requests += 1
        if server.status == 200 and self.path == f"/services/{SECRET}":
            server.texts.append(body["text"])
        self.send_response(server.status)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def webhook(monkeypatch):
    server = Webhook()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("PROPELAUTH_ALERT_WEBHOOK", server.url)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def tick(instance, webhook, capsys):
    """Let the sensor look once, as the daemon does every minute; return what it logged."""
    cursor = None

    def look() -> str:
        nonlocal cursor
        context = dg.build_sensor_context(instance=instance, cursor=cursor, definitions=defs, sensor_name="alerts")
        capsys.readouterr()
        cursor = alerts.evaluate_tick(context).cursor
        return capsys.readouterr().err

    assert "wrong" not in look()  # the first look only remembers
    return look


# --- what is told ---


def test_a_failed_run_is_told_once_with_its_reason_and_told_again_after_it_was_well(
    tick, run, webhook, monkeypatch
) -> None:
    with monkeypatch.context() as wrong:
        wrong.setenv("PROPELAUTH_API_KEY", "not-the-key")
        first = run("jwks", "org_query")
        said = tick()
        run("org_query")
        tick()
        (text,) = webhook.texts
    assert "Run failed: __ASSET_JOB, step load_orgs: GET /api/backend/v1/org/query answered 401" in text
    assert "Backend Integration" in text
    assert "Open the run in Dagster" in text
    assert first.run_id in text
    assert "ERROR" in said
    assert "not-the-key" not in said + text
    run("org_query")
    tick()
    assert "Well again: step load_orgs" in webhook.texts[-1]
    with monkeypatch.context() as wrong:
        wrong.setenv("PROPELAUTH_API_KEY", "not-the-key")
        run("org_query")
    tick()
    assert len(webhook.texts) == 3


def test_a_run_that_ended_before_its_first_step_is_told(tick, instance, webhook) -> None:
    job = defs.resolve_job_def("refresh")
    instance.report_run_failed(instance.create_run_for_job(job), "The process was killed.")
    tick()
    assert "Run failed: refresh: The process was killed." in webhook.texts[0]


def test_a_failed_check_is_told_as_the_check_and_not_also_as_its_step(tick, run, webhook, sandbox) -> None:
    sandbox.faults.set("missing_field", "orgs.name")
    run("org_query")
    tick()
    (text,) = webhook.texts
    assert "propel_auth/org_query: schema (ERROR): PropelAuth sends this table otherwise" in text
    assert "step check_org_query" not in text


def test_a_changed_schema_is_told_with_the_column(tick, run, webhook, sandbox) -> None:
    sandbox.faults.set("unknown_field", ["orgs"])
    assert run("org_query").success
    tick()
    assert (
        "Schema changed: propel_auth/org_query: schema (WARN): Fields the catalogue does not know" in webhook.texts[0]
    )
    assert "columns of their own" in webhook.texts[0]


def test_an_unusual_loss_is_told_with_how_to_allow_it(tick, run, webhook, sandbox) -> None:
    run("user_query")
    for user in list(sandbox.store.users)[:200]:
        sandbox.store.delete_user(user)
    run("user_query")
    tick()
    assert "Unusual loss: __ASSET_JOB, step load_users" in webhook.texts[-1]
    assert "PROPELAUTH_ALLOW_LOSS" in webhook.texts[-1]
    assert "@" not in webhook.texts[-1]


def test_a_stale_asset_is_told_once(tick, instance, webhook) -> None:
    key = dg.AssetKey(["propel_auth", "jwks"])
    loaded = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=30)
    event = DagsterEvent(
        event_type_value="ASSET_MATERIALIZATION",
        job_name="refresh",
        event_specific_data=StepMaterializationData(dg.AssetMaterialization(key)),
    )
    instance.report_dagster_event(event, run_id=dg.DagsterRun("refresh").run_id, timestamp=loaded.timestamp())
    tick()
    tick()
    (text,) = webhook.texts
    assert "Stale: propel_auth/jwks: loaded 30 hours ago, expected within 26." in text
    assert "refresh_daily" in text
    instance.report_runless_asset_event(dg.AssetMaterialization(key))
    tick()
    assert "Well again: propel_auth/jwks: age" in webhook.texts[-1]


def test_a_good_run_is_told_to_nobody(tick, run, webhook) -> None:
    assert run("jwks").success
    assert tick() == ""
    assert webhook.requests == 0


def test_what_failed_before_alerts_were_turned_on_is_not_told(run, request, webhook, monkeypatch) -> None:
    with monkeypatch.context() as wrong:
        wrong.setenv("PROPELAUTH_API_KEY", "not-the-key")
        run("jwks", "org_query")
    request.getfixturevalue("tick")()
    assert webhook.requests == 0


def test_a_long_message_says_how_much_is_left_out() -> None:
    title, text = message([f"Stale: table {n}: loaded" for n in range(SHOWN + 5)])
    assert title == f"PropelAuth: Stale: table 0 and {SHOWN + 4} more"
    assert len(text.splitlines()) == SHOWN + 1
    assert text.endswith("... and 5 more: see Dagster.")


# --- what cannot be delivered ---


@pytest.fixture
def broken(run, monkeypatch, tick):
    """A load that failed and has not been looked at yet."""
    with monkeypatch.context() as wrong:
        wrong.setenv("PROPELAUTH_API_KEY", "not-the-key")
        run("org_query")


@pytest.mark.parametrize(
    ("status", "reason"), [(500, "answered 500."), (404, "Make a new one"), (302, "answered 302.")]
)
def test_an_alert_that_was_refused_is_sent_at_the_next_tick(broken, tick, webhook, status, reason) -> None:
    webhook.status = status
    said = tick()
    webhook.status = 200
    tick()
    tick()
    assert reason in said
    assert SECRET not in said
    assert len(webhook.texts) == 1
    assert webhook.requests == 2


def test_an_alert_is_not_tried_for_ever(broken, tick, webhook) -> None:
    webhook.status = 500
    said = [tick() for _ in range(MAX_TRIES + 5)]
    assert webhook.requests == 11  # after 1, 2, 4, ... 1024 minutes
    assert ["Given up" in text for text in said].index(True) == MAX_TRIES - 1
    webhook.status = 200
    tick()
    assert webhook.texts == []


def test_an_alert_waits_until_a_wrong_setting_is_put_right(broken, tick, webhook, monkeypatch) -> None:
    with monkeypatch.context() as wrong:
        wrong.setenv("PROPELAUTH_ALERT_WEBHOOK", f"ftp://hooks.example.com/{SECRET}")
        said = tick()
    tick()
    assert "No alert can be delivered. PROPELAUTH_ALERT_WEBHOOK must look like https://" in said
    assert SECRET not in said
    assert len(webhook.texts) == 1


def test_a_webhook_that_cannot_be_reached_is_told_without_its_path(run_cli) -> None:
    done = run_cli("alert", PROPELAUTH_ALERT_WEBHOOK=f"http://127.0.0.1:{free_port()}/{SECRET}")
    assert done.returncode == 1
    assert "webhook: The webhook at 127.0.0.1 could not be reached" in done.stderr
    assert SECRET not in done.stderr


# --- e-mail ---


class Mailbox:
    """Takes every mail."""

    def __init__(self) -> None:
        self.mails = []

    async def handle_DATA(self, server, session, envelope) -> str:  # noqa: N802 - its name there
        self.mails.append((session.ssl is not None, envelope.rcpt_tos, envelope.content.decode()))
        return "250 taken"


@pytest.fixture
def mail_server(tmp_path, monkeypatch):
    """Start a mail server that knows STARTTLS by a certificate for localhost; return its mailbox and its address."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(1)).not_valid_after(now + datetime.timedelta(1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    certificate = builder.sign(key, hashes.SHA256())
    file = tmp_path / "localhost.pem"
    private = serialization.PrivateFormat.PKCS8
    pem = serialization.Encoding.PEM
    file.write_bytes(key.private_bytes(pem, private, serialization.NoEncryption()) + certificate.public_bytes(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    mailbox = Mailbox()
    controller = Controller(mailbox, hostname="localhost", port=free_port(), tls_context=context)
    controller.start()
    monkeypatch.setenv("PROPELAUTH_ALERT_FROM", "dagster@example.com")
    monkeypatch.setenv("PROPELAUTH_ALERT_TO", "data@example.com, On Call <oncall@example.com>")
    yield mailbox, f"localhost:{controller.port}", str(file)
    controller.stop()


@pytest.mark.parametrize(("query", "encrypted"), [("", False), ("?starttls=always", True)])
def test_a_mail_reaches_everybody(mail_server, monkeypatch, query, encrypted) -> None:
    mailbox, address, certificate = mail_server
    monkeypatch.setenv("SSL_CERT_FILE", certificate)
    monkeypatch.setenv("PROPELAUTH_ALERT_SMTP", f"smtp://{address}{query}")
    targets(load_settings())["e-mail"]("PropelAuth: a test", "- Run failed: what to do")
    ((by_tls, receivers, mail),) = mailbox.mails
    assert by_tls == encrypted
    assert receivers == ["data@example.com", "oncall@example.com"]
    assert "Subject: PropelAuth: a test" in mail
    assert "- Run failed: what to do" in mail


def test_a_mail_server_that_nobody_vouches_for_gets_nothing(mail_server, run_cli) -> None:
    mailbox, address, _ = mail_server
    done = run_cli("alert", PROPELAUTH_ALERT_SMTP=f"smtp://user:secret-word@{address}?starttls=always")
    assert done.returncode == 1
    assert f"e-mail: The mail server {address} did not take it: SSLCertVerificationError." in done.stderr
    assert "secret-word" not in done.stderr
    assert mailbox.mails == []


def test_one_target_that_is_down_does_not_keep_the_other_from_being_told_once(
    broken, tick, webhook, mail_server, monkeypatch
) -> None:
    mailbox, address, _ = mail_server
    monkeypatch.setenv("PROPELAUTH_ALERT_SMTP", f"smtp://{address}")
    webhook.status = 500
    tick()
    webhook.status = 200
    tick()
    assert len(mailbox.mails) == len(webhook.texts) == 1


# --- settings ---

MAIL = {"alert_smtp": "smtp://smtp.example.com", "alert_from": "a@example.com", "alert_to": "b@example.com"}


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"alert_webhook": f"http://hooks.example.com/{SECRET}"}, "must begin with https"),
        ({"alert_webhook": f"hooks.example.com/{SECRET}"}, "no https or http scheme or no host"),
        ({"alert_webhook": f"https://[/{SECRET}"}, "cannot be read as a URL"),
        ({**MAIL, "alert_smtp": f"http://{SECRET}"}, "PROPELAUTH_ALERT_SMTP must look like smtp://"),
        ({**MAIL, "alert_smtp": f"smtp://u:{SECRET}@h:port"}, "PROPELAUTH_ALERT_SMTP"),
        ({**MAIL, "alert_smtp": "smtp://smtp.example.com?starttls=maybe"}, "must be always or never"),
        ({**MAIL, "alert_smtp": "smtp://u:very-secret@smtp.example.com?starttls=never"}, "in clear text"),
        ({**MAIL, "alert_from": ""}, "PROPELAUTH_ALERT_FROM must be set"),
        ({**MAIL, "alert_to": "nobody"}, "PROPELAUTH_ALERT_TO must be set"),
    ],
)
def test_a_target_that_cannot_work_is_refused_without_quoting_it(wrong, reason) -> None:
    with pytest.raises(SettingsError) as refused:
        targets(load_settings(wrong))
    assert reason in str(refused.value)
    assert "very-secret" not in str(refused.value) + repr(load_settings(wrong))


def test_the_command_says_what_to_set(run_cli) -> None:
    done = run_cli("alert")
    assert done.returncode == 1
    assert "Set PROPELAUTH_ALERT_WEBHOOK or PROPELAUTH_ALERT_SMTP" in done.stderr
