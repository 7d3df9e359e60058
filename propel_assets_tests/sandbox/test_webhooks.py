"""Webhooks of the sandbox: payloads, signatures that the official library verifies, faults, retries, live mode."""

import json
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from svix.webhooks import Webhook, WebhookVerificationError

from propel_assets.sandbox.events import EVENT_FIELDS, make_event
from propel_assets.sandbox.live import CHANGES, LiveMode
from propel_assets.sandbox.running import Sandbox
from propel_assets.sandbox.store import Store
from propel_assets.sandbox.switches import SWITCHES
from propel_assets.sandbox.webhooks import WEBHOOK_SECRET
from propel_assets_tests.processes import free_port, wait_until

NOW = date(2026, 11, 24)


@dataclass
class Message:
    headers: dict[str, str]
    body: bytes
    arrived_at: float

    @property
    def svix_id(self) -> str:
        return self.headers["svix-id"]

    @property
    def payload(self) -> dict[str, str]:
        return json.loads(self.body)

    def is_verified(self, secret: str = WEBHOOK_SECRET) -> bool:
        try:
            Webhook(secret).verify(self.body, self.headers)
        except WebhookVerificationError:
            return False
        return True


@dataclass
class Receiver:
    """Records messages; responds with ``status``, or as ``respond`` says."""

    url: str = ""
    messages: list[Message] = field(default_factory=list)
    respond: Callable[[Message], int] = lambda _: 204

    @property
    def ids(self) -> list[str]:
        return [message.svix_id for message in self.messages]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    received = Receiver()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            message = Message({k.lower(): v for k, v in self.headers.items()}, body, time.time())
            with lock:
                received.messages.append(message)
            status = received.respond(message)
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        received.url = f"http://127.0.0.1:{server.server_port}/webhooks"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield received
        server.shutdown()


def sending(url: str, *faults: str, seed: int = 1, retry_seconds: tuple[float, ...] = ()) -> Sandbox:
    return Sandbox(users=30, orgs=4, seed=seed, faults=faults, webhook_url=url, webhook_retry_seconds=retry_seconds)


def sign_up(sandbox: Sandbox, count: int) -> None:
    """Let so many users sign up, and wait until all their events are sent."""
    for _ in range(count):
        sandbox.store.add_user()
    assert sandbox.webhooks.wait_until_sent()


# Payloads


def test_the_first_changes_of_a_live_day_send_every_type_with_its_fields_and_a_valid_signature(receiver) -> None:
    with sending(receiver.url) as sandbox:
        assert [sandbox.live.step() for _ in CHANGES] == list(CHANGES)
        assert sandbox.webhooks.wait_until_sent()
    assert len(EVENT_FIELDS) == 29
    assert {message.payload["event_type"] for message in receiver.messages} == set(EVENT_FIELDS)
    for message in receiver.messages:
        assert message.is_verified()
        assert not message.is_verified("whsec_YW5vdGhlciBzZWNyZXQ=")
        required, optional = EVENT_FIELDS[message.payload["event_type"]]
        assert {"event_type", *required} <= message.payload.keys() <= {"event_type", *required, *optional}
        assert re.fullmatch(r"msg_\w{27}", message.svix_id)
        assert abs(int(message.headers["svix-timestamp"]) - message.arrived_at) < 30
    assert [m.payload for m in receiver.messages] == [e.payload for e in sandbox.store.events]
    assert len(set(receiver.ids)) == len(receiver.ids)


def test_an_altered_body_or_header_does_not_verify(receiver) -> None:
    with sending(receiver.url) as sandbox:
        sign_up(sandbox, 1)
    (message,) = receiver.messages
    assert message.is_verified()
    assert not Message(message.headers, message.body.replace(b"user.", b"user,"), 0).is_verified()
    for header in ("svix-id", "svix-timestamp"):
        altered = {**message.headers, header: message.headers[header][:-1] + "0"}
        altered[header] = (
            altered[header] if altered[header] != message.headers[header] else message.headers[header] + "1"
        )
        assert not Message(altered, message.body, 0).is_verified()


@pytest.mark.parametrize(
    ("fields", "types"),
    [
        ({"enabled": False}, ["user.disabled"]),
        ({"locked": True}, ["user.locked"]),
        ({"locked": True, "first_name": "N"}, ["user.locked", "user.updated"]),
        ({"first_name": "N", "email": "n@b.test"}, ["user.updated"]),
        ({"last_active_at": 1_795_500_000}, []),
    ],
)
def test_a_change_of_a_user_is_reported_by_the_events_of_its_fields(fields, types) -> None:
    store = Store(seed=1, now=NOW, users=1, orgs=0)
    (user_id,) = store.users
    store.update_user(user_id, enabled=True, locked=False)
    store.events.clear()
    store.update_user(user_id, **fields)
    assert [event.event_type for event in store.events] == types
    store.update_user(user_id, **fields)
    assert len(store.events) == len(types), "the same values again are no change"


