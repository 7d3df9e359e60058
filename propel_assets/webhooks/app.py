"""The webhook receiver: an ASGI app that responds with 204 only after an event is durable.

    uvicorn propel_assets.webhooks.app:app

`app` is built from the environment variables when it is first used. `build_app` builds an app with other settings, or
to mount in another server. The response is 204 when the event is stored (or was stored before), 400 when the request
is not a webhook, 401 when no secret verifies its signature or its timestamp is more than 5 minutes off, 413 when its
body is too large, and 503 when the store cannot take it: Svix then tries again. No secret and no payload reaches a
log, a response or a metric.
"""

import asyncio
import base64
import json
import logging
import math
import re
import socket
import time
from collections import Counter as Counts
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from typing import Any

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, generate_latest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from svix.webhooks import Webhook, WebhookVerificationError

from propel_assets.errors import SettingsError, WebhookStoreError, WebhookStoreFull
from propel_assets.settings import load_settings, variable_of, variable_to_set
from propel_assets.webhooks.store import StoredEvent, StoreStatus, WebhookStore

PATH = "/webhooks/propelauth"
SECRET_VARIABLE = variable_of("webhook_secret")
MAX_BODY = 256 * 1024
DEADLINE_SECONDS = 10.0
MAX_DEPTH = 100
MAX_BATCH = 500
MAX_WAITING = 5_000
MAX_CONNECTIONS = 2_000
MAX_SECRETS, MIN_SECRET_BYTES, SECRET_PREFIX = 10, 16, "whsec_"
RETRY_SECONDS = "30"
PHONE_CODE = "user.send_mfa_phone_code"
MESSAGE_ID = re.compile(r"[\x21-\x7e]{1,256}")
REMEDIES = {
    "malformed": "Check that no client other than PropelAuth sends to this URL, and that the proxy passes the headers.",
    "unverified": f"Set {SECRET_VARIABLE} to the signing secret of the endpoint, and check the clock.",
    "too_large": "Check that no client other than PropelAuth sends to this URL.",
    "timed_out": "Check that the database of the webhook store responds, and that the proxy passes bodies on.",
    "store_full": "Check that the job propel_auth_apply_events runs.",
    "store_failed": "PropelAuth sends the event again.",
}
"""By outcome of a refused request. Log lines have it, responses do not."""
OUTCOMES = ("stored", "repeated", *REMEDIES)
WARNING_SECONDS = 60.0  # between two log lines about one outcome
LOGGER = logging.getLogger(__name__)


class RefusedWebhook(Exception):
    """A request that is not stored. Its text is the body of the response."""

    def __init__(self, status: int, outcome: str, message: str) -> None:
        """Keep what the response and the metric need."""
        super().__init__(message)
        self.status, self.outcome = status, outcome


@dataclass
class _Waiting:
    event: StoredEvent
    stored: asyncio.Future[bool] = field(default_factory=asyncio.Future)


