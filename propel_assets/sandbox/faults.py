"""Everything that can go wrong, as switches.

A switch has a name, a value, and four limits: ``path`` (only paths that begin so), ``after`` (not the
next so many requests), ``requests`` (then only so many), ``share`` (only this share of requests, drawn
from the seed). Which switches strike a request is decided once, when it comes in. What a strike does is
in ``interference.py`` (the answer as a whole, features), ``running.py`` (people), ``pages.py`` and
``calls.py`` (fields).
"""

import json
import re
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from random import Random
from threading import Lock
from typing import Any

SWITCHES = {
    # the answer as a whole
    "latency_ms": "wait so long before answering",
    "rate_limit": "requests a second (token bucket, at least one in it), else 429",
    "retry_after": "on 429 and 503: 'seconds', 'date' or 'none' (default)",
    "server_error": "answer with this status (default 500)",
    "reset": "reset the TCP connection instead of answering",
    "truncated": "announce the whole body, send half of it, close",
    "slow_body_ms": "spread the body over so long",
    "html": "answer with an HTML page and this status (default 200)",
    "wrong_json": "answer 200 with this JSON value (default a list) instead of the object",
    "redirect": "answer 302 to this base URL (default http://elsewhere.example)",
    "key_revoked": "answer 401 to every key",
    # features that are off: the status to answer with
    "orgs_off": "default 426; users then come without org_id_to_org_info",
    "include_orgs_off": "default 426: refuse include_orgs=true",
    "insights_off": "default 403",
    "api_keys_off": "default 403",
    "scim_off": "default 403",
    # pages
    "page_size_cap": "the largest page_size honoured (100 when off)",
    "page_size_refused": "answer 400 above the cap instead of clamping",
    "repeated_page": "this page_number has the content of the next page",
    "shuffled_ties": "users and orgs of the same second change places at each request",
    # people
    "delete_every": "delete a user at every so many requests",
    "signup_every": "sign up a user at every so many requests",
    "insert_every": "add a user as old as one of the oldest tenth at every so many requests",
    # fields, given as 'users.email', 'orgs.name', 'memberships.user_role', or a list of such
    "unknown_field": "add a scalar and an object to 'users', 'orgs', 'memberships' (default: all)",
    "missing_field": "leave this field out",
    "retyped_field": "send this field as a value of another type",
}
DEFAULTS: dict[str, Any] = {
    "server_error": 500,
    "html": 200,
    "wrong_json": [],
    "redirect": "http://elsewhere.example",
    "orgs_off": 426,
    "include_orgs_off": 426,
    "insights_off": 403,
    "api_keys_off": 403,
    "scim_off": 403,
    "unknown_field": ["users", "orgs", "memberships"],
}
# switches whose value is a number, and the smallest one that makes sense
NUMBERS = {
    "latency_ms": 0,
    "rate_limit": 1e-9,
    "slow_body_ms": 0,
    "page_size_cap": 1,
    "repeated_page": 0,
    "delete_every": 1,
    "signup_every": 1,
    "insert_every": 1,
    **dict.fromkeys(("server_error", "html"), 200),
    **dict.fromkeys(("orgs_off", "include_orgs_off"), 400),
    **dict.fromkeys(("insights_off", "api_keys_off", "scim_off"), 400),
}

Struck = Mapping[str, Any]
"""The value of every switch that strikes a request, by name."""


@dataclass(slots=True)
class Fault:
    """One switch that is on."""

    value: Any
    requests: int | None = None
    path: str = ""
    share: float = 1.0
    after: int = 0


class TokenBucket:
    """A rate limit: holds a second's worth of tokens, at least one; full at first."""

    def __init__(self, rate: float) -> None:
        """Refill at ``rate`` tokens a second."""
        self._rate = rate
        self._tokens = self._full = max(1.0, rate)
        self._refilled_at = time.monotonic()

    def take(self) -> float:
        """Take a token and return 0.0, or return the seconds until there is one."""
        now = time.monotonic()
        self._tokens = min(self._full, self._tokens + (now - self._refilled_at) * self._rate)
        self._refilled_at = now
        if self._tokens < 1:
            return (1 - self._tokens) / self._rate
        self._tokens -= 1
        return 0.0