def test_a_key_of_a_deleted_user_and_memberships_of_a_deleted_org_end_without_an_event() -> None:
    store = Store(seed=1, now=NOW, users=20, orgs=3)
    org_id = store.add_org()
    user_id = store.add_user()
    store.add_membership(user_id, org_id)
    store.add_api_key(user_id=user_id)
    store.events.clear()
    store.delete_org(org_id)
    store.delete_user(user_id)
    assert [event.event_type for event in store.events] == ["org.deleted", "user.deleted"]


@pytest.mark.parametrize(
    ("event_type", "fields"), [("user.updated", {}), ("user.updated", {"user_id": "1", "org_id": "2"})]
)
def test_a_payload_with_a_missing_or_an_unknown_field_is_refused(event_type, fields) -> None:
    with pytest.raises(ValueError, match=event_type):
        make_event(0, 0, event_type, fields)


# Faults


def test_a_lost_event_is_never_sent_and_is_marked_in_the_deliveries(receiver) -> None:
    with sending(receiver.url, "webhook_lost,share=0.3", seed=4) as sandbox:
        sign_up(sandbox, 40)
        deliveries = list(sandbox.webhooks.deliveries)
        described = httpx.get(f"{sandbox.url}/sandbox/webhooks").json()
    lost = [d.svix_id for d in deliveries if d.lost]
    assert 4 < len(lost) < 25
    assert receiver.ids == [d.svix_id for d in deliveries if not d.lost]
    assert [d["svix_id"] for d in described if d["lost"]] == lost
    assert all((d["delivered_at"] is None) == d["lost"] for d in described)
    assert [d["event_type"] for d in described] == ["user.created"] * 40


def test_faults_can_be_limited_to_types_of_events(receiver) -> None:
    with sending(receiver.url, "webhook_lost,path=/webhooks/user.deleted") as sandbox:
        sandbox.store.delete_user(sandbox.store.add_user())
        assert sandbox.webhooks.wait_until_sent()
        assert [(d.event.event_type, d.lost) for d in sandbox.webhooks.deliveries] == [
            ("user.created", False),
            ("user.deleted", True),
        ]


def test_faults_of_requests_and_of_webhooks_do_not_affect_each_other(receiver) -> None:
    with sending(receiver.url, "server_error=500,requests=1", "webhook_lost,requests=1") as sandbox:
        sign_up(sandbox, 2)
        statuses = [httpx.get(f"{sandbox.url}/.well-known/jwks.json").status_code for _ in range(2)]
    assert statuses == [500, 200]
    assert len(receiver.messages) == 1


def test_a_duplicated_event_arrives_again_with_the_same_id(receiver) -> None:
    with sending(receiver.url, "webhook_duplicated=3") as sandbox:
        sign_up(sandbox, 2)
    assert list(Counter(receiver.ids).values()) == [3, 3]
    assert all(message.is_verified() for message in receiver.messages)


def test_a_delayed_event_arrives_after_its_delay(receiver) -> None:
    with sending(receiver.url, "webhook_delay_ms=300,requests=1") as sandbox:
        sign_up(sandbox, 2)
        first, second = sandbox.webhooks.deliveries
    assert receiver.ids == [second.svix_id, first.svix_id]
    assert first.delivered_at is not None
    assert first.delivered_at - first.event.happened_at >= 0.3


def test_disorder_changes_the_order_and_loses_no_event(receiver) -> None:
    with sending(receiver.url, "webhook_disorder=10") as sandbox:
        sign_up(sandbox, 25)  # the last 5 are sent although 5 more do not follow
        sent = [d.svix_id for d in sandbox.webhooks.deliveries]
    assert sorted(receiver.ids) == sorted(sent)
    assert receiver.ids != sent
    assert set(receiver.ids[:10]) == set(sent[:10])


def test_a_burst_arrives_at_the_same_time(receiver) -> None:
    """The receiver holds each response back until all 8 requests are under way."""
    together = threading.Barrier(8, timeout=20)

    def respond(_: Message) -> int:
        together.wait()
        return 204

    receiver.respond = respond
    with sending(receiver.url, "webhook_burst=8") as sandbox:
        for _ in range(7):
            sandbox.store.add_user()
        assert receiver.messages == []
        sandbox.store.add_user()
        assert sandbox.webhooks.wait_until_sent()
    assert len(set(receiver.ids)) == 8
    assert not together.broken


def test_a_forged_event_has_an_id_of_its_own_and_an_invalid_signature(receiver) -> None:
    with sending(receiver.url, "webhook_forged") as sandbox:
        sign_up(sandbox, 3)
        genuine = {d.svix_id for d in sandbox.webhooks.deliveries if d.kind == "delivery"}
    assert {m.svix_id for m in receiver.messages if m.is_verified()} == genuine
    assert len(receiver.messages) == 6