class Receiver:
    """Verifies webhooks and stores them in batches: one transaction, and one flush to the disk, for many requests."""

    def __init__(
        self,
        store: WebhookStore,
        secrets: Sequence[str],
        *,
        max_body: int = MAX_BODY,
        secret_variable: str = SECRET_VARIABLE,
    ) -> None:
        """Accept what one of ``secrets`` verifies. Errors name ``secret_variable``.

        Raises:
            SettingsError: there is no secret, there are more than 10, or one is not of Svix's form.
        """
        self.store = store
        self._max_body, self._secret_variable = max_body, secret_variable
        if len(secrets) > MAX_SECRETS:
            raise SettingsError(
                f"{secret_variable} has {len(secrets)} secrets, and a delivery is compared with each of them. "
                f"Set at most {MAX_SECRETS}: the current one and, during a rotation, the previous one."
            )
        self._verifiers = [_verifier(secret, secret_variable) for secret in secrets]
        if not self._verifiers:
            raise SettingsError(
                f"The webhook receiver has no secret. Set {secret_variable} to the signing secret of the "
                "endpoint, which the PropelAuth dashboard shows (whsec_...). Separate several with commas."
            )
        self._queue: deque[_Waiting] = deque()
        self._writer: asyncio.Task[None] | None = None
        # Not asyncio's threads: while the store does not respond, probes of its status must not delay deliveries.
        self._write_thread = ThreadPoolExecutor(1, "webhook-store-writes")
        self._status_thread = ThreadPoolExecutor(1, "webhook-store-status")
        self._status_read: Future[StoreStatus] | None = None
        self.registry = CollectorRegistry()
        self._received = Counter(
            "propel_webhook_requests", "Webhook requests by outcome.", ["outcome"], registry=self.registry
        )
        for outcome in OUTCOMES:
            self._received.labels(outcome)
        self._warned_at: dict[str, float] = {}
        self._unlogged: Counts[str] = Counts()
        self._pending = Gauge("propel_webhook_pending_events", "Events not applied yet.", registry=self.registry)
        self._age = Gauge(
            "propel_webhook_oldest_pending_seconds", "Age of the oldest event not applied yet.", registry=self.registry
        )

    async def receive(self, request: Request) -> Response:
        """Respond to one delivery."""
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                event = self._verify(request, await self._body(request))
                is_new = await self._store(event)
        except RefusedWebhook as refused:
            self._report(refused.outcome, refused.status, str(refused))
            headers = {"Retry-After": RETRY_SECONDS} if refused.status == 503 else None
            return JSONResponse({"error": str(refused)}, refused.status, headers)
        except TimeoutError:
            text = f"The request was not complete, or its event not stored, within {DEADLINE_SECONDS:.0f} s."
            self._report("timed_out", 503, text)
            return JSONResponse({"error": text}, 503, {"Retry-After": RETRY_SECONDS})
        except ClientDisconnect:
            self._received.labels("timed_out").inc()
            return Response(status_code=400)
        self._received.labels("stored" if is_new else "repeated").inc()
        return Response(status_code=204)

    def _report(self, outcome: str, status: int, text: str) -> None:
        """Count a refused request, and log the first one of its outcome in each minute."""
        self._received.labels(outcome).inc()
        now = time.monotonic()
        if now - self._warned_at.get(outcome, -math.inf) < WARNING_SECONDS:
            self._unlogged[outcome] += 1
            return
        self._warned_at[outcome] = now
        count = self._unlogged.pop(outcome, 0)
        more = f" {count} more were refused since the last warning." if count else ""
        remedy = REMEDIES[outcome].replace(SECRET_VARIABLE, self._secret_variable)
        LOGGER.warning("A webhook was refused with %d (%s). %s %s%s", status, outcome, text, remedy, more)

    async def health(self, _request: Request) -> Response:
        """Respond with 200 if the store accepts events, 503 if not, and with what waits to be applied."""
        try:
            status = await self._read_status()
        except WebhookStoreError as error:
            return JSONResponse({"status": "store_failed", "error": str(error)}, 503)
        is_full = status.share_used >= 1
        body = {"status": "full" if is_full else "ok", "pending_events": status.pending}
        return JSONResponse({**body, "oldest_pending_seconds": _age(status)}, 503 if is_full else 200)

    async def metrics(self, _request: Request) -> Response:
        """Respond with the metrics in Prometheus' text format."""
        try:
            status = await self._read_status()
            self._pending.set(status.pending)
            self._age.set(_age(status))
        except WebhookStoreError:
            self._pending.set(float("nan"))
            self._age.set(float("nan"))
        return Response(generate_latest(self.registry), media_type=CONTENT_TYPE_LATEST)

    async def _read_status(self) -> StoreStatus:
        """Return the status of the store. Requests that arrive during a read share it."""
        if self._status_read is None or self._status_read.done():
            self._status_read = self._status_thread.submit(self._status)
        return await asyncio.shield(asyncio.wrap_future(self._status_read))

    def _status(self) -> StoreStatus:
        self.store.purge_if_due()
        return self.store.status()

    def _add(self, batch: Sequence[StoredEvent]) -> set[str]:
        self.store.purge_if_due()
        return self.store.add(batch)

    def _enqueue(self, waiting: _Waiting) -> None:
        """Have a task of this event loop store the event. It ends once no event waits.

        So the app needs no lifespan: servers do not run that of a mounted app. If another loop ran the last task, its
        requests have ended or have a queue of their own.
        """
        loop = asyncio.get_running_loop()
        is_running = self._writer is not None and not self._writer.done() and self._writer.get_loop() is loop
        if not is_running:
            self._queue = deque()
        self._queue.append(waiting)
        if not is_running:
            self._writer = loop.create_task(self._write_batches(self._queue))

    async def _write_batches(self, queue: deque[_Waiting]) -> None:
        while queue:
            batch = [queue.popleft() for _ in range(min(len(queue), MAX_BATCH))]
            if waiting := [one for one in batch if not one.stored.done()]:  # the others have timed out
                await self._write(waiting)

    async def _write(self, waiting: Sequence[_Waiting]) -> None:
        try:
            events = [one.event for one in waiting]
            new = await asyncio.get_running_loop().run_in_executor(self._write_thread, self._add, events)
        except Exception as error:  # an error that ended this task would refuse every later delivery
            if len(waiting) > 1 and not isinstance(error, WebhookStoreFull):
                for one in waiting:  # one event may be at fault, and the others not
                    if not one.stored.done():
                        await self._write([one])
                return
            if not isinstance(error, WebhookStoreError):
                text = f"The event could not be stored: unexpected {type(error).__name__}. Restart the receiver."
                error = WebhookStoreError(text)
            repeated = error.stored if isinstance(error, WebhookStoreFull) else ()
            for one in waiting:
                if one.stored.done():
                    continue
                if one.event.svix_id in repeated:
                    one.stored.set_result(False)
                else:
                    one.stored.set_exception(error)
            return
        for one in waiting:
            if not one.stored.done():
                one.stored.set_result(one.event.svix_id in new)
                new.discard(one.event.svix_id)  # within one batch the second is a repetition

    async def _store(self, event: StoredEvent) -> bool:
        """Return once ``event`` is durable: True if it is new."""
        if len(self._queue) >= MAX_WAITING:
            raise RefusedWebhook(503, "store_full", "Too many deliveries wait for the store. Try again.")
        waiting = _Waiting(event)
        self._enqueue(waiting)
        try:
            return await waiting.stored
        except WebhookStoreFull as error:
            raise RefusedWebhook(503, "store_full", str(error)) from None
        except WebhookStoreError as error:
            raise RefusedWebhook(503, "store_failed", str(error)) from None

    async def _body(self, request: Request) -> bytes:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > self._max_body:
                raise RefusedWebhook(413, "too_large", f"The body is larger than {self._max_body:,} bytes.")
        return bytes(body)

    def _verify(self, request: Request, body: bytes) -> StoredEvent:
        names = ("svix-id", "svix-timestamp", "svix-signature")
        headers = {name: request.headers.get(name, "") for name in names}
        if missing := [name for name, value in headers.items() if not value]:
            raise RefusedWebhook(400, "malformed", f"Missing headers: {', '.join(missing)}.")
        if not MESSAGE_ID.fullmatch(headers["svix-id"]):
            raise RefusedWebhook(400, "malformed", "The header svix-id is not a message id.")
        if not any(_is_verified(verifier, body, headers) for verifier in self._verifiers):
            text = "No configured secret verifies the signature, or the timestamp is more than 5 minutes off."
            raise RefusedWebhook(401, "unverified", text)
        try:
            text = body.decode()
            payload = json.loads(text, parse_constant=_refuse_constant)
            event_type = payload["event_type"]
        except (ValueError, RecursionError, TypeError, KeyError):
            text, event_type, payload = "", None, None
        if not isinstance(event_type, str) or not MESSAGE_ID.fullmatch(event_type) or not isinstance(payload, dict):
            raise RefusedWebhook(400, "malformed", "The body is not a JSON object with an event_type.")
        if _is_deeper(payload, MAX_DEPTH):
            raise RefusedWebhook(400, "malformed", f"The body is nested deeper than {MAX_DEPTH} levels.")
        return StoredEvent(
            headers["svix-id"],
            event_type,
            datetime.now(UTC),
            datetime.fromtimestamp(float(headers["svix-timestamp"]), UTC),
            text if event_type != PHONE_CODE else json.dumps(without_phone_number(payload)),
        )


