"""HTTP connections with a total deadline per response, headers and body included, which can be aborted.

A socket timeout applies to a single `recv` call: a server that sends one byte per second never exceeds it. These
connections check the deadline in every `recv` call, whatever part of the response is read.
"""

import math
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

POLL_SECONDS = 0.5
"""How often a waiting `recv` call checks whether it was aborted."""


class _Deadline:
    """What plain and TLS sockets share. ``receive`` is the `recv_into` of the socket class."""

    deadline: float = math.inf
    is_aborted: Callable[[], bool] = staticmethod(lambda: False)

    def _receive(self, receive: Callable[..., int], *arguments: Any) -> int:
        while True:
            if self.is_aborted():
                raise ConnectionAbortedError
            remaining = self.deadline - time.monotonic()
            if remaining <= 0:
                raise TimeoutError
            self.settimeout(min(remaining, POLL_SECONDS))  # type: ignore[attr-defined]
            try:
                return receive(*arguments)
            except TimeoutError:
                continue


class _Socket(_Deadline, socket.socket):
    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        return self._receive(super().recv_into, buffer, nbytes, flags)


class _TlsSocket(_Deadline, ssl.SSLSocket):
    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
        return self._receive(super().recv_into, buffer, nbytes, flags)


class _Connection(HTTPConnection):
    """`timeout` is the total time for the response, as `urllib3.Timeout(total=...)` leaves it after connecting."""

    def __init__(self, *arguments: Any, is_aborted: Callable[[], bool], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._is_aborted = is_aborted

    def connect(self) -> None:
        super().connect()
        if not isinstance(self.sock, _Deadline):
            plain = self.sock
            self.sock = _Socket(plain.family, plain.type, plain.proto, plain.detach())

    def getresponse(self) -> Any:
        limited: Any = self.sock
        limited.is_aborted = self._is_aborted
        limited.deadline = time.monotonic() + (self.timeout or 0)
        return super().getresponse()


class _TlsConnection(_Connection, HTTPSConnection):
    """The TLS socket class is set on the `ssl.SSLContext`."""


def connection_pool(url: str, is_aborted: Callable[[], bool], **options: Any) -> urllib3.HTTPConnectionPool:
    """Return a pool of connections to ``url``; ``options`` are urllib3's. Every request needs a total timeout.

    When ``is_aborted`` returns True, responses that are being read fail with `urllib3.exceptions.ProtocolError`.
    """
    if url.startswith("https:"):
        context = ssl.create_default_context()
        context.sslsocket_class = _TlsSocket
        options["ssl_context"] = context
    pool = urllib3.connection_from_url(url, is_aborted=is_aborted, **options)
    pool.ConnectionCls = _TlsConnection if url.startswith("https:") else _Connection  # type: ignore[assignment]
    return pool