def test_a_replayed_event_has_a_valid_signature_that_is_too_old(receiver) -> None:
    with sending(receiver.url, "webhook_replayed") as sandbox:
        sign_up(sandbox, 1)
    fresh, replayed = receiver.messages
    assert (fresh.svix_id, fresh.body) == (replayed.svix_id, replayed.body)
    assert (fresh.is_verified(), replayed.is_verified()) == (True, False)
    signed_at = datetime.fromtimestamp(int(replayed.headers["svix-timestamp"]), UTC)
    assert (
        Webhook(WEBHOOK_SECRET).sign(replayed.svix_id, signed_at, replayed.body.decode())
        == (replayed.headers["svix-signature"])
    )


def test_every_webhook_switch_is_used_in_this_file() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in SWITCHES if name.startswith("webhook_") and f'"{name}' not in text] == []


# Retries


def test_an_event_is_sent_again_until_it_is_confirmed_with_the_same_id(receiver) -> None:
    statuses = iter([500, 302, 404, 204])
    receiver.respond = lambda _: next(statuses)
    with sending(receiver.url, retry_seconds=(0.05,) * 5) as sandbox:
        sign_up(sandbox, 1)
        (delivery,) = sandbox.webhooks.deliveries
    assert [attempt.status for attempt in delivery.attempts] == [500, 302, 404, 204]
    assert receiver.ids == [delivery.svix_id] * 4
    assert delivery.delivered_at == delivery.attempts[-1].at
    assert all(message.is_verified() for message in receiver.messages)


def test_an_event_is_given_up_after_the_last_interval(receiver) -> None:
    receiver.respond = lambda _: 503
    with sending(receiver.url, retry_seconds=(0.01, 0.01)) as sandbox:
        sign_up(sandbox, 1)
        (delivery,) = sandbox.webhooks.deliveries
    assert [attempt.status for attempt in delivery.attempts] == [503] * 3
    assert delivery.delivered_at is None


def test_a_receiver_that_is_down_gets_the_event_once_it_is_up(receiver) -> None:
    url, receiver_url = f"http://127.0.0.1:{free_port()}/", receiver.url
    with sending(url, retry_seconds=(0.05,) * 100) as sandbox:
        sandbox.store.add_user()
        (delivery,) = sandbox.webhooks.deliveries
        assert sandbox.webhooks.wait_for(lambda: delivery.attempts)
        sandbox.webhooks.url = receiver_url
        assert sandbox.webhooks.wait_until_sent()
    *failed, last = [attempt.status for attempt in delivery.attempts]
    assert failed
    assert set(failed) == {None}
    assert last == 204


# Live mode


def test_a_live_day_is_decided_by_the_seed() -> None:
    def play(seed: int) -> list[dict]:
        store = Store(seed=seed, now=NOW, users=40, orgs=5)
        day = LiveMode(store, seed=seed)
        for _ in range(300):
            day.step()
        return [event.payload for event in store.events]

    first = play(3)
    assert first == play(3)
    assert first != play(4)
    assert len({payload["event_type"] for payload in first}) == 29


def test_the_clock_of_a_live_sandbox_is_that_of_this_machine(receiver) -> None:
    with Sandbox(users=30, orgs=4, now=date(2025, 1, 7), live=True, webhook_url=receiver.url) as sandbox:
        before = time.time()
        user_id = sandbox.store.add_user()
        assert int(before) <= sandbox.store.users[user_id].wire["created_at"] <= time.time()
        (event,) = sandbox.store.events
        assert before <= event.happened_at <= time.time()


def test_the_command_line_runs_a_live_day_and_sends_it(receiver) -> None:
    command = [sys.executable, "-m", "propel_assets.cli", "sandbox", "--port", "0", "--users", "20", "--orgs", "3"]
    command += ["--webhook-url", receiver.url, "--live", "--changes-per-minute", "1200"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        printed = dict(process.stdout.readline().strip().split("=", 1) for _ in range(4))
        assert printed["PROPELAUTH_WEBHOOK_SECRET"] == WEBHOOK_SECRET
        wait_until(lambda: len(receiver.messages) >= 20, process, "20 events arrive")
        deliveries = httpx.get(f"{printed['PROPELAUTH_AUTH_URL']}/sandbox/webhooks").json()
        process.terminate()
        assert process.wait(timeout=30) == 0
    assert all(message.is_verified() for message in receiver.messages)
    assert [d["svix_id"] for d in deliveries][:20] == receiver.ids[:20]
    created = [m for m in receiver.messages if m.payload["event_type"] == "user.created"]
    assert created


@pytest.mark.parametrize("words", [("--changes-per-minute", "5"), ("--webhook-url", "hooks.example.com")])
def test_webhook_options_that_cannot_work_are_usage_errors(words, run_cli) -> None:
    ran = run_cli("sandbox", "--port", "0", *words)
    assert ran.returncode == 2
    assert words[0] in ran.stderr