def _refuse_constant(name: str) -> None:
    """Refuse NaN and Infinity, which are not JSON."""
    raise ValueError(name)


def without_phone_number(payload: dict[str, Any]) -> dict[str, Any]:
    """Return the payload of an event about a phone code as it may be stored: its type and its user."""
    return {name: payload[name] for name in ("event_type", "user_id") if isinstance(payload.get(name), str)}


def _is_deeper(payload: dict[str, Any], levels: int) -> bool:
    """Return whether a payload is nested deeper. Parsers have limits, and each load would fail at it."""
    layer: list[Any] = [payload]
    for _ in range(levels):
        values = chain.from_iterable(item.values() if isinstance(item, dict) else item for item in layer)
        layer = [value for value in values if isinstance(value, dict | list)]
    return bool(layer)


def _verifier(secret: str, variable: str) -> Webhook:
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except ValueError:
        key = b""
    if not secret.startswith(SECRET_PREFIX) or len(key) < MIN_SECRET_BYTES:
        raise SettingsError(
            f"A secret in {variable} is not of the form whsec_<base64> with at least {MIN_SECRET_BYTES} "
            "bytes. Copy it from the endpoint's page in the PropelAuth dashboard."
        )
    return Webhook(secret)


def _is_verified(verifier: Webhook, body: bytes, headers: dict[str, str]) -> bool:
    try:
        verifier.verify(body, headers)
    except (WebhookVerificationError, ValueError, OverflowError):  # the last two: headers that are not of their form
        return False
    return True


