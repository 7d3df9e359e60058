"""Webhooks: each event is signed and posted to one URL, as PropelAuth does through Svix, with faults on request.

The signature is Svix's: HMAC-SHA256 with the secret over `<svix-id>.<svix-timestamp>.<body>`. An attempt that has no
2xx response within 15 s is retried after Svix's intervals. ``Webhooks.deliveries`` has the truth for tests: which
events were lost, and each attempt with its response.
"""

import base64
import hashlib
import heapq
import hmac
import json
import string
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal, Self

import urllib3

from propel_assets.sandbox.events import WebhookEvent
from propel_assets.sandbox.faults import Faults

WEBHOOK_SECRET = "whsec_c2FuZGJveC13ZWJob29rLXNlY3JldA=="  # noqa: S105 - of this sandbox only
OTHER_SECRET = "whsec_YW5vdGhlciBzZWNyZXQgdGhhbiB0aGUgc2FuZGJveCdz"  # noqa: S105 - signs forged events
RETRY_SECONDS = (5, 300, 1_800, 7_200, 18_000, 36_000, 36_000)
"""Intervals between the attempts of one delivery, as Svix documents them."""
ATTEMPT_SECONDS = 15
REPLAY_AGE_SECONDS = 600
MAX_HOLD_SECONDS = 1.0
"""Events that are held back for a burst or for disorder are sent after this time even if others do not follow."""
SENDERS = 8
LOG_LENGTH = 100_000
ID_LETTERS = string.ascii_letters + string.digits