class Faults:
    """The switches of one sandbox. Safe to use from any thread while it answers.

    Attributes:
        struck: how many requests each switch has struck; ``rate_limit``: how many it refused.
    """

    def __init__(self, seed: int) -> None:
        """Start with every switch off."""
        self._lock = Lock()
        self._rng = Random(f"{seed} faults")  # noqa: S311 - reproducible, no secrets
        self._on: dict[str, Fault] = {}
        self._counts: dict[str, int] = {}
        self.struck: Counter[str] = Counter()
        self._bucket = TokenBucket(1)

    def set(
        self,
        name: str,
        value: Any = True,
        *,
        requests: int | None = None,
        path: str = "",
        share: float = 1.0,
        after: int = 0,
    ) -> None:
        """Switch ``name`` on. True stands for its default value.

        Raises:
            ValueError: no switch has this name, or its value has to be a number and is not.
        """
        if name not in SWITCHES:
            raise ValueError(f"no fault is named {name!r}; there are: {', '.join(SWITCHES)}")
        value = DEFAULTS.get(name, value) if value is True else value
        if name in NUMBERS and (type(value) not in (int, float) or value < NUMBERS[name]):
            raise ValueError(f"fault {name} needs a number from {NUMBERS[name]}, not {value!r}")
        with self._lock:
            self._on[name] = Fault(value, requests, path, share, after)
            self._counts[name] = 0
            if name == "rate_limit":
                self._bucket = TokenBucket(value)

    def clear(self, *names: str) -> None:
        """Switch these off; all of them when none is named."""
        with self._lock:
            for name in names or list(self._on):
                self._on.pop(name, None)

    def parse(self, option: str) -> None:
        """Switch on what a command line says: ``NAME[=VALUE][,path=P][,after=N][,requests=N][,share=S]``.

        Values are JSON where they can be, otherwise text.

        Raises:
            ValueError: no switch has this name, or a limit is none of the four.
        """
        first, *limits = re.split(r",(?=[a-z]+=)", option)
        name, _, value = first.partition("=")
        known = {"path": str, "after": int, "requests": int, "share": float}
        limited = {}
        for limit in limits:
            key, _, given = limit.partition("=")
            if key not in known:
                raise ValueError(f"{option!r}: a fault is limited by {', '.join(known)}")
            limited[key] = known[key](given)
        self.set(name, _json_or_text(value) if value else True, **limited)

    def update(self, switches: Mapping[str, Any]) -> None:
        """Set switches from JSON: name to value, to ``{"value": …, "requests": …}``, or to null.

        Raises:
            ValueError: no switch has this name, or a limit is none of the four.
        """
        for name, given in switches.items():
            if given is None or given is False:
                self.clear(name)
            elif isinstance(given, dict):
                if unknown := set(given) - {"value", "path", "after", "requests", "share"}:
                    raise ValueError(f"{name}: unknown {', '.join(sorted(unknown))}")
                self.set(name, given.get("value", True), **_limits(given))
            else:
                self.set(name, given)

    def describe(self) -> dict[str, Any]:
        """Return the switches that are on, with value and limits."""
        with self._lock:
            return {name: asdict(fault) for name, fault in self._on.items()}

    def strike(self, path: str) -> dict[str, Any]:
        """Return the value of every switch that strikes a request to ``path``, and count it."""
        struck = {}
        with self._lock:
            for name, fault in list(self._on.items()):
                if not path.startswith(fault.path):
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
                struck[name] = fault.value
                self.struck[name] += name != "rate_limit"
                if fault.requests is not None:
                    fault.requests -= 1
                    if fault.requests == 0:
                        del self._on[name]
        return struck

    def take_token(self) -> float:
        """Take a token of the rate limit's bucket; return as ``TokenBucket.take`` does."""
        with self._lock:
            wait = self._bucket.take()
            self.struck["rate_limit"] += wait > 0
            return wait


def _limits(given: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in given.items() if key != "value"}


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value
