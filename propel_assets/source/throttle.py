"""When the next request may leave: one pause, one rate and one width for all workers.

PropelAuth publishes no rate limit. So nothing is held back until a request is refused; then the rate is what the
server has let through, and creeps up until the next refusal. `Pace` decides and knows no thread and no clock;
`Throttle` waits.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from math import inf


class Pace:
    """The decisions. Times are seconds of any clock that does not go back."""

    MEMORY_SECONDS = 120
    HORIZON_SECONDS = 10.0  # a rate is never measured over less
    AFTER_REFUSAL = 0.92  # of the rate before
    AGAIN_SOON = 0.7  # the same, when refused again within HORIZON_SECONDS
    GROWTH = 0.003  # a second, and faster the longer nothing is refused
    PATIENCE_SECONDS = 20.0
    BURST_SECONDS = 0.25  # of the rate may leave at once, after a pause
    LEAST_RATE = 0.2

    def __init__(self, max_width: int, max_rate: float, now: float) -> None:
        """Start as wide as allowed, at ``max_rate`` requests per second (0: unlimited)."""
        self._max_width = max_width
        self._width = float(max_width)
        self._ceiling = max_rate or inf
        self._rate = self._ceiling
        self._allowance = 1.0
        self._started = self._updated = self._resumed_at = now
        self._refused_at = self._pause_until = -inf
        self._probing = False
        self._answered: deque[list[float]] = deque(maxlen=self.MEMORY_SECONDS)  # [second, answers]
        self.in_flight = 0
        self.last_success = now

    def delay(self, now: float) -> float:
        """Return how long to wait before asking here again; 0.0: a request may leave now."""
        if now < self._pause_until:
            return self._pause_until - now
        if self.in_flight >= (1 if self._probing else int(self._width)):
            return 1.0
        if self._rate == inf or self._probing:
            return 0.0
        self._refill(now)
        return 0.0 if self._allowance >= 1 else (1 - self._allowance) / self._rate

    def _refill(self, now: float) -> None:
        elapsed, self._updated = now - self._updated, now
        growth = self.GROWTH * max(1.0, (now - self._resumed_at) / self.PATIENCE_SECONDS)
        self._rate = min(self._ceiling, self._rate * (1 + growth * elapsed))
        self._allowance = min(max(1.0, self._rate * self.BURST_SECONDS), self._allowance + elapsed * self._rate)

    def left(self) -> None:
        """Note that a request has left."""
        self._allowance -= 1
        self.in_flight += 1

    def came_back(self, now: float, sent_at: float, *, success: bool) -> None:
        """Note that it came back. The first success after a refusal ends it."""
        self.in_flight -= 1
        if not success:
            return
        self.last_success = now
        if self._answered and self._answered[-1][0] == int(now):
            self._answered[-1][1] += 1
        else:
            self._answered.append([int(now), 1])
        self._width = min(self._max_width, self._width + 0.1)
        if self._probing and sent_at > self._refused_at:
            self._resume(now)

    def _resume(self, now: float) -> None:
        """Go on more slowly than before, and not above what came through since the last time, refusals included."""
        since = max(self._started, now - self.MEMORY_SECONDS, min(self._resumed_at, now - self.HORIZON_SECONDS))
        answers = sum(count for second, count in self._answered if second >= int(since))
        soon = now - self._resumed_at < self.HORIZON_SECONDS
        slower = self._rate * (self.AGAIN_SOON if soon else self.AFTER_REFUSAL)
        self._rate = min(self._ceiling, max(self.LEAST_RATE, min(slower, answers / max(1.0, now - since))))
        self._probing = False
        self._resumed_at = self._updated = now
        self._allowance = 0.0

    def pause(self, now: float, seconds: float) -> None:
        """Let nothing leave for a while."""
        self._pause_until = max(self._pause_until, now + seconds)

    def refused(self, now: float, sent_at: float, pause_seconds: float) -> None:
        """Pause, then let one request at a time leave until one is answered."""
        self.pause(now, pause_seconds)
        if sent_at > self._refused_at:  # else it left before the last refusal was known: the same one
            self._refused_at = now
            if not self._probing:
                self._width = max(1.0, self._width / 2)
            self._probing = True


class Throttle:
    """Waits until a request may leave. Shared by all workers."""

    def __init__(self, max_width: int, max_rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Start as wide as allowed, at ``max_rate`` requests per second (0: unlimited)."""
        self._clock = clock
        self._condition = threading.Condition()
        self._pace = Pace(max_width, max_rate, clock())
        self.peak = 0
        self.stopped = False

    @property
    def last_success(self) -> float:
        """When the last request was answered."""
        return self._pace.last_success

    def enter(self) -> float:
        """Wait for a place; return the seconds waited."""
        started = self._clock()
        with self._condition:
            while (delay := self._pace.delay(self._clock())) > 0 and not self.stopped:
                self._condition.wait(delay)
            self._pace.left()
            self.peak = max(self.peak, self._pace.in_flight)
        return self._clock() - started

    def leave(self, sent_at: float, *, success: bool) -> None:
        """Give the place back."""
        with self._condition:
            self._pace.came_back(self._clock(), sent_at, success=success)
            self._condition.notify_all()  # the end of a refusal opens more than one place

    def slow_down(self, sent_at: float, pause_seconds: float, *, limited: bool) -> None:
        """Pause everybody; when ``limited``, also slow down."""
        with self._condition:
            if limited:
                self._pace.refused(self._clock(), sent_at, pause_seconds)
            else:
                self._pace.pause(self._clock(), pause_seconds)

    def wait(self, seconds: float) -> None:
        """Let one worker wait; `stop` ends it."""
        until = self._clock() + seconds
        with self._condition:
            while (left := until - self._clock()) > 0 and not self.stopped:
                self._condition.wait(left)

    def stop(self, stopped: bool) -> None:
        """End every wait: somebody has failed for good."""
        with self._condition:
            self.stopped = stopped
            self._condition.notify_all()
