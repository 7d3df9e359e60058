"""Running the sandbox: ``Sandbox`` in a thread, for tests; ``serve`` for the command line.

Both listen on 127.0.0.1 only.
"""

import signal
import socket
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from datetime import date
from random import Random
from threading import Event, Thread
from typing import Any, NamedTuple, Self

import uvicorn
from starlette.requests import Request

from propel_assets.sandbox.faults import ActiveFaults, Faults
from propel_assets.sandbox.interference import TrackedProtocol
from propel_assets.sandbox.live import LiveMode
from propel_assets.sandbox.server import API_KEY, USER_TOKEN, build_app
from propel_assets.sandbox.store import Store
from propel_assets.sandbox.webhooks import RETRY_SECONDS, WEBHOOK_SECRET, Webhooks

HOST = "127.0.0.1"
LOG_LENGTH = 100_000
STOP_SECONDS = 1


def tenant_id(seed: int) -> str:
    """Return the header `Server` of every response: a sandbox is the same tenant on every port."""
    return f"propel-assets-sandbox/{seed}"


def listen(port: int) -> socket.socket:
    """Bind and listen at once: connections that arrive before the server runs wait in the queue."""
    # With the protocol named, asyncio sends small responses at once (TCP_NODELAY).
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except OSError:
        listener.close()
        raise
    listener.listen(1024)
    return listener


def url_of(listener: socket.socket) -> str:
    """Return the base URL, without a trailing slash."""
    return f"http://{HOST}:{listener.getsockname()[1]}"


class LoggedRequest(NamedTuple):
    """One request to the API, with or without a response. Requests to the sandbox's own paths are left out."""

    method: str
    path: str
    query: dict[str, str]


class Sandbox:
    """A PropelAuth on localhost, running while the ``with`` block lasts.

    Attributes:
        api_key, user_token: the bearer tokens it accepts.
        webhook_secret: the secret that webhooks are signed with.
        store: the state, and its changes.
        faults: the switches.
        live: the changes of live mode; ``live.step()`` makes the next one.
        webhooks: the deliveries of webhook events; without ``webhook_url`` there are none.
        requests: the last 100,000 requests, oldest first.
        url: where it listens; empty before the ``with`` block.
    """

    api_key = API_KEY
    user_token = USER_TOKEN
    webhook_secret = WEBHOOK_SECRET

    def __init__(
        self,
        *,
        users: int = 2500,
        orgs: int = 120,
        seed: int = 1,
        now: date = date(2026, 11, 24),
        faults: Iterable[str] = (),
        profile: Mapping[str, Any] | None = None,
        port: int = 0,
        webhook_url: str = "",
        webhook_retry_seconds: Sequence[float] = RETRY_SECONDS,
        live: bool = False,
        changes_per_minute: float = 0,
    ) -> None:
        """Create the state. The server starts with the ``with`` block.

        Args:
            users: number of users at noon of ``now``.
            orgs: number of orgs at noon of ``now``.
            seed: decides every byte, with ``users``, ``orgs`` and ``now``.
            now: the current date.
            faults: faults that are on from the start, as ``Faults.parse`` reads them.
            profile: faults that are on from the start, as ``Faults.update`` reads them.
            port: 0 for a free one.
            webhook_url: where webhook events are posted to; empty: nowhere.
            webhook_retry_seconds: intervals between the attempts of a delivery.
            live: each change sets the clock of the sandbox to the time of this machine.
            changes_per_minute: how many changes a thread makes in live mode; 0: none.
        """
        self.store = Store(seed=seed, now=now, users=users, orgs=orgs, live=live)
        self.faults = Faults(seed)
        self.faults.update(dict(profile or {}))
        for option in faults:
            self.faults.parse(option)
        self.requests: deque[LoggedRequest] = deque(maxlen=LOG_LENGTH)
        self.url = ""
        self.live = LiveMode(self.store, seed=seed, per_minute=changes_per_minute)
        self.webhooks = Webhooks(webhook_url, self.faults, seed=seed, retry_seconds=webhook_retry_seconds)
        if webhook_url:
            self.store.subscribe(self.webhooks.send)
        self._port = port
        self._rng = Random(f"{seed} leavers")  # noqa: S311 - reproducible, no secrets
        self._running = ExitStack()

    def __enter__(self) -> Self:
        """Listen, and respond in another thread."""
        listener = listen(self._port)
        self.url = url_of(listener)
        app = build_app(self.store, self.faults, self._log_request, self.webhooks)
        config = uvicorn.Config(
            app,
            http=TrackedProtocol,
            loop="asyncio",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="critical",
            access_log=False,
            date_header=False,
            server_header=False,
            headers=[("Server", tenant_id(self.store.seed))],
            timeout_graceful_shutdown=STOP_SECONDS,
        )
        server = uvicorn.Server(config)
        thread = Thread(target=server.run, kwargs={"sockets": [listener]}, name="sandbox", daemon=True)
        thread.start()
        self._running.callback(_stop, server, thread)
        self._running.enter_context(self.webhooks)
        self._running.enter_context(self.live)
        return self

    def __exit__(self, *exception: object) -> None:
        """Stop: finish the responses under way, within a second, and close the connections."""
        self._running.close()

    def _log_request(self, request: Request, active: ActiveFaults) -> None:
        """Log a request, and make the changes of users that faults tie to it."""
        query = dict(request.query_params)
        self.requests.append(LoggedRequest(request.method, request.url.path, query))
        with self.store.lock:
            if "delete_every" in active and self.store.users:
                self.store.delete_user(self._rng.choice(list(self.store.users)))
            if "signup_every" in active:
                self.store.add_user()
            if "insert_every" in active and (users := list(self.store.users.values())):
                oldest = users[: len(users) // 10 + 1]
                self.store.add_user(created_at=self._rng.choice(oldest).wire["created_at"])


def _stop(server: uvicorn.Server, thread: Thread) -> None:
    server.should_exit = True
    thread.join()


def serve(*, on_ready: Callable[[str], None], **options: Any) -> None:
    """Run a sandbox until SIGTERM or Ctrl-C.

    Args:
        on_ready: called with the URL once connections are accepted.
        options: as for ``Sandbox``.

    Raises:
        OSError: the port is in use.
        ValueError: a fault does not exist.
    """
    stop = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with Sandbox(**options) as sandbox:
        on_ready(sandbox.url)
        stop.wait()
