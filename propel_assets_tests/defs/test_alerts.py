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
from propel_assets.defs.alerts import MAX_ATTEMPTS, MAX_LINES, AlertState, alerts, message
from propel_assets.errors import SettingsError
from propel_assets.reporting.delivery import targets
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

    look()  # the first tick only marks what has ended before it
    return look


# --- causes and members ---


SEVERAL = ("org_query", "user_query", "custom_role_mappings", "end_user_api_keys", "pending_org_invites")


def test_one_revoked_key_is_one_alert_that_lists_every_step_and_one_recovery(tick, run, webhook, monkeypatch) -> None:
    with monkeypatch.context() as wrong:
        wrong.setenv("PROPELAUTH_API_KEY", "not-the-key")
        first = run("jwks", *SEVERAL)
        logged = tick()
        run("org_query", "user_report")  # one more step: the same cause, which is known
        tick()
        (text,) = webhook.texts
    steps = sorted(event.step_key for event in first.get_step_failure_events())
    title, line = text.splitlines()
    assert title == "*PropelAuth: Run failed: PropelAuth refused the API key*"
    assert line.startswith(f"- Run failed: PropelAuth refused the API key: {len(steps)} affected: ")
    assert [step for step in steps if step not in line] == []
    assert "returned 401" in line
    assert "Backend Integration" in line
    assert "Open the run in Dagster" in line
    assert first.run_id in line
    assert "ERROR" in logged
    assert "not-the-key" not in logged + text
    run("org_query")
    tick()
    assert len(webhook.texts) == 1
    run(*SEVERAL, "user_report")
    tick()
    assert len(webhook.texts) == 2
    assert "- Recovered: Run failed: PropelAuth refused the API key: " in webhook.texts[-1]
    with monkeypatch.context() as wrong:
        wrong.setenv("PROPELAUTH_API_KEY", "not-the-key")
        run("org_query")
    tick()
    assert len(webhook.texts) == 3


def test_two_causes_are_two_lines_of_one_message(tick, run, webhook, sandbox) -> None:
    sandbox.faults.set("wrong_json", {}, path="/api/backend/v1/custom_role_mappings")
    sandbox.faults.set("unknown_field", ["orgs"])
    run("custom_role_mappings", "org_query")
    tick()
    (text,) = webhook.texts
    _, *lines = sorted(text.splitlines())
    assert [line[:30] for line in lines] == ["- Run failed: PropelAuth refus", "- Schema changed: schema (WARN)"[:30]]


def test_a_cause_that_changes_is_reported_and_its_former_cause_does_not_recover(
    tick, run, webhook, sandbox, monkeypatch
) -> None:
    with monkeypatch.context() as wrong:
        wrong.setenv("PROPELAUTH_API_KEY", "not-the-key")
        run("org_query")
        tick()
    sandbox.faults.set("redirect")
    run("org_query")
    tick()
    assert "Run failed: PropelAuth refused a request: load_orgs" in webhook.texts[-1]
    assert not any("Recovered" in text for text in webhook.texts)


def test_a_run_that_ended_before_its_first_step_is_reported(tick, instance, webhook) -> None:
    job = defs.resolve_job_def("refresh")
    instance.report_run_failed(instance.create_run_for_job(job), "The process was killed.")
    tick()
    assert "Run failed: no step was reached: refresh: The process was killed." in webhook.texts[0]


def test_a_failed_check_is_reported_as_the_check_and_not_also_as_its_step(tick, run, webhook, sandbox) -> None:
    sandbox.faults.set("missing_field", "orgs.name")
    run("org_query")
    tick()
    (text,) = webhook.texts
    assert "Schema changed: schema (ERROR): propel_auth/org_query: " in text
    assert "check_org_query" not in text


def test_a_further_table_whose_schema_changes_is_reported(tick, run, webhook, sandbox) -> None:
    sandbox.faults.set("unknown_field", ["orgs"])
    assert run("org_query").success
    tick()
    assert "Schema changed: schema (WARN): propel_auth/org_query: " in webhook.texts[0]
    assert "columns of their own" in webhook.texts[0]
    sandbox.faults.set("unknown_field", ["orgs", "users"])
    run("org_query", "user_query")
    tick()
    assert "Schema changed: schema (WARN): propel_auth/user_query: " in webhook.texts[1]
    assert len(webhook.texts) == 2


def test_an_unusual_loss_is_reported_with_how_to_allow_it(tick, run, webhook, sandbox) -> None:
    run("user_query")
    for user in list(sandbox.store.users)[:200]:
        sandbox.store.delete_user(user)
    run("user_query")
    tick()
    assert "Unusual loss: too many rows are gone: load_users" in webhook.texts[-1]
    assert "PROPELAUTH_ALLOW_LOSS" in webhook.texts[-1]
    assert "@" not in webhook.texts[-1]


