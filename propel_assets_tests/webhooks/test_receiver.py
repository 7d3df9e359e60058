"""The receiver as a process: real HTTP, real signatures, real kills."""

import asyncio
import gzip
import json
import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from propel_assets.webhooks.app import PATH, build_app
from propel_assets.webhooks.store import StoredEvent, WebhookStore
from propel_assets_tests.webhooks.conftest import OTHER_SECRET, SECRET, get, post, serving, signed
from propel_assets_tests.webhooks.proxies import stalling_proxy

CREATED = {"event_type": "user.created", "user_id": "u1", "email": "canary-person@example.com", "email_confirmed": True}


def test_an_event_is_answered_204_and_is_durable(store_url, tmp_path, stored) -> None:
    with serving(store_url, tmp_path) as receiver:
        assert post(receiver.url, *signed(CREATED)) == 204
        assert post(receiver.url, *signed(CREATED)) == 204  # a repetition
        status, health = get(f"{receiver.url}/healthz")
        _, metrics = get(f"{receiver.url}/metrics")
    assert [(i, json.loads(payload)) for i, payload in stored(store_url)] == [("msg_1", CREATED)]
    assert (status, json.loads(health)["pending_events"]) == (200, 1)
    assert 'propel_webhook_requests_total{outcome="stored"} 1.0' in metrics
    assert 'propel_webhook_requests_total{outcome="repeated"} 1.0' in metrics
    assert "propel_webhook_pending_events 1.0" in metrics
    log = receiver.log.read_text()
    assert "canary-person" not in log + metrics + health
    assert SECRET not in log + metrics


def bad_deliveries() -> dict[str, tuple[bytes, dict[str, str], int]]:
    body, headers = signed(CREATED)
    return {
        "altered body": (body.replace(b"u1", b"u2"), headers, 401),
        "another secret": (*signed(CREATED, secret=OTHER_SECRET), 401),
        "too old": (*signed(CREATED, age=301), 401),
        "from the future": (*signed(CREATED, age=-301), 401),
        "timestamp that is not a number": (body, {**headers, "svix-timestamp": "soon"}, 401),
        "timestamp nan": (body, {**headers, "svix-timestamp": "nan"}, 401),
        "timestamp infinite": (body, {**headers, "svix-timestamp": "inf"}, 401),
        "signature without version": (body, {**headers, "svix-signature": "abc"}, 401),
        "signature that is not base64": (body, {**headers, "svix-signature": "v1,ab"}, 401),
        "no signature": (body, {k: v for k, v in headers.items() if k != "svix-signature"}, 400),
        "no id": (body, {k: v for k, v in headers.items() if k != "svix-id"}, 400),
        "an id too long": (*signed(CREATED, "m" * 257), 400),
        "not UTF-8": (b"\xff" + body, headers, 401),
        "not JSON": (*signed(b"{"), 400),
        "a list": (*signed([CREATED]), 400),
        "no type": (*signed({"user_id": "u1"}), 400),
        "a type that is not text": (*signed({"event_type": 1}), 400),
        "too deep": (*signed(b'{"event_type":' + b"[" * 100_000), 400),
        "one level too deep": (*signed(b'{"event_type":"a","x":' + b"[" * 100 + b"]" * 100 + b"}"), 400),
        "a number that is not JSON": (*signed(b'{"event_type":"a","x":Infinity}'), 400),
        "too large": (*signed({**CREATED, "x": "y" * 300_000}), 413),
        "compressed": (gzip.compress(body), {**headers, "Content-Encoding": "gzip"}, 401),
    }


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("receiver")
    with serving(f"sqlite:///{folder}/events.db", folder) as running:
        yield running


@pytest.mark.parametrize("case", bad_deliveries())
def test_what_is_not_a_verified_webhook_is_refused(receiver, case) -> None:
    body, headers, status = bad_deliveries()[case]
    assert post(receiver.url, body, headers) == status
    assert get(f"{receiver.url}/healthz")[1].startswith('{"status":"ok","pending_events":0')


def test_several_secrets_are_accepted_during_a_rotation(tmp_path) -> None:
    with serving(f"sqlite:///{tmp_path}/events.db", tmp_path, secret=f"{SECRET}, {OTHER_SECRET}") as receiver:
        assert post(receiver.url, *signed(CREATED, "msg_1")) == 204
        assert post(receiver.url, *signed(CREATED, "msg_2", secret=OTHER_SECRET)) == 204


def test_the_body_is_stored_as_it_was_sent(store_url, tmp_path, stored) -> None:
    text = '{ "event_type":"user.updated", "n":1.10, "m":1e400, "a":1, "a":2, "t":"\\u0000\\ud800 \\/ é 漢" }'
    deep = '{"event_type":"user.updated","x":' + "[" * 99 + "]" * 99 + "}"
    with serving(store_url, tmp_path) as receiver:
        assert post(receiver.url, *signed(text.encode())) == 204
        assert post(receiver.url, *signed(deep.encode(), "msg_2")) == 204
    assert stored(store_url) == [("msg_1", text), ("msg_2", deep)]


