"""Send signed webhooks to a receiver at a steady rate, and count what it stored.

    python benchmarks/webhooks.py --rate 1000 --seconds 30

The receiver runs as a process on one core (`taskset`, where it exists). The sender keeps a schedule: an event that is
answered late does not delay the next one. Prints one line of JSON: how many events were sent, accepted (204) and
stored, and p50 and p99 of the time from the schedule to the response. Exits with 1 when an event that was answered 204
is not in the store, or when not every event was accepted.
"""

import argparse
import asyncio
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import httptools
from svix.webhooks import Webhook

from propel_assets.webhooks.store import WebhookStore

SECRET = "whsec_c2FuZGJveC13ZWJob29rLXNlY3JldA=="  # noqa: S105 - the sandbox's
CONNECTIONS = 64


class Connection(asyncio.Protocol):
    """One keep-alive connection that carries one request at a time."""

    def __init__(self) -> None:
        """Wait for the first request."""
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[int] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Parse what arrived."""
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        """Give the status to the sender."""
        if self._answer and not self._answer.done():
            self._answer.set_result(self._parser.get_status_code())
        self._parser = httptools.HttpResponseParser(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Count a lost connection as no answer."""
        if self._answer and not self._answer.done():
            self._answer.set_result(0)

    async def send(self, request: bytes) -> int:
        """Return the status of the answer."""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)  # type: ignore[attr-defined]
        return await self._answer


def signed_request(number: int) -> tuple[str, bytes]:
    """Return the id and the bytes of one delivery."""
    svix_id = f"msg_{number:08}"
    body = json.dumps({"event_type": "user.login", "user_id": f"{number:032x}"}).encode()
    now = datetime.now(UTC)
    signature = Webhook(SECRET).sign(svix_id, now, body.decode())
    head = (
        f"POST /webhooks/propelauth HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nsvix-id: {svix_id}\r\n"
        f"svix-timestamp: {int(now.timestamp())}\r\nsvix-signature: {signature}\r\n\r\n"
    )
    return svix_id, head.encode() + body


async def send_all(port: int, rate: int, seconds: int) -> tuple[set[str], list[float]]:
    """Send on schedule; return the ids that were accepted, and the seconds each answer took from its scheduled time."""
    loop = asyncio.get_running_loop()
    idle: asyncio.Queue[Connection] = asyncio.Queue()
    for _ in range(CONNECTIONS):
        _, connection = await loop.create_connection(Connection, "127.0.0.1", port)
        idle.put_nowait(connection)
    accepted: set[str] = set()
    delays: list[float] = []

    async def deliver(connection: Connection, svix_id: str, request: bytes, due: float) -> None:
        status = await connection.send(request)
        idle.put_nowait(connection)
        if status == 204:
            accepted.add(svix_id)
        delays.append(time.perf_counter() - due)

    started, sent = time.perf_counter(), []
    for number in range(rate * seconds):
        due = started + number / rate
        if (early := due - time.perf_counter()) > 0:
            await asyncio.sleep(early)
        svix_id, request = signed_request(number)
        sent.append(asyncio.create_task(deliver(await idle.get(), svix_id, request, due)))
    await asyncio.gather(*sent)
    return accepted, delays


def outcome(sent: int, accepted: set[str], stored: set[str], delays: Sequence[float]) -> dict[str, float]:
    """Return the counts of events, and the median and the 99th percentile of ``delays``, which are in seconds."""
    ordered = sorted(delays)
    return {
        "sent": sent,
        "accepted": len(accepted),
        "stored": len(stored),
        "accepted_but_lost": len(accepted - stored),
        "p50_ms": round(statistics.median(ordered) * 1000, 1),
        "p99_ms": round(ordered[int(len(ordered) * 0.99)] * 1000, 1),
    }


def main() -> None:
    """Run the receiver and the sender."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=int, default=1000, help="events per second")
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--store", default="", help="SQLAlchemy URL; default: a SQLite file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
        probe.close()
        url = options.store or f"sqlite:///{Path(folder) / 'events.db'}"
        pin = ["taskset", "-c", "0"] if shutil.which("taskset") else []
        env = {**os.environ, "PROPELAUTH_WEBHOOK_SECRET": SECRET, "PROPELAUTH_WEBHOOK_STORE": url}
        command = [*pin, sys.executable, "-m", "propel_assets.cli", "webhooks", "--port", str(port)]
        receiver = subprocess.Popen(command, env=env, stdout=subprocess.PIPE)
        try:
            assert receiver.stdout
            receiver.stdout.readline()  # it prints its URL once it listens
            accepted, delays = asyncio.run(send_all(port, options.rate, options.seconds))
        finally:
            receiver.terminate()
            receiver.wait(30)
        store = WebhookStore(url)
        stored = {event.svix_id for event in store.pending(options.rate * options.seconds + 1)}
    result = outcome(options.rate * options.seconds, accepted, stored, delays)
    print(json.dumps(result))
    raise SystemExit(bool(result["accepted_but_lost"]) or result["accepted"] != result["sent"])


if __name__ == "__main__":
    main()
