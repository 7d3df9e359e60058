"""The effect of faults on a response as a whole: late, refused, truncated, reset, or not JSON.

An ASGI layer around the app. To reset a connection it needs the transport, which ASGI does not have:
``TrackedProtocol`` keeps it by the addresses of both ends.
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

from propel_assets.sandbox.faults import ActiveFaults, Faults

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
    """uvicorn's HTTP protocol that keeps its transport by the addresses of both ends."""

    def connection_made(self, transport: Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Keep the transport."""
        super().connection_made(transport)
        _transports[_ends(transport)] = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove the transport."""
        _transports.pop(_ends(self.transport), None)
        super().connection_lost(exc)


def _ends(transport: BaseTransport) -> tuple[tuple[str, int], tuple[str, int]]:
    return transport.get_extra_info("peername"), transport.get_extra_info("sockname")


class Interference:
    """Applies the faults to each request to the API."""

    def __init__(
        self,
        app: ASGIApp,
        faults: Faults,
        log_request: Callable[[Request, ActiveFaults], None],
    ) -> None:
        """Wrap ``app``. ``log_request`` is called with each request before the response."""
        self._app = app
        self._faults = faults
        self._log_request = log_request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to one request."""
        if scope["type"] != "http" or scope["path"].startswith(CONTROL_PATH):
            await self._app(scope, receive, send)
            return
        try:
            await self._respond(scope, receive, send)
        except asyncio.CancelledError:  # the server stops, and the response would be late
            _transports[scope["client"], scope["server"]].abort()

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        active = self._faults.match_request(scope["path"])
        scope["active"] = active
        self._log_request(request, active)
        if "latency_ms" in active:
            await asyncio.sleep(active["latency_ms"] / 1000)
        if "response_headers" in active or "error_bodies" in active:
            send = _profiled(send, active)
        other = self._other_response(request, active)
        if "reset" in active:
            await _reset(scope, receive)
        elif other is not None:
            await other(scope, receive, send)
        elif "truncated" in active or "slow_body_ms" in active:
            await self._send_faulty_body(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _other_response(self, request: Request, active: ActiveFaults) -> Response | None:
        """Return the response of a fault instead of that of the app, if there is one."""
        if "rate_limit" in active:
            wait = self._faults.take_token()
            if wait:
                return _error_response("Rate limit exceeded", 429, wait, active)
        if "server_error" in active:
            return _error_response("Internal error", active["server_error"], 1, active)
        if "html" in active:
            return HTMLResponse("<html><body>Bad gateway</body></html>", active["html"])
        if "redirect" in active:
            target = active["redirect"].rstrip("/") + request.url.path
            return Response(status_code=302, headers={"location": target})
        if "wrong_json" in active:
            return JSONResponse(active["wrong_json"])
        if "key_revoked" in active and not request.url.path.startswith("/.well-known/"):
            return PlainTextResponse("Unauthorized", 401)
        return _feature_off(request, active)

    async def _send_faulty_body(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the body in pieces; when truncated, stop after half of it and close the connection."""
        messages: list[Message] = []

        async def collect(message: Message) -> None:
            messages.append(message)

        await self._app(scope, receive, collect)
        active: ActiveFaults = scope["active"]
        body = b"".join(message.get("body", b"") for message in messages[1:])
        await send(messages[0])
        if "truncated" in active:
            await send(_piece(body[: len(body) // 2]))
            _transports[scope["client"], scope["server"]].close()  # buffered data is still sent
            await _until_closed(receive)
            return
        size = max(1, math.ceil(len(body) / SLOW_BODY_CHUNKS))
        for start in range(0, len(body), size):
            await asyncio.sleep(active["slow_body_ms"] / 1000 / SLOW_BODY_CHUNKS)
            await send(_piece(body[start : start + size]))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _profiled(send: Send, active: ActiveFaults) -> Send:
    """Return ``send`` with the headers and the error bodies of a profile."""
    error: dict[str, str] | None = None

    async def send_profiled(message: Message) -> None:
        nonlocal error
        if message["type"] == "http.response.start":
            headers = {name.lower(): value for name, value in message["headers"]}
            error = active.get("error_bodies", {}).get(str(message["status"]))
            if error is not None:
                headers[b"content-length"] = str(len(error["body"].encode())).encode()
                headers[b"content-type"] = error["content_type"].encode()
            headers |= {n.lower().encode(): v.encode() for n, v in active.get("response_headers", {}).items()}
            message = {**message, "headers": [(name, value) for name, value in headers.items() if value]}
        elif error is not None:
            message = {**message, "body": error["body"].encode()}
        await send(message)

    return send_profiled


def _piece(body: bytes) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": True}


async def _reset(scope: Scope, receive: Receive) -> None:
    """Reset the TCP connection."""
    transport = _transports[scope["client"], scope["server"]]
    connection = cast(socket.socket, transport.get_extra_info("socket"))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
    await _until_closed(receive)


async def _until_closed(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _error_response(text: str, status: int, wait: float, active: ActiveFaults) -> Response:
    """Return a plain-text error response; with a Retry-After header when ``retry_after`` is on."""
    headers = {}
    seconds = math.ceil(wait)
    if status in (429, 503):
        if active.get("retry_after") == "seconds":
            headers["retry-after"] = str(seconds)
        elif active.get("retry_after") == "date":
            headers["retry-after"] = formatdate(time.time() + seconds, usegmt=True)
    return PlainTextResponse(text, status, headers)


def _feature_off(request: Request, active: ActiveFaults) -> Response | None:
    """Return the response of a feature that is not enabled, if the request is for one."""
    path = request.url.path.removeprefix(BACKEND)
    if "include_orgs_off" in active and request.query_params.get("include_orgs") == "true":
        return Response(status_code=active["include_orgs_off"])
    for switch, prefixes in FEATURES.items():
        if switch in active and path.startswith(prefixes):
            return Response(status_code=active[switch])
    return None
