"""Connections to the PostgreSQL of the webhook store that end each statement within a time limit.

If the network drops a connection without closing it, libpq waits for a response without a limit. `tcp_user_timeout`
and keepalives detect a host that is gone, but not a proxy that accepts data and does not forward it, and
`statement_timeout` is of no use to a server that never receives the statement.
"""

import contextlib
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import psycopg2.extensions

CONNECT_SECONDS = 5


def connect_arguments(given: Sequence[str], seconds: float) -> dict[str, Any]:
    """Return the arguments of `psycopg2.connect`. Parameters of libpq that the URL has ``given`` are kept."""
    limits = {
        "connect_timeout": CONNECT_SECONDS,
        "tcp_user_timeout": int(seconds * 1000),
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 2,
    }
    limits = {name: value for name, value in limits.items() if name not in given}
    return {**limits, "connection_factory": partial(_Connection, seconds=seconds)}


class _Connection(psycopg2.extensions.connection):
    """A connection that is shut down when the response to one statement takes too long."""

    def __init__(self, *args: Any, seconds: float, **named: Any) -> None:
        super().__init__(*args, **named)
        self._seconds = seconds

    def cursor(self, *args: Any, **named: Any) -> Any:
        return super().cursor(*args, **{"cursor_factory": _Cursor, **named})

    def commit(self) -> None:
        with self.limit():
            super().commit()

    def rollback(self) -> None:
        with self.limit():
            super().rollback()

    @contextlib.contextmanager
    def limit(self) -> Iterator[None]:
        """Shut the socket down if the block takes too long: libpq then raises the error of a closed connection."""
        lock, is_over = threading.Lock(), False

        def shut_down() -> None:
            with lock, contextlib.suppress(OSError):
                if not is_over:  # else the number may belong to another file by now
                    with socket.socket(fileno=os.dup(self.fileno())) as copy:
                        copy.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(self._seconds, shut_down)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            with lock:
                is_over = True
            timer.cancel()


class _Cursor(psycopg2.extensions.cursor):
    def _limit(self) -> contextlib.AbstractContextManager[None]:
        connection: Any = self.connection
        return connection.limit()

    def execute(self, *args: Any, **named: Any) -> None:
        with self._limit():
            super().execute(*args, **named)

    def fetchmany(self, *args: Any, **named: Any) -> list[tuple[Any, ...]]:
        with self._limit():
            return super().fetchmany(*args, **named)
