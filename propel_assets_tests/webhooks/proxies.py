"""A TCP proxy in front of PostgreSQL whose connections can be stalled: they stay open and forward nothing more."""

import contextlib
import socket
from collections.abc import Iterator
from threading import Event, Thread

import sqlalchemy as sa


class StallingProxy:
    """Forwards TCP connections to the Unix socket of a PostgreSQL server.

    Attributes:
        url: the URL of the store through this proxy.
        swallowed: set once data has arrived on a stalled connection.
    """

    def __init__(self, listener: socket.socket, url: str) -> None:
        parsed = sa.make_url(url)
        self._target = f"{parsed.query['host']}/.s.PGSQL.5432"
        self._listener, self._stalled, self.swallowed = listener, Event(), Event()
        direct = parsed.difference_update_query(["host"])
        at_proxy = direct.set(host="127.0.0.1", port=listener.getsockname()[1])
        self.url = at_proxy.render_as_string(hide_password=False)

    def stall(self) -> None:
        """Stall every connection that exists. New connections are forwarded."""
        self._stalled.set()
        self._stalled = Event()

    def accept(self) -> None:
        """Forward connections until the listener is closed."""
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._target)
                for source, sink in ((client, server), (server, client)):
                    Thread(target=self._forward, args=(source, sink, self._stalled), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket, stalled: Event) -> None:
        with source:
            with contextlib.suppress(OSError):
                while data := source.recv(65_536):
                    if stalled.is_set():
                        self.swallowed.set()
                    else:
                        sink.sendall(data)
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def stalling_proxy(url: str) -> Iterator[StallingProxy]:
    """Run a proxy in front of the PostgreSQL at ``url``."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = StallingProxy(listener, url)
        Thread(target=proxy.accept, daemon=True).start()
        try:
            yield proxy
        finally:
            listener.shutdown(socket.SHUT_RDWR)