def _age(status: Any) -> float:
    return round(time.time() - status.oldest_received_at.timestamp(), 1) if status.oldest_received_at else 0.0


def build_app(
    store: WebhookStore,
    secrets: Sequence[str],
    *,
    max_body: int = MAX_BODY,
    secret_variable: str = SECRET_VARIABLE,
) -> Starlette:
    """Return the receiver's ASGI app, to serve or to mount. Close ``store`` after the server has stopped."""
    receiver = Receiver(store, secrets, max_body=max_body, secret_variable=secret_variable)
    routes = [
        Route(PATH, receiver.receive, methods=["POST"]),
        Route("/healthz", receiver.health),
        Route("/metrics", receiver.metrics),
    ]
    return Starlette(routes=routes)


def serve(app: Starlette, host: str, port: int, on_ready: Callable[[str], None]) -> None:
    """Serve ``app`` until SIGTERM or Ctrl-C. Calls ``on_ready`` with the URL once connections are accepted.

    Raises:
        SettingsError: the address cannot be listened on.
    """
    try:
        listener = socket.create_server((host, port), backlog=2048)
    except OSError as error:
        raise SettingsError(f"Cannot listen on {host}:{port}: {error.strerror}. Choose another with --port.") from None
    with listener:
        address, number = listener.getsockname()[:2]
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_keep_alive=75,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=int(DEADLINE_SECONDS) + 2,
        )
        on_ready(f"http://{address}:{number}")
        uvicorn.Server(config).run(sockets=[listener])


def __getattr__(name: str) -> Starlette:
    """Return `app`, built from PROPELAUTH_WEBHOOK_SECRET and PROPELAUTH_WEBHOOK_STORE when a server asks for it."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    settings = load_settings()
    variable = variable_to_set("webhook_secret", settings.environment)
    return build_app(WebhookStore(settings.webhook_store), settings.webhook_secrets, secret_variable=variable)
