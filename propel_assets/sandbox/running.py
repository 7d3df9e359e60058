"""Running the server: ``Sandbox`` in a thread for tests, ``serve`` for the command line.

Both listen on 127.0.0.1 only.
"""

import asyncio
import signal
import socket
from collections import deque
from collections.abc import Callable, Iterable
from datetime import date
from random import Random
from threading import Thread
from typing import NamedTuple, Self

import uvicorn
from starlette.requests import Request
from uvicorn.server import ServerState

from propel_assets.sandbox.faults import Faults, Struck
from propel_assets.sandbox.interference import TrackedProtocol
from propel_assets.sandbox.server import API_KEY, USER_TOKEN, build_app
from propel_assets.sandbox.store import Store

HOST = "127.0.0.1"
LOG_LENGTH = 100_000
STOP_SECONDS = 1
SERVER = "propel-assets-sandbox"
"""The header `Server` of every response is this, a slash and the seed: the same tenant on every port."""


def listen(port: int) -> socket.socket:
    """Bind and listen at once: connections made before a loop runs wait in the queue."""
    # With the protocol named, asyncio sends small answers at once (TCP_NODELAY).
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((HOST, port))
    listener.listen(1024)
    return listener


def url_of(listener: socket.socket) -> str:
    """Return the base URL, without a trailing slash."""
    return f"http://{HOST}:{listener.getsockname()[1]}"


class LoggedRequest(NamedTuple):
    """One request to the API, answered or not. Those to the sandbox's own paths are left out."""

    method: str
    path: str
    query: dict[str, str]


class Sandbox:
    """A PropelAuth on localhost, running while the ``with`` block lasts.

    Attributes:
        api_key, user_token: what it accepts as bearer tokens.
        store: the state, and what changes it.
        faults: the switches.
        requests: the last 100,000 requests, oldest first.
        url: where it listens; set once it does.
    """

    api_key = API_KEY
    user_token = USER_TOKEN

    def __init__(
        self,
        *,
        users: int = 2500,
        orgs: int = 120,
        seed: int = 1,
        now: date = date(2026, 11, 24),
        faults: Iterable[str] = (),
        port: int = 0,
    ) -> None:
        """Seed the state; nothing listens yet.

        Args:
            users: how many there are at noon of ``now``.
            orgs: how many there are at noon of ``now``.
            seed: with the three others, decides every byte.
            now: the day that is today.
            faults: switches to start with, as ``Faults.parse`` reads them.
            port: 0 for a free one.
        """
        self.store = Store(seed=seed, now=now, users=users, orgs=orgs)
        self.faults = Faults(seed)
        for option in faults:
            self.faults.parse(option)
        self.requests: deque[LoggedRequest] = deque(maxlen=LOG_LENGTH)
        self.url = ""
        self._port = port
        self._rng = Random(f"{seed} leavers")  # noqa: S311 - reproducible, no secrets

    def __enter__(self) -> Self:
        """Listen, and answer in another thread."""
        listener = listen(self._port)
        self.url = url_of(listener)
        runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        stop, loop = asyncio.Event(), runner.get_loop()

        def answer() -> None:
            with runner:
                runner.run(self._answer(listener, stop))

        self._stop = lambda: loop.call_soon_threadsafe(stop.set)
        self._thread = Thread(target=answer, name="sandbox", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Stop: finish what is being answered (for a second at most), close the connections."""
        self._stop()
        self._thread.join()

    async def run(self, on_ready: Callable[[str], None]) -> None:
        """Listen and answer until SIGTERM or Ctrl-C. Calls ``on_ready(url)`` once it listens."""
        listener = listen(self._port)
        self.url = url_of(listener)
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        on_ready(self.url)
        await self._answer(listener, stop)

    async def _answer(self, listener: socket.socket, stop: asyncio.Event) -> None:
        """Answer until ``stop`` is set.

        Not by ``uvicorn.Server``: it looks for the end ten times a second, takes the process's
        signals, and sets up logging. Only its protocol is used.
        """
        app = build_app(self.store, self.faults, self._arrived)
        config = uvicorn.Config(app, lifespan="off", ws="none", log_config=None, access_log=False)
        config.load()
        state = ServerState()
        state.default_headers = [(b"server", f"{SERVER}/{self.store.seed}".encode())]
        server = await asyncio.get_running_loop().create_server(
            lambda: TrackedProtocol(config, state, {}), sock=listener
        )
        await stop.wait()
        server.close()
        for connection in list(state.connections):
            connection.shutdown()
        if state.tasks:
            await asyncio.wait(state.tasks, timeout=STOP_SECONDS)
        for connection in list(state.connections):
            connection.transport.abort()

    def _arrived(self, request: Request, struck: Struck) -> None:
        """Log a request; let people come and go at it when the faults say so."""
        query = dict(request.query_params)
        self.requests.append(LoggedRequest(request.method, request.url.path, query))
        with self.store.lock:
            if "delete_every" in struck and self.store.users:
                self.store.delete_user(self._rng.choice(list(self.store.users)))
            if "signup_every" in struck:
                self.store.add_user()
            if "insert_every" in struck and (users := list(self.store.users.values())):
                oldest = users[: len(users) // 10 + 1]
                self.store.add_user(created_at=self._rng.choice(oldest).wire["created_at"])


def serve(
    *,
    port: int,
    users: int,
    orgs: int,
    seed: int,
    now: date,
    faults: Iterable[str] = (),
    on_ready: Callable[[str], None],
) -> None:
    """Serve a sandbox until SIGTERM or Ctrl-C.

    Args:
        port: 0 for a free one.
        users: see ``Sandbox``.
        orgs: see ``Sandbox``.
        seed: see ``Sandbox``.
        now: see ``Sandbox``.
        faults: see ``Sandbox``.
        on_ready: called with the URL once connections are accepted.

    Raises:
        OSError: the port is taken.
        ValueError: a fault does not exist.
    """
    sandbox = Sandbox(users=users, orgs=orgs, seed=seed, now=now, faults=faults, port=port)
    asyncio.run(sandbox.run(on_ready))
