"""Throttling against simulated rate limits, on a simulated clock: the share of the limit used and of requests refused.

Run with -rP to print both.
"""

import heapq
import itertools
import math
import threading
from collections import deque
from dataclasses import dataclass
from random import Random

import pytest

from propel_assets.source.throttle import RateController, Throttle


class Bucket:
    """Holds ``burst`` requests, and gets ``rate`` more a second."""

    def __init__(self, rate: float, burst: float) -> None:
        self.rate, self.burst, self.held, self.filled = rate, burst, burst, 0.0

    def take(self, now: float) -> float:
        """Return 0.0, or the seconds until there is room."""
        self.held = min(self.burst, self.held + (now - self.filled) * self.rate)
        self.filled = now
        if self.held < 1:
            return (1 - self.held) / self.rate
        self.held -= 1
        return 0.0


class FixedWindow:
    """Lets so many through in each span of the clock."""

    def __init__(self, rate: float, seconds: float) -> None:
        self.limit, self.seconds, self.window, self.used = round(rate * seconds), seconds, -1, 0

    def take(self, now: float) -> float:
        """Return 0.0, or the seconds until there is room."""
        window = int(now // self.seconds)
        if window != self.window:
            self.window, self.used = window, 0
        if self.used >= self.limit:
            return (window + 1) * self.seconds - now
        self.used += 1
        return 0.0


class SlidingWindow:
    """Lets so many through in any span."""

    def __init__(self, rate: float, seconds: float) -> None:
        self.limit, self.seconds = round(rate * seconds), seconds
        self.taken: deque[float] = deque()

    def take(self, now: float) -> float:
        """Return 0.0, or the seconds until there is room."""
        while self.taken and self.taken[0] <= now - self.seconds:
            self.taken.popleft()
        if len(self.taken) >= self.limit:
            return self.taken[0] + self.seconds - now
        self.taken.append(now)
        return 0.0


LIMITS = {
    "bucket of a second": lambda rate: Bucket(rate, rate),
    "bucket of ten seconds": lambda rate: Bucket(rate, 10 * rate),
    "window of ten seconds": lambda rate: FixedWindow(rate, 10),
    "window of a minute": lambda rate: FixedWindow(rate, 60),
}
STRICT = {
    "bucket of one": lambda rate: Bucket(rate, 1),
    "window of a second": lambda rate: FixedWindow(rate, 1),
    "sliding second": lambda rate: SlidingWindow(rate, 1),
    "sliding minute": lambda rate: SlidingWindow(rate, 60),
}


@dataclass
class Simulated:
    """What came of ten minutes, as shares of what the limit allows, and of what was sent."""

    used: float
    refused: float
    most_in_flight: int


def simulate(
    limit: Bucket | FixedWindow | SlidingWindow,
    rate: float,
    *,
    workers: int,
    latency: float,
    retry_after: bool,
    max_rate: float = 0,
    seconds: float = 600,
) -> Simulated:
    """Let ``workers`` send requests without end; ``retry_after``: a refusal has that header, in whole seconds."""
    rng, serial, pace = Random(1), itertools.count(), RateController(workers, max_rate, 1000.0)
    waiting, wake_at = workers, 1000.0
    queue: list[tuple] = [(wake_at, next(serial), "wake", 0.0, 0.0)]
    answered = refused = most = 0
    while True:
        now, _, step, sent_at, wait = heapq.heappop(queue)
        if now > 1000 + seconds:
            return Simulated(answered / seconds / rate, refused / (answered + refused), most)
        if step == "arrive":
            back = now + latency / 2 * rng.uniform(0.5, 1.5)
            heapq.heappush(queue, (back, next(serial), "return", sent_at, limit.take(now)))
            continue
        if step == "return":
            pace.end_request(now, sent_at, success=not wait)
            answered, refused = answered + (not wait), refused + bool(wait)
            if wait:
                pace.refuse(now, sent_at, math.ceil(wait) if retry_after else 0.0)
            waiting += 1
        elif now != wake_at:
            continue  # a response has woken the workers since, and they wait for another time
        delay = 0.0
        while waiting and (delay := pace.delay(now)) == 0:
            pace.start_request()
            waiting, most = waiting - 1, max(most, pace.in_flight)
            there = now + latency / 2 * rng.uniform(0.5, 1.5)
            heapq.heappush(queue, (there, next(serial), "arrive", now, 0.0))
        if waiting:  # all for the same time, or the next response, as `Throttle` does
            wake_at = now + max(1e-4, delay)
            heapq.heappush(queue, (wake_at, next(serial), "wake", 0.0, 0.0))


@pytest.mark.parametrize("retry_after", [False, True], ids=["no header", "Retry-After"])
@pytest.mark.parametrize(("rate", "workers", "latency"), [(2, 8, 0.05), (10, 8, 0.05), (10, 8, 0.3), (50, 8, 0.05)])
@pytest.mark.parametrize("limit", list(LIMITS))
def test_nine_tenths_of_the_allowed_rate_are_used(limit, rate, workers, latency, retry_after) -> None:
    result = simulate(LIMITS[limit](rate), rate, workers=workers, latency=latency, retry_after=retry_after)
    print(f"{limit}, {rate}/s: {result.used:.0%} used, {result.refused:.1%} refused")
    assert result.used >= 0.9
    assert result.refused <= 0.06


@pytest.mark.parametrize("retry_after", [False, True], ids=["no header", "Retry-After"])
@pytest.mark.parametrize("rate", [2, 10])
@pytest.mark.parametrize("limit", list(STRICT))
def test_a_limit_that_allows_no_unevenness_does_not_bring_it_down(limit, rate, retry_after) -> None:
    result = simulate(STRICT[limit](rate), rate, workers=8, latency=0.05, retry_after=retry_after)
    print(f"{limit}, {rate}/s: {result.used:.0%} used, {result.refused:.1%} refused")
    assert result.used >= 0.5
    assert result.refused <= 0.2


def test_nothing_is_held_back_without_a_limit() -> None:
    result = simulate(Bucket(1e9, 1e9), 160, workers=8, latency=0.05, retry_after=False, seconds=60)
    assert result.used >= 0.95
    assert (result.refused, result.most_in_flight) == (0.0, 8)


def test_a_rate_set_by_hand_is_kept() -> None:
    result = simulate(Bucket(50, 50), 5, workers=8, latency=0.05, retry_after=False, max_rate=5)
    assert 0.95 <= result.used <= 1.01
    assert result.refused == 0.0


def test_only_one_request_at_a_time_feels_its_way_after_a_refusal() -> None:
    pace = RateController(8, 0, 0.0)
    for _ in range(8):
        assert pace.delay(0.0) == 0.0
        pace.start_request()
    for _ in range(8):
        pace.end_request(0.1, 0.0, success=False)
        pace.refuse(0.1, 0.0, 2.0)
    assert pace.delay(0.2) == pytest.approx(1.9)
    assert pace.delay(2.1) == 0.0
    pace.start_request()
    assert pace.delay(2.1) > 0
    pace.end_request(2.2, 2.1, success=True)
    assert pace.in_flight == 0


def test_a_success_that_had_left_before_the_refusal_does_not_end_it() -> None:
    pace = RateController(8, 0, 0.0)
    pace.start_request()
    pace.start_request()
    pace.end_request(0.2, 0.1, success=False)
    pace.refuse(0.2, 0.1, 0.0)
    pace.end_request(0.3, 0.05, success=True)
    pace.start_request()
    assert pace.delay(0.4) > 0


def test_the_throttle_waits_by_the_clock_it_is_given() -> None:
    now = 50.0
    throttle = Throttle(2, 0, clock=lambda: now)
    assert throttle.start_request() == 0.0
    assert throttle.start_request() == 0.0
    assert throttle.peak_concurrency == 2
    waiting = threading.Thread(target=throttle.start_request, daemon=True)
    waiting.start()
    throttle.end_request(50.0, success=True)
    waiting.join(5)
    assert not waiting.is_alive()
    assert (throttle.peak_concurrency, throttle.last_success) == (2, 50.0)