def test_an_error_that_is_not_ours_is_reported_by_its_class_only(tick, run, webhook) -> None:
    @dg.asset(key=["propel_auth", "of_somebody_else"])
    def of_somebody_else() -> None:
        raise ValueError("Could not convert string 'Alice Q. Smith' to BOOL")

    run("of_somebody_else", defs=dg.Definitions(assets=[of_somebody_else]))
    logged = tick()
    assert "Run failed: ValueError was raised.: propel_auth__of_somebody_else" in webhook.texts[0]
    assert "Alice" not in webhook.texts[0] + logged


# --- old data ---


@pytest.mark.parametrize(("status", "cause"), [(403, "The key may not read this"), (404, "Feature not enabled")])
def test_a_table_that_stops_loading_is_reported_once_with_the_reason(
    tick, run, webhook, sandbox, status, cause
) -> None:
    tables = ("scim_groups", "scim_group_members")
    run(*tables)
    sandbox.faults.set("scim_off", status)
    for _ in range(2):
        assert run(*tables).success
        tick()
    (text,) = webhook.texts
    assert f"- Not loaded: {cause}: 2 affected: " in text
    assert [table for table in tables if f"propel_auth/{table}" not in text] == []
    assert f"returned {status}" in text
    assert "The previous data is kept." in text
    sandbox.faults.clear()
    run(*tables)
    tick()
    assert f"Recovered: Not loaded: {cause}: 2 affected: " in webhook.texts[-1]


def test_a_table_that_was_never_loaded_did_not_stop(tick, run, webhook, sandbox) -> None:
    sandbox.faults.set("scim_off")
    run("scim_groups")
    assert tick() == ""
    assert webhook.requests == 0


def materialized(instance, run_id: str, hours: int, *tables: str) -> None:
    at = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=hours)
    for table in tables:
        event = DagsterEvent(
            event_type_value="ASSET_MATERIALIZATION",
            job_name="refresh",
            event_specific_data=StepMaterializationData(dg.AssetMaterialization(dg.AssetKey(["propel_auth", table]))),
        )
        instance.report_dagster_event(event, run_id=run_id, timestamp=at.timestamp())


def test_the_stale_assets_of_a_run_are_one_alert(tick, instance, webhook) -> None:
    runs = [dg.DagsterRun("refresh").run_id for _ in range(3)]
    materialized(instance, runs[0], 30, "jwks", "org_query")
    materialized(instance, runs[1], 2, "user_query")
    tick()
    tick()
    (text,) = webhook.texts
    assert "Stale: no later load: 2 affected: " in text
    assert "propel_auth/jwks" in text
    assert "propel_auth/org_query" in text
    assert "user_query" not in text
    assert "loaded 30 hours ago, expected within 26." in text
    assert "refresh_daily" in text
    materialized(instance, runs[2], 0, "jwks")
    tick()
    assert len(webhook.texts) == 1
    instance.report_runless_asset_event(dg.AssetMaterialization(dg.AssetKey(["propel_auth", "org_query"])))
    tick()
    assert "Recovered: Stale: no later load: propel_auth/org_query: age" in webhook.texts[-1]


# --- what is not reported ---


def test_a_successful_run_is_not_reported(tick, run, webhook) -> None:
    assert run("jwks").success
    assert tick() == ""
    assert webhook.requests == 0


def test_runs_that_failed_before_alerts_were_turned_on_are_not_reported(run, request, webhook, monkeypatch) -> None:
    with monkeypatch.context() as wrong:
        wrong.setenv("PROPELAUTH_API_KEY", "not-the-key")
        run("jwks", "org_query")
    request.getfixturevalue("tick")()
    assert webhook.requests == 0


def test_a_long_message_shows_how_much_is_left_out() -> None:
    title, text = message([f"Stale: table {n}: loaded" for n in range(MAX_LINES + 5)])
    assert title == f"PropelAuth: Stale: table 0 and {MAX_LINES + 4} more"
    assert len(text.splitlines()) == MAX_LINES + 1
    assert text.endswith("... and 5 more: see Dagster.")


# --- the cursor ---


def test_runs_that_a_tick_has_no_time_for_are_read_by_the_next(tick, run, webhook, sandbox, monkeypatch) -> None:
    sandbox.faults.set("redirect")
    run("org_query")
    run("custom_role_mappings")
    monkeypatch.setattr("propel_assets.defs.alerts.READING_SECONDS", -1.0)
    tick()
    assert ["load_role_mappings" in text for text in webhook.texts] == [False]
    tick()
    assert ["load_role_mappings" in text for text in webhook.texts] == [False, True]


def test_a_cursor_of_an_earlier_version_keeps_its_place_and_its_undelivered_alerts() -> None:
    old = {"seen": {"PIPELINE_FAILURE": 7}, "wrong": {"step x": "text"}, "waiting": {"webhook": ["a"]}, "tries": {}}
    state = AlertState.from_cursor(json.dumps(old))
    assert (state.seen, state.open_problems, state.pending) == (old["seen"], {}, old["waiting"])


# --- failed deliveries ---


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
    said = [tick() for _ in range(MAX_ATTEMPTS + 5)]
    assert webhook.requests == 11  # after 1, 2, 4, ... 1024 minutes
    assert ["Given up" in text for text in said].index(True) == MAX_ATTEMPTS - 1
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
