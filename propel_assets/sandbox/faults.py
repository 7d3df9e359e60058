"""The faults of one sandbox: which are on, and which affect a request or a webhook event.

A fault has a value and four limits: ``path`` (only paths that start with it), ``after`` (not the next n requests),
``requests`` (then only n), ``share`` (only this share of requests, drawn from the seed). Which faults affect a request
is decided once, when it arrives; for a webhook, when the event happens. ``switches.py`` has their names and allowed
values. Their effects are in ``interference.py`` (the response as a whole, features), ``running.py`` (users),
``pages.py`` and ``calls.py`` (fields) and ``webhooks.py``.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict
from random import Random
from threading import Lock
from typing import Any

from propel_assets.sandbox.switches import Fault, parse_json, parse_option, read_switch

WEBHOOK_PREFIX = "webhook_"
ActiveFaults = Mapping[str, Any]
"""The value of every switch that affects a request, by name."""


class TokenBucket:
    """A rate limit: at most one second of tokens, at least one token; full at first."""

    def __init__(self, rate: float) -> None:
        """Refill at ``rate`` tokens a second."""
        self._rate = rate
        self._tokens = self._full = max(1.0, rate)
        self._refilled_at = time.monotonic()

    def take(self) -> float:
        """Take a token and return 0.0, or return the seconds until the next token."""
        now = time.monotonic()
        self._tokens = min(self._full, self._tokens + (now - self._refilled_at) * self._rate)
        self._refilled_at = now
        if self._tokens < 1:
            return (1 - self._tokens) / self._rate
        self._tokens -= 1
        return 0.0


class Faults:
    """The switches of one sandbox. Can be used from any thread while it responds.

    Attributes:
        hits: how many requests or events each switch has affected; ``rate_limit``: how many it refused.
    """

    def __init__(self, seed: int) -> None:
        """Start with every switch off."""
        self._lock = Lock()
        self._rng = Random(f"{seed} faults")  # noqa: S311 - reproducible, no secrets
        self._on: dict[str, Fault] = {}
        self._counts: dict[str, int] = {}
        self.hits: Counter[str] = Counter()
        self._bucket = TokenBucket(1)

    def set(self, name: str, value: Any = True, **limits: Any) -> None:
        """Turn ``name`` on. True means the default value; False and None turn it off.

        Raises:
            ValueError: see ``switches.read_switch``.
        """
        self._apply({name: read_switch(name, value, limits)})

    def clear(self, *names: str) -> None:
        """Turn these off; all of them when none is named."""
        with self._lock:
            for name in names or list(self._on):
                self._on.pop(name, None)

    def parse(self, option: str) -> None:
        """Turn on the fault of a command-line option; see ``switches.parse_option``."""
        self._apply(dict([parse_option(option)]))

    def update(self, switches: Any) -> None:
        """Set switches from JSON, all of them or, when one is not allowed, none; see ``switches.parse_json``."""
        self._apply(parse_json(switches))

    def _apply(self, switches: Mapping[str, Fault | None]) -> None:
        with self._lock:
            for name, fault in switches.items():
                if fault is None:
                    self._on.pop(name, None)
                    continue
                self._on[name] = fault
                self._counts[name] = 0
                if name == "rate_limit":
                    self._bucket = TokenBucket(fault.value)

    def describe(self) -> dict[str, Any]:
        """Return the switches that are on, with value and limits."""
        with self._lock:
            return {name: asdict(fault) for name, fault in self._on.items()}

    def match_request(self, path: str) -> dict[str, Any]:
        """Return the value of every switch that affects a request to ``path``, and count it."""
        return self._match(path, lambda name: not name.startswith(WEBHOOK_PREFIX))

    def match_event(self, event_type: str) -> dict[str, Any]:
        """Return the value of every switch that affects a webhook event, by name without its prefix, and count it."""
        active = self._match(f"/webhooks/{event_type}", lambda name: name.startswith(WEBHOOK_PREFIX))
        return {name.removeprefix(WEBHOOK_PREFIX): value for name, value in active.items()}

    def _match(self, path: str, concerns: Callable[[str], bool]) -> dict[str, Any]:
        active = {}
        with self._lock:
            for name, fault in list(self._on.items()):
                if not concerns(name) or not path.startswith(fault.path):
                    continue
                if fault.after:
                    fault.after -= 1
                    continue
                if self._rng.random() >= fault.share:
                    continue
                if name.endswith("_every"):
                    self._counts[name] += 1
                    if self._counts[name] % fault.value:
                        continue
                active[name] = fault.value
                self.hits[name] += name != "rate_limit"
                if fault.requests is not None:
                    fault.requests -= 1
                    if fault.requests == 0:
                        del self._on[name]
        return active

    def take_token(self) -> float:
        """Take a token of the rate limit's bucket; return as ``TokenBucket.take`` does."""
        with self._lock:
            wait = self._bucket.take()
            self.hits["rate_limit"] += wait > 0
            return wait