Kind = Literal["delivery", "forged", "replayed"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request. ``status`` is None without a response."""

    at: float
    """Unix seconds of this machine's clock."""
    status: int | None

    @property
    def succeeded(self) -> bool:
        """Whether the receiver confirmed the event."""
        return self.status is not None and 200 <= self.status < 300


@dataclass(slots=True)
class Delivery:
    """One event on its way to the receiver.

    Attributes:
        svix_id: the id of the message, the same in all attempts.
        event: what is sent.
        kind: a delivery by PropelAuth, or a request that a receiver must refuse.
        lost: whether it is never sent.
        attempts: the requests so far.
    """

    svix_id: str
    event: WebhookEvent
    kind: Kind = "delivery"
    lost: bool = False
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def delivered_at(self) -> float | None:
        """When the receiver first confirmed the event; None: not yet."""
        return next((attempt.at for attempt in self.attempts if attempt.succeeded), None)

    def describe(self) -> dict[str, Any]:
        """Return the delivery as JSON."""
        return {
            "svix_id": self.svix_id,
            "number": self.event.number,
            "event_type": self.event.event_type,
            "happened_at": self.event.happened_at,
            "kind": self.kind,
            "lost": self.lost,
            "delivered_at": self.delivered_at,
            "statuses": [attempt.status for attempt in self.attempts],
        }


def sign(secret: str, svix_id: str, timestamp: int, body: bytes) -> str:
    """Return the header svix-signature of a message."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    content = f"{svix_id}.{timestamp}.".encode() + body
    return f"v1,{base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()}"


@dataclass(order=True, slots=True)
class _Task:
    """Requests that are due at the same time, in order of `due`, then of creation."""

    due: float
    number: int
    deliveries: list[Delivery] = field(compare=False)
    run: Callable[[], None] | None = field(default=None, compare=False)


class Webhooks:
    """Sends the events of one sandbox while the ``with`` block lasts.

    Attributes:
        url: where events are posted to.
        deliveries: the last 100,000 deliveries in the order of their events, lost ones included.
    """

    def __init__(
        self,
        url: str,
        faults: Faults,
        *,
        seed: int = 1,
        secret: str = WEBHOOK_SECRET,
        retry_seconds: Sequence[float] = RETRY_SECONDS,
    ) -> None:
        """Post to ``url``. ``seed`` decides ids and order."""
        self.url = url
        self.deliveries: deque[Delivery] = deque(maxlen=LOG_LENGTH)
        self._faults, self._secret, self._retry_seconds = faults, secret, retry_seconds
        self._rng = Random(f"{seed} webhooks")  # noqa: S311 - reproducible, no secrets
        self._changed = threading.Condition()
        self._tasks: list[_Task] = []
        self._held: list[Delivery] = []
        self._task_count = self._in_flight = 0
        self._stopped = False
        self._pool = urllib3.PoolManager(maxsize=SENDERS, block=True)
        self._thread = threading.Thread(target=self._run, name="webhooks", daemon=True)

    def __enter__(self) -> Self:
        """Start to send."""
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Stop. Events that are not sent yet are not sent any more."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join()
        self._pool.clear()

    def send(self, event: WebhookEvent) -> None:
        """Schedule an event. Returns at once."""
        faults = self._faults.match_event(event.event_type)
        with self._changed:
            delivery = Delivery(self._new_id(), event, lost="lost" in faults)
            self.deliveries.append(delivery)
            due = time.monotonic() + faults.get("delay_ms", 0) / 1000
            if not delivery.lost:
                self._schedule_first(delivery, due, faults)
            for kind in ("forged", "replayed"):
                if kind in faults:
                    svix_id = delivery.svix_id if kind == "replayed" else self._new_id()
                    extra = Delivery(svix_id, event, kind)
                    self.deliveries.append(extra)
                    self._schedule([extra], due)

    def describe(self) -> list[dict[str, Any]]:
        """Return the deliveries as JSON."""
        with self._changed:
            return [delivery.describe() for delivery in self.deliveries]

    def wait_for(self, condition: Callable[[], object], timeout: float = 30) -> bool:
        """Wait until ``condition`` holds, evaluated after each request. Return False after ``timeout`` seconds."""
        with self._changed:
            return bool(self._changed.wait_for(condition, timeout))

    def wait_until_sent(self, timeout: float = 30) -> bool:
        """Wait until no request is due or under way, retries included. Return False after ``timeout`` seconds."""
        return self.wait_for(lambda: not (self._tasks or self._held or self._in_flight), timeout)

    def _new_id(self) -> str:
        return "msg_" + "".join(self._rng.choices(ID_LETTERS, k=27))

    def _schedule_first(self, delivery: Delivery, due: float, faults: dict[str, Any]) -> None:
        """Schedule the first attempt: at once, or with others that are held back."""
        copies = [delivery] * faults.get("duplicated", 1)
        group = max(faults.get("disorder", 1), faults.get("burst", 1))
        if group == 1:
            self._schedule(copies, due, one_by_one=True)
            return
        if not self._held:
            self._schedule([], due + MAX_HOLD_SECONDS, run=lambda: self._release(burst=True))
        self._held += copies
        if len(self._held) >= group:
            self._release(burst="burst" in faults, shuffled="disorder" in faults)

    def _release(self, *, burst: bool, shuffled: bool = True) -> None:
        """Schedule the events that were held back."""
        held, self._held = self._held, []
        if shuffled:
            self._rng.shuffle(held)
        self._schedule(held, time.monotonic(), one_by_one=not burst)

    def _schedule(
        self,
        deliveries: Sequence[Delivery],
        due: float,
        *,
        one_by_one: bool = False,
        run: Callable[[], None] | None = None,
    ) -> None:
        for group in [[delivery] for delivery in deliveries] if one_by_one else [list(deliveries)]:
            heapq.heappush(self._tasks, _Task(due, self._task_count, group, run))
            self._task_count += 1
        self._changed.notify_all()

    def _run(self) -> None:
        """Send what is due until stopped: tasks one after the other, the requests of one task at the same time."""
        with ThreadPoolExecutor(SENDERS, "webhook") as pool:
            while (task := self._next_task()) is not None:
                if len(task.deliveries) == 1:
                    self._attempt(task.deliveries[0])
                else:
                    list(pool.map(self._attempt, task.deliveries))
                with self._changed:
                    if task.run is not None:
                        task.run()
                    self._in_flight -= 1
                    self._changed.notify_all()

    def _next_task(self) -> _Task | None:
        with self._changed:
            while not self._stopped:
                wait = self._tasks[0].due - time.monotonic() if self._tasks else None
                if wait is not None and wait <= 0:
                    self._in_flight += 1
                    return heapq.heappop(self._tasks)
                self._changed.wait(wait)
        return None

    def _attempt(self, delivery: Delivery) -> None:
        """Send one request. A delivery that was not confirmed is scheduled again."""
        at = time.time()
        status = self._post(delivery, at)
        with self._changed:
            delivery.attempts.append(Attempt(at, status))
            if delivery.kind == "delivery" and not delivery.attempts[-1].succeeded:
                failed = sum(not attempt.succeeded for attempt in delivery.attempts)
                if failed <= len(self._retry_seconds):
                    self._schedule([delivery], time.monotonic() + self._retry_seconds[failed - 1])

    def _post(self, delivery: Delivery, at: float) -> int | None:
        body = json.dumps(delivery.event.payload, ensure_ascii=False, separators=(",", ":")).encode()
        timestamp = int(at) - REPLAY_AGE_SECONDS * (delivery.kind == "replayed")
        secret = OTHER_SECRET if delivery.kind == "forged" else self._secret
        headers = {
            "content-type": "application/json",
            "user-agent": "Svix-Webhooks/1.0 (propel-assets sandbox)",
            "svix-id": delivery.svix_id,
            "svix-timestamp": str(timestamp),
            "svix-signature": sign(secret, delivery.svix_id, timestamp, body),
        }
        try:
            return self._pool.request(
                "POST", self.url, body=body, headers=headers, timeout=ATTEMPT_SECONDS, retries=False, redirect=False
            ).status
        except urllib3.exceptions.HTTPError:
            return None
