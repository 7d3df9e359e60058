"""What struck switches do to an answer as a whole: late, refused, broken off, or not JSON.

An ASGI layer around the app. It needs the connection's transport, which ASGI does not give:
``TrackedProtocol`` remembers it by the addresses of both ends.
"""

import asyncio
import math
import socket
import struct
import time
from asyncio import BaseTransport, Transport
from collections.abc import Callable
from email.utils import formatdate
from typing import cast

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from propel_assets.sandbox.faults import Faults, Struck

CONTROL_PATH = "/sandbox"
BACKEND = "/api/backend/v1"
FEATURES = {
    "orgs_off": (
        "/org/",
        "/user/org/",
        "/custom_role_mappings",
        "/pending_org_invites",
        "/org_report/",
    ),
    "insights_off": ("/user_report/", "/org_report/", "/chart_metrics/"),
    "api_keys_off": ("/end_user_api_keys",),
    "scim_off": ("/scim/",),
}
SLOW_BODY_CHUNKS = 8

# by the addresses of client and server
_transports: dict[tuple[tuple[str, int], tuple[str, int]], Transport] = {}


class TrackedProtocol(H11Protocol):
    """uvicorn's HTTP protocol, findable by the addresses of both ends."""

    def connection_made(self, transport: Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Remember the connection."""
        super().connection_made(transport)
        _transports[_ends(transport)] = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        _transports.pop(_ends(self.transport), None)
        super().connection_lost(exc)


def _ends(transport: BaseTransport) -> tuple[tuple[str, int], tuple[str, int]]:
    return transport.get_extra_info("peername"), transport.get_extra_info("sockname")


class Interference:
    """Lets the faults strike each request to the API, before it is answered and while."""

    def __init__(
        self,
        app: ASGIApp,
        faults: Faults,
        arrived: Callable[[Request, Struck], None],
    ) -> None:
        """Wrap ``app``. ``arrived`` is told of each request before it is answered."""
        self._app = app
        self._faults = faults
        self._arrived = arrived

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or spoil the answer."""
        if scope["type"] != "http" or scope["path"].startswith(CONTROL_PATH):
            await self._app(scope, receive, send)
            return
        try:
            await self._answer(scope, receive, send)
        except asyncio.CancelledError:  # the server stops, and the response would be late
            _transports[scope["client"], scope["server"]].abort()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        struck = self._faults.strike(scope["path"])
        scope["struck"] = struck
        self._arrived(request, struck)
        if "latency_ms" in struck:
            await asyncio.sleep(struck["latency_ms"] / 1000)
        instead = self._answer_instead(request, struck)
        if "reset" in struck:
            await _reset(scope, receive)
        elif instead is not None:
            await instead(scope, receive, send)
        elif "truncated" in struck or "slow_body_ms" in struck:
            await self._spoil_body(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _answer_instead(self, request: Request, struck: Struck) -> Response | None:
        """Return what is answered instead of what was asked for, if anything."""
        if "rate_limit" in struck:
            wait = self._faults.take_token()
            if wait:
                return _slow_down("Rate limit exceeded", 429, wait, struck)
        if "server_error" in struck:
            return _slow_down("Internal error", struck["server_error"], 1, struck)
        if "html" in struck:
            return HTMLResponse("<html><body>Bad gateway</body></html>", struck["html"])
        if "redirect" in struck:
            target = struck["redirect"].rstrip("/") + request.url.path
            return Response(status_code=302, headers={"location": target})
        if "wrong_json" in struck:
            return JSONResponse(struck["wrong_json"])
        if "key_revoked" in struck and not request.url.path.startswith("/.well-known/"):
            return PlainTextResponse("Unauthorized", 401)
        return _feature_off(request, struck)

    async def _spoil_body(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the body in pieces; when truncated, stop half-way and close the connection."""
        messages: list[Message] = []

        async def collect(message: Message) -> None:
            messages.append(message)

        await self._app(scope, receive, collect)
        struck: Struck = scope["struck"]
        body = b"".join(message.get("body", b"") for message in messages[1:])
        await send(messages[0])
        if "truncated" in struck:
            await send(_piece(body[: len(body) // 2]))
            _transports[scope["client"], scope["server"]].close()  # what is buffered still goes out
            await _until_closed(receive)
            return
        size = max(1, math.ceil(len(body) / SLOW_BODY_CHUNKS))
        for start in range(0, len(body), size):
            await asyncio.sleep(struck["slow_body_ms"] / 1000 / SLOW_BODY_CHUNKS)
            await send(_piece(body[start : start + size]))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _piece(body: bytes) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": True}


async def _reset(scope: Scope, receive: Receive) -> None:
    """Break the connection with a TCP reset instead of an orderly end."""
    transport = _transports[scope["client"], scope["server"]]
    connection = cast(socket.socket, transport.get_extra_info("socket"))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
    await _until_closed(receive)


async def _until_closed(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _slow_down(text: str, status: int, wait: float, struck: Struck) -> Response:
    """Return a plain-text refusal; says when to come back only when ``retry_after`` is on."""
    headers = {}
    seconds = math.ceil(wait)
    if status in (429, 503):
        if struck.get("retry_after") == "seconds":
            headers["retry-after"] = str(seconds)
        elif struck.get("retry_after") == "date":
            headers["retry-after"] = formatdate(time.time() + seconds, usegmt=True)
    return PlainTextResponse(text, status, headers)


def _feature_off(request: Request, struck: Struck) -> Response | None:
    """Return the refusal of a feature the environment does not have, if it was asked for."""
    path = request.url.path.removeprefix(BACKEND)
    if "include_orgs_off" in struck and request.query_params.get("include_orgs") == "true":
        return Response(status_code=struck["include_orgs_off"])
    for switch, prefixes in FEATURES.items():
        if switch in struck and path.startswith(prefixes):
            return Response(status_code=struck[switch])
    return None
