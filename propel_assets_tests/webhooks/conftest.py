"""A receiver as a process of its own, stores in SQLite and PostgreSQL, and signed deliveries."""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from svix.webhooks import Webhook

from propel_assets.sandbox.running import Sandbox
from propel_assets.settings import Settings, load_settings
from propel_assets.webhooks.store import StoredEvent, WebhookStore
from propel_assets_tests.processes import free_port, listens, wait_until

SECRET = "whsec_c2FuZGJveC13ZWJob29rLXNlY3JldA=="
OTHER_SECRET = "whsec_YW5vdGhlci1zZWNyZXQtYWx0b2dldGhlcg=="

Delivery = tuple[bytes, dict[str, str]]


@dataclass
class Receiver:
    url: str
    process: subprocess.Popen
    log: Path


def signed(
    payload: Any, svix_id: str = "msg_1", *, secret: str = SECRET, age: float = 0
) -> tuple[bytes, dict[str, str]]:
    """Return a body and the headers of a delivery, signed by the official library."""
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    sent_at = datetime.now(UTC) - timedelta(seconds=age)
    signature = Webhook(secret).sign(svix_id, sent_at, body.decode())
    headers = {"svix-id": svix_id, "svix-timestamp": str(int(sent_at.timestamp())), "svix-signature": signature}
    return body, headers


def post(url: str, body: bytes, headers: dict[str, str]) -> int:
    request = urllib.request.Request(f"{url}/webhooks/propelauth", body, headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=30) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def received(payload: dict[str, Any]) -> StoredEvent:
    """Return an event as the receiver stores it."""
    now = datetime.now(UTC)
    svix_id = f"msg_{uuid.uuid4().hex}"
    return StoredEvent(svix_id, payload["event_type"], now, now.replace(microsecond=0), json.dumps(payload))


@contextmanager
def serving(store: str, folder: Path, *, secret: str = SECRET, port: int = 0) -> Iterator[Receiver]:
    port, log = port or free_port(), folder / "receiver.log"
    env = {**os.environ, "PROPELAUTH_WEBHOOK_SECRET": secret, "PROPELAUTH_WEBHOOK_STORE": store}
    command = [sys.executable, "-m", "propel_assets.cli", "webhooks", "--port", str(port)]
    with log.open("a") as output:
        process = subprocess.Popen(command, env=env, stdout=output, stderr=output)
    try:
        wait_until(lambda: listens(port), process, "the receiver starts")
        yield Receiver(f"http://127.0.0.1:{port}", process, log)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


@pytest.fixture
def postgres(postgres_server: Any, tmp_path: Path) -> Callable[[], str]:
    """Return a function that makes an empty database of a real PostgreSQL server and returns its URL."""

    def new_database() -> str:
        plain = postgres_server.place(tmp_path)["DESTINATION__POSTGRES__CREDENTIALS"]
        return plain.replace("postgresql://", "postgresql+psycopg2://")

    return new_database


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/events.db"
    return request.getfixturevalue("postgres")()


@pytest.fixture
def stored() -> Callable[[str], list[tuple[str, str]]]:
    """Return the ids and payloads in a store."""

    def read(url: str) -> list[tuple[str, str]]:
        store = WebhookStore(url)
        try:
            return [(event.svix_id, event.payload) for event in store.pending(100_000)]
        finally:
            store.close()

    return read


def settings_at(request: pytest.FixtureRequest, sandbox: Sandbox, folder: Path) -> Settings:
    """Return the settings that load the sandbox into the destination that the fixture is for."""
    variables = {"PROPELAUTH_AUTH_URL": sandbox.url, "PROPELAUTH_API_KEY": sandbox.api_key}
    if request.param == "postgres":
        variables |= request.getfixturevalue("postgres_server").place(folder)
    for name, value in {**variables, "PROPELAUTH_RETRY_SECONDS": "1"}.items():
        request.getfixturevalue("monkeypatch").setenv(name, value)
    return load_settings()
