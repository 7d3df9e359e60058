"""Client-side throttling: one shared pause, request rate and concurrency limit for all worker threads.

PropelAuth publishes no rate limit, so without `max_rate` requests are not limited until one is refused with 429. After
a refusal, the rate is set to what the server has accepted, and grows until the next refusal. `RateController` computes
delays and uses neither threads nor a clock; `Throttle` waits.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from math import inf


class RateController:
    """Computes when requests may be sent. Times are seconds of any monotonic clock."""

    WINDOW_SECONDS = 120
    """How long successful responses are counted."""
    MIN_WINDOW_SECONDS = 10.0
    """The shortest period over which a rate is measured."""
    REFUSED_FACTOR = 0.92
    """The rate is multiplied by this after a refusal."""
    REFUSED_AGAIN_FACTOR = 0.7
    """The same, for a refusal within `MIN_WINDOW_SECONDS` of the last one."""
    GROWTH_PER_SECOND = 0.003
    """Relative growth of the rate. After `ACCELERATION_SECONDS` without a refusal it is proportional to that time."""
    ACCELERATION_SECONDS = 20.0
    BURST_SECONDS = 0.25
    """After a pause, requests worth this much time may be sent at once."""
    MIN_RATE = 0.2
    MIN_BACKOFF_SECONDS = 0.25
    """The pause after a refusal; doubled for each consecutive one. A longer `Retry-After` takes precedence."""
    MAX_BACKOFF_SECONDS = 4.0
    """The longest pause without a longer `Retry-After`."""

    def __init__(self, max_concurrency: int, max_rate: float, now: float) -> None:
        """Start at full concurrency and ``max_rate`` requests per second (0: unlimited)."""
        self._max_concurrency = max_concurrency
        self._concurrency = float(max_concurrency)
        self._max_rate = max_rate or inf
        self._rate = self._max_rate
        self._tokens = 1.0
        self._started = self._updated = self._resumed_at = now
        self._refused_at = self._pause_until = -inf
        self._refusals = 0  # consecutive ones
        self._successes: deque[list[float]] = deque(maxlen=self.WINDOW_SECONDS)  # [second, number of responses]
        self.in_flight = 0
        self.last_success = now

    @property
    def _is_probing(self) -> bool:
        """Whether requests are sent one at a time, because none has succeeded since the last refusal."""
        return self._refusals > 0

    def delay(self, now: float) -> float:
        """Return the seconds until `delay` should be called again; 0.0 if a request may be sent now."""
        if now < self._pause_until:
            return self._pause_until - now
        if self.in_flight >= (1 if self._is_probing else int(self._concurrency)):
            return 1.0
        if self._rate == inf or self._is_probing:
            return 0.0
        self._refill(now)
        return 0.0 if self._tokens >= 1 else (1 - self._tokens) / self._rate

    def _refill(self, now: float) -> None:
        elapsed, self._updated = now - self._updated, now
        growth = self.GROWTH_PER_SECOND * max(1.0, (now - self._resumed_at) / self.ACCELERATION_SECONDS)
        self._rate = min(self._max_rate, self._rate * (1 + growth * elapsed))
        self._tokens = min(max(1.0, self._rate * self.BURST_SECONDS), self._tokens + elapsed * self._rate)

    def start_request(self) -> None:
        """Count a request as in flight."""
        self._tokens -= 1
        self.in_flight += 1

    def end_request(self, now: float, sent_at: float, *, success: bool) -> None:
        """Count a request as finished. The first success after a refusal ends the refusal."""
        self.in_flight -= 1
        if not success:
            return
        self.last_success = now
        if self._successes and self._successes[-1][0] == int(now):
            self._successes[-1][1] += 1
        else:
            self._successes.append([int(now), 1])
        self._concurrency = min(self._max_concurrency, self._concurrency + 0.1)
        if self._is_probing and sent_at > self._refused_at:
            self._resume(now)

    def _resume(self, now: float) -> None:
        """Lower the rate to below the previous one and to at most the rate of successes since the last resume."""
        since = max(self._started, now - self.WINDOW_SECONDS, min(self._resumed_at, now - self.MIN_WINDOW_SECONDS))
        successes = sum(count for second, count in self._successes if second >= int(since))
        again = now - self._resumed_at < self.MIN_WINDOW_SECONDS
        reduced = self._rate * (self.REFUSED_AGAIN_FACTOR if again else self.REFUSED_FACTOR)
        self._rate = min(self._max_rate, max(self.MIN_RATE, min(reduced, successes / max(1.0, now - since))))
        self._refusals = 0
        self._resumed_at = self._updated = now
        self._tokens = 0.0

    def pause(self, now: float, seconds: float) -> None:
        """Send no request for ``seconds``."""
        self._pause_until = max(self._pause_until, now + seconds)

    def refuse(self, now: float, sent_at: float, requested_seconds: float) -> None:
        """Pause, then send one request at a time until one succeeds.

        The pause is ``requested_seconds`` or the minimum backoff, whichever is longer.
        """
        if sent_at > self._refused_at:  # otherwise the request was sent before the previous refusal was known
            self._refused_at = now
            if not self._is_probing:
                self._concurrency = max(1.0, self._concurrency / 2)
            self._refusals += 1
        backoff = min(self.MAX_BACKOFF_SECONDS, self.MIN_BACKOFF_SECONDS * 2 ** (self._refusals - 1))
        self.pause(now, max(requested_seconds, backoff))


class Throttle:
    """Waits until a request may be sent. Shared by all worker threads."""

    def __init__(self, max_concurrency: int, max_rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Start at full concurrency and ``max_rate`` requests per second (0: unlimited)."""
        self._clock = clock
        self._condition = threading.Condition()
        self._controller = RateController(max_concurrency, max_rate, clock())
        self.peak_concurrency = 0
        self.stopped = False

    @property
    def last_success(self) -> float:
        """The time of the last successful response."""
        return self._controller.last_success

    def start_request(self) -> float:
        """Wait until a request may be sent; return the seconds waited."""
        started = self._clock()
        with self._condition:
            while (delay := self._controller.delay(self._clock())) > 0 and not self.stopped:
                self._condition.wait(delay)
            self._controller.start_request()
            self.peak_concurrency = max(self.peak_concurrency, self._controller.in_flight)
        return self._clock() - started

    def end_request(self, sent_at: float, *, success: bool) -> None:
        """Count a request as finished, and wake the threads that wait."""
        with self._condition:
            self._controller.end_request(self._clock(), sent_at, success=success)
            self._condition.notify_all()  # the end of a refusal admits more than one request

    def pause(self, seconds: float) -> None:
        """Pause all workers."""
        with self._condition:
            self._controller.pause(self._clock(), seconds)

    def refuse(self, sent_at: float, requested_seconds: float) -> None:
        """Pause all workers after a 429, and halve the concurrency. The rate is lowered at the next success."""
        with self._condition:
            self._controller.refuse(self._clock(), sent_at, requested_seconds)

    def wait(self, seconds: float) -> None:
        """Pause the calling worker; `set_stopped` ends the wait."""
        until = self._clock() + seconds
        with self._condition:
            while (left := until - self._clock()) > 0 and not self.stopped:
                self._condition.wait(left)

    def set_stopped(self, stopped: bool) -> None:
        """While set, end every wait at once: a worker has failed permanently."""
        with self._condition:
            self.stopped = stopped
            self._condition.notify_all()