def test_an_unexpected_error_of_the_store_does_not_stop_the_receiver(tmp_path, monkeypatch) -> None:
    store = WebhookStore(f"sqlite:///{tmp_path}/events.db")
    app = build_app(store, [SECRET])

    async def deliver() -> list[int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://receiver") as client:

            async def send(svix_id: str) -> int:
                body, headers = signed(CREATED, svix_id)
                return (await client.post(PATH, content=body, headers=headers)).status_code

            with monkeypatch.context() as patch:
                patch.setattr(store, "add", lambda _: 1 / 0)
                first = await send("msg_1")
            return [first, await send("msg_1"), (await client.get("/healthz")).status_code]

    assert asyncio.run(deliver()) == [503, 204, 200]
    assert store.status().pending == 1
    store.close()


def mounted(app: ASGIApp) -> dict[str, ASGIApp]:
    """Return the app mounted in a server with routes of its own, and in one that runs no lifespan at all."""

    async def parent(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        await app({**scope, "path": scope["path"].removeprefix("/pa"), "root_path": "/pa"}, receive, send)

    return {"starlette": Starlette(routes=[Mount("/pa", app)]), "plain": parent}


@pytest.mark.parametrize("parent", ["starlette", "plain"])
def test_a_mounted_receiver_stores_events(tmp_path, parent) -> None:
    store = WebhookStore(f"sqlite:///{tmp_path}/events.db")
    app = mounted(build_app(store, [SECRET]))[parent]

    async def deliver(first: int) -> list[int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://receiver") as client:
            sent = (signed(CREATED, f"msg_{number}") for number in range(first, first + 20))
            posts = (client.post(f"/pa{PATH}", content=body, headers=headers) for body, headers in sent)
            return [response.status_code for response in await asyncio.gather(*posts)]

    assert asyncio.run(deliver(0)) == [204] * 20
    assert asyncio.run(deliver(10)) == [204] * 20  # in another event loop
    assert store.status().pending == 30
    store.close()


def test_a_receiver_stores_events_again_after_its_connections_to_postgresql_stalled(postgres, stored) -> None:
    url = postgres()

    async def deliver() -> list[int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://receiver") as client:

            async def send(svix_id: str) -> int:
                body, headers = signed(CREATED, svix_id)
                return (await client.post(PATH, content=body, headers=headers)).status_code

            first = await asyncio.gather(send("a"), client.get("/healthz"))  # a connection of each thread
            proxy.stall()
            probes = [asyncio.create_task(client.get("/healthz")) for _ in range(100)]
            second = await send("b")
            await asyncio.gather(*probes)
            return [first[0], second, await send("c"), (await client.get("/healthz")).status_code]

    with stalling_proxy(url) as proxy:
        store = WebhookStore(proxy.url, statement_seconds=1)
        app = build_app(store, [SECRET])
        assert asyncio.run(deliver()) == [204, 204, 204, 200]
        store.close()
    assert {svix_id for svix_id, _ in stored(url)} == {"a", "b", "c"}


def test_a_receiver_ends_while_postgresql_does_not_respond(postgres, tmp_path) -> None:
    with ThreadPoolExecutor(1) as pool, stalling_proxy(postgres()) as proxy:
        with serving(proxy.url, tmp_path) as receiver:
            assert post(receiver.url, *signed(CREATED)) == 204
            proxy.stall()
            probe = pool.submit(get, f"{receiver.url}/healthz")
            assert proxy.swallowed.wait(60)
        assert receiver.process.returncode == -signal.SIGTERM  # and not killed
        probe.exception()


def test_a_full_store_confirms_repetitions_of_stored_events(tmp_path) -> None:
    store = WebhookStore(f"sqlite:///{tmp_path}/events.db", max_events=2)
    app = build_app(store, [SECRET])

    async def deliver(*ids: str) -> tuple[list[int], str]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://receiver") as client:
            sent = (signed(CREATED, svix_id) for svix_id in ids)
            posts = (client.post(PATH, content=body, headers=headers) for body, headers in sent)
            codes = [response.status_code for response in await asyncio.gather(*posts)]
            health = await client.get("/healthz")
            return codes, f"{health.status_code} {health.json()['status']}"

    assert asyncio.run(deliver("a")) == ([204], "200 ok")
    assert asyncio.run(deliver("b")) == ([204], "503 full")
    assert asyncio.run(deliver("a", "c", "b", "d")) == ([204, 503, 204, 503], "503 full")
    store.close()


def test_the_receiver_removes_events_that_are_too_old_once_an_hour(tmp_path, monkeypatch) -> None:
    store = WebhookStore(f"sqlite:///{tmp_path}/events.db", max_age=timedelta(days=1))
    purge, calls = store.purge, []
    monkeypatch.setattr(store, "purge", lambda: calls.append(purge()))
    at = datetime.now(UTC) - timedelta(days=400)
    store.add([StoredEvent("old", "user.created", at, at, json.dumps(CREATED))])
    store.add([StoredEvent("new", "user.created", datetime.now(UTC), at, json.dumps(CREATED))])
    app = build_app(store, [SECRET])

    async def deliver(svix_id: str) -> int:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://receiver") as client:
            body, headers = signed(CREATED, svix_id)
            await client.get("/healthz")
            return (await client.post(PATH, content=body, headers=headers)).status_code

    assert [asyncio.run(deliver(svix_id)) for svix_id in ("a", "b")] == [204, 204]
    assert [event.svix_id for event in store.pending(10)] == ["new", "a", "b"]
    assert calls == [1]
    later = time.monotonic() + 3601
    with monkeypatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: later)
        store.purge_if_due()
    assert calls == [1, 0]
    store.close()


def test_a_phone_number_is_never_stored(tmp_path, stored) -> None:
    code = {"event_type": "user.send_mfa_phone_code", "user_id": "u1", "phone_number": "+15550100", "more": "+15550100"}
    url = f"sqlite:///{tmp_path}/events.db"
    with serving(url, tmp_path) as receiver:
        assert post(receiver.url, *signed(code)) == 204
    ((_, payload),) = stored(url)
    assert json.loads(payload) == {"event_type": "user.send_mfa_phone_code", "user_id": "u1"}
    assert all(b"15550100" not in file.read_bytes() for file in tmp_path.iterdir())


def test_refusals_are_logged_once_a_minute_with_a_remedy_and_without_content(tmp_path) -> None:
    body, headers = signed(CREATED, secret=OTHER_SECRET)
    with serving(f"sqlite:///{tmp_path}/events.db", tmp_path) as receiver:
        assert {post(receiver.url, body, headers) for _ in range(3)} == {401}
        assert post(receiver.url, *signed(b"{")) == 400
    lines = [line for line in receiver.log.read_text().splitlines() if "refused" in line]
    assert ["(unverified)" in line for line in lines] == [True, False]
    assert "Set PROPELAUTH_WEBHOOK_SECRET to the signing secret of the endpoint" in lines[0]
    for secret in (SECRET, OTHER_SECRET, headers["svix-signature"], "canary-person"):
        assert secret not in receiver.log.read_text()


def test_a_body_that_never_ends_is_answered_in_time(receiver) -> None:
    """A client that promises a body and sends nothing more is answered once the deadline has passed."""
    host, port = receiver.url.removeprefix("http://").split(":")
    started = time.monotonic()
    with socket.create_connection((host, int(port)), timeout=60) as client:
        head = "POST /webhooks/propelauth HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"
        client.sendall(head.encode())
        assert b"503" in client.recv(1000)
    assert time.monotonic() - started >= 5  # it was waited for, and not refused at once


def test_no_event_that_was_answered_204_is_lost_by_a_kill(store_url, tmp_path, stored) -> None:
    accepted: set[str] = set()

    def send(number: int) -> None:
        svix_id = f"msg_{number}"
        try:
            if post(receiver.url, *signed(CREATED, svix_id)) == 204:
                accepted.add(svix_id)
        except OSError:
            pass  # the receiver was killed

    with serving(store_url, tmp_path) as receiver, ThreadPoolExecutor(16) as pool:
        sent = [pool.submit(send, number) for number in range(400)]
        while len(accepted) < 50:
            assert not all(future.done() for future in sent)
        os.kill(receiver.process.pid, signal.SIGKILL)
    assert len(accepted) >= 50
    assert accepted <= {svix_id for svix_id, _ in stored(store_url)}


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"PROPELAUTH_WEBHOOK_SECRET": ""}, "Set PROPELAUTH_WEBHOOK_SECRET"),
        ({"PROPELAUTH_WEBHOOK_SECRET": "whsec_a"}, "whsec_<base64>"),
        ({"PROPELAUTH_WEBHOOK_SECRET": "whsec_c2hvcnQ="}, "at least 16 bytes"),
        ({"PROPELAUTH_WEBHOOK_SECRET": "c2FuZGJveC13ZWJob29rLXNlY3JldA=="}, "whsec_<base64>"),
        ({"PROPELAUTH_WEBHOOK_SECRET": ",".join([SECRET] * 11)}, "has 11 secrets"),
        ({"PROPELAUTH_WEBHOOK_STORE": "nonsense"}, "has no database URL"),
    ],
)
def test_a_receiver_that_cannot_work_says_why(run_cli, environment, message) -> None:
    known = {"PROPELAUTH_WEBHOOK_SECRET": SECRET, **environment}
    done = run_cli("webhooks", "--port", "0", **known)
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_receiver_of_an_environment_names_its_own_variable(run_cli) -> None:
    done = run_cli("--environment", "staging", "webhooks", "--port", "0", PROPELAUTH_WEBHOOK_SECRET=SECRET)
    assert done.returncode == 1
    assert "Set STAGING__PROPELAUTH_WEBHOOK_SECRET to" in done.stderr


def test_a_port_in_use_is_one_sentence(run_cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run_cli("webhooks", "--port", port, PROPELAUTH_WEBHOOK_SECRET=SECRET)
    assert done.returncode == 1
    assert f"Cannot listen on 127.0.0.1:{port}" in done.stderr
