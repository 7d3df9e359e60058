"""Every order of answers, every change in between: the real `Scan` against a model of the server.

The model answers as an honest server does, at one moment per answer, while an adversary deletes, signs up and swaps
rows of the same second between any two answers. Answers arrive in any order. Run with -rP to see the shares.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from propel_assets.source.scan import MAX_TAIL_PAGES, MAX_WINDOW_TRIES, Order, Page, Request, Scan

Row = tuple[int, int]
ORDER = Order(key=lambda row: row[0], value=lambda row: row[1])
NO_ORDER = Order(key=lambda row: row[0])
INTERLEAVINGS = 6_000


class Server:
    """A list in order of `created_at`, and who changes it."""

    def __init__(self, rng: Random, length: int, ties: float) -> None:
        self.rng, self.ties = rng, ties
        self.rows: list[Row] = []
        self.clock = self.born = 0
        self.append(length)

    def append(self, count: int) -> None:
        for _ in range(count):
            self.clock += self.rng.random() >= self.ties
            self.rows.append((self.born, self.clock))
            self.born += 1

    def delete(self, count: int, start: int) -> None:
        del self.rows[start : start + count]

    def swap_ties(self) -> None:
        """Put rows of the same second in another order; rows of different seconds stay where they are."""
        draw = {row: self.rng.random() for row in self.rows}
        self.rows.sort(key=lambda row: (row[1], draw[row]))

    def answer(self, request: Request) -> Page:
        first = request.number * request.size
        rows = self.rows[first : first + request.size]
        return Page(rows, request.number, request.size, len(self.rows), first + request.size < len(self.rows))


@dataclass
class Adversary:
    """What happens between two answers, each with its own likelihood."""

    delete: float = 0.0
    burst: float = 0.0
    append: float = 0.0
    swap: float = 0.0
    many: bool = True

    def act(self, server: Server, rng: Random, page_size: int) -> None:
        if server.rows and rng.random() < self.delete:
            # anywhere, or at the very left, where one deletion moves everybody
            server.delete(1, rng.choice([0, rng.randrange(len(server.rows))]))
        if server.rows and rng.random() < self.burst:
            server.delete(rng.randint(page_size, 3 * page_size), rng.choice([0, rng.randrange(len(server.rows))]))
        if rng.random() < self.append:
            server.append(rng.choice([1, 1, 1, page_size + 1 if self.many else 1]))
        if rng.random() < self.swap:
            server.swap_ties()


@dataclass
class Outcome:
    """How one pass went."""

    scan: Any
    returned: list[Row]
    lost: set[Row]
    requests: int


def play(
    scan: Any, server: Any, rng: Random, *, page_size: int, workers: int, adversary: Adversary | None = None
) -> Outcome:
    """Play one pass: answers are made, and arrive, in any order; the adversary acts before each is made."""
    there = set(server.rows)
    asked: list[Request] = []
    arriving: list[tuple[Request, Page]] = []
    returned: list[Row] = []
    requests = 0
    at_last = there
    pages = len(server.rows) // page_size + MAX_TAIL_PAGES
    limit = (workers + 3) * (pages + 10) + MAX_WINDOW_TRIES * pages
    while not scan.done:
        new = scan.wanted()
        asked += new
        requests += len(new)
        assert requests <= limit, "the scan does not end"
        assert asked or arriving, "the scan waits for nothing"
        if asked and (not arriving or (len(arriving) < workers and rng.random() < 0.6)):
            request = asked.pop(rng.randrange(min(workers, len(asked))))
            if adversary and requests > 1:
                adversary.act(server, rng, page_size)
            arriving.append((request, server.answer(request)))
            at_last = set(server.rows)
        else:
            returned += scan.receive(*arriving.pop(rng.randrange(len(arriving))))
    return Outcome(scan, returned, (there & at_last) - set(returned), requests)


def any_adversary(rng: Random) -> Adversary:
    strength = rng.choice([0.02, 0.1, 0.5])
    likely = [rng.choice([0.0, strength]) for _ in range(4)]
    return Adversary(likely[0], likely[1] / 4, likely[2], likely[3])


def any_pass(rng: Random, scanner: Callable[..., Any] = Scan) -> Outcome:
    page_size, workers = rng.choice([1, 2, 3, 5, 8, 13, 20]), rng.randint(1, 12)
    length = rng.randint(0, page_size * rng.choice([1, 4, 20, 60]))
    server = Server(rng, length, rng.choice([0.0, 0.1, 0.5, 0.9]))
    scan = scanner(ORDER, page_size, workers)
    return play(scan, server, rng, page_size=page_size, workers=workers, adversary=any_adversary(rng))


# The claims


def assert_sound(outcome: Outcome) -> None:
    assert len(outcome.returned) == len(set(outcome.returned)), "a row came twice"
    assert {row[0] for row in outcome.returned} == outcome.scan.seen
    if outcome.scan.verdict == "proved":
        assert not outcome.lost, f"claims to be complete and lost {sorted(outcome.lost)}"


def test_a_proved_pass_has_lost_nobody_in_thousands_of_interleavings() -> None:
    verdicts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    losing = 0
    for seed in range(INTERLEAVINGS):
        outcome = any_pass(Random(seed))
        try:
            assert_sound(outcome)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from None
        verdicts[outcome.scan.verdict] += 1
        losing += bool(outcome.lost)
        reasons.update({"".join(c for c in reason if not c.isdigit()) for reason in outcome.scan.reasons})
    print(f"{verdicts['unproved'] / INTERLEAVINGS:.2%} of {INTERLEAVINGS} passes unproved; {losing} of them lost rows")
    for reason, count in reasons.most_common():
        print(f"{count:6} {reason}")
    assert verdicts["proved"] > 0.8 * INTERLEAVINGS


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(
    rng=st.randoms(use_true_random=False),
    page_size=st.integers(1, 20),
    workers=st.integers(1, 12),
    pages=st.integers(0, 30),
    ties=st.sampled_from([0.0, 0.3, 0.9]),
    adversary=st.builds(Adversary, *[st.sampled_from([0.0, 0.1, 0.5])] * 4),
)
def test_a_proved_pass_has_lost_nobody(rng, page_size, workers, pages, ties, adversary) -> None:
    own = Random(rng.getrandbits(32))  # hypothesis's is slow to draw from
    server = Server(own, max(0, page_size * pages - own.randrange(page_size)), ties)
    scan = Scan(ORDER, page_size, workers)
    assert_sound(play(scan, server, own, page_size=page_size, workers=workers, adversary=adversary))


@pytest.mark.parametrize("workers", [1, 3, 12])
@pytest.mark.parametrize("length", [0, 1, 9, 10, 11, 100, 399, 400, 401, 1000])
def test_a_list_at_rest_is_proved_at_almost_no_extra_cost(length, workers) -> None:
    rng = Random(length)
    outcome = play(Scan(ORDER, 10, workers), Server(rng, length, 0.0), rng, page_size=10, workers=workers)
    assert (outcome.scan.verdict, len(outcome.returned)) == ("proved", length)
    assert outcome.requests <= -(-length // 10) + 3 + 2 * workers


@pytest.mark.parametrize("ties", [0.0, 0.5])
def test_a_quietly_changing_list_is_nearly_always_proved(ties) -> None:
    verdicts: Counter[str] = Counter()
    for seed in range(300):
        rng = Random(seed)
        adversary = Adversary(delete=0.02, append=0.02, swap=0.05)
        scan, server = Scan(ORDER, 20, 8), Server(rng, 1500, ties)
        verdicts[play(scan, server, rng, page_size=20, workers=8, adversary=adversary).scan.verdict] += 1
    print(f"quiet list, ties {ties}: {verdicts['unproved'] / 300:.2%} unproved")
    assert verdicts["unproved"] <= 15


# Tests of the test: these scanners are wrong, and it finds out


class Forward:
    """Reads from the first page to the last, as most loaders do."""

    def __init__(self, order: Order, page_size: int, workers: int) -> None:
        self.size, self.next, self.done, self.asked = page_size, 0, False, False
        self.seen: set[Any] = set()
        self.verdict, self.reasons = "proved", []

    def wanted(self) -> list[Request]:
        if self.asked:
            return []
        self.asked = True
        return [Request(self.next, self.size, None)]

    def receive(self, request: Request, page: Page) -> list[Any]:
        self.asked, self.next, self.done = False, self.next + 1, not page.has_more
        fresh = [row for row in page.rows if row[0] not in self.seen]
        self.seen.update(row[0] for row in fresh)
        return fresh


class WithoutOverlap(Scan):
    """Ends each segment at its own left edge."""

    def _finish_segments(self) -> None:
        for segment in self._segments:
            segment.done = segment.done or segment.next < segment.start
        if all(segment.done for segment in self._segments):
            self._stage = "tail"


class WithOnePageOfOverlap(Scan):
    """Reads one page of the neighbour's, whatever it holds."""

    def _has_met(self, segment: Any) -> bool:
        return True


class WithoutTies(Scan):
    """Does not look at rows of the same second."""

    def _tie(self, value: Any, edge: int) -> None:
        pass


@pytest.mark.parametrize("scanner", [Forward, WithoutOverlap, WithOnePageOfOverlap, WithoutTies])
def test_a_wrong_scanner_is_caught(scanner) -> None:
    caught = 0
    for seed in range(4_000):
        outcome = any_pass(Random(seed), scanner)
        caught += bool(outcome.lost) and outcome.scan.verdict == "proved"
        if caught == 3:
            return
    pytest.fail(f"{scanner.__name__} lost rows unnoticed {caught} times only")


# Servers that do not tell the truth


class Clamping(Server):
    """Gives at most 7 rows, and says so or not."""

    says_so = True

    def answer(self, request: Request) -> Page:
        size = min(7, request.size)
        first = request.number * size
        rows = self.rows[first : first + size]
        said = size if self.says_so else request.size
        return Page(rows, request.number, said, len(self.rows), first + size < len(self.rows))


class ClampingInSecret(Clamping):
    says_so = False


class ClampingSilently(Clamping):
    """Gives at most 7 rows and names no page size."""

    def answer(self, request: Request) -> Page:
        page = super().answer(request)
        return Page(page.rows, page.number, None, page.total, page.has_more)


class OtherPage(Server):
    """Answers some pages with another page's rows, under the number asked for."""

    step = 1
    always = False
    says_so = False

    def __init__(self, rng: Random, length: int, ties: float) -> None:
        super().__init__(rng, length, ties)
        self.wrong = {n for n in range(200) if self.always or rng.random() < 0.05}

    def answer(self, request: Request) -> Page:
        if request.number not in self.wrong:
            return super().answer(request)
        page = super().answer(Request(max(0, request.number + self.step), request.size, None))
        asked = super().answer(request)
        number = page.number if self.says_so else request.number
        return Page(page.rows, number, asked.size, asked.total, asked.has_more)


class NextPage(OtherPage):
    pass


class PreviousPage(OtherPage):
    step = -1


class AlwaysNextPage(OtherPage):
    always = True


class AlwaysPreviousPage(OtherPage):
    step, always = -1, True


class NextPageAndSaysSo(OtherPage):
    says_so = True


class SamePage(Server):
    """Ignores the page number."""

    def answer(self, request: Request) -> Page:
        page, asked = super().answer(Request(0, request.size, None)), super().answer(request)
        return Page(page.rows, request.number, request.size, asked.total, asked.has_more)


class ShortPage(Server):
    """Leaves rows out of pages in the middle."""

    def answer(self, request: Request) -> Page:
        page = super().answer(request)
        short = page.has_more and self.rng.random() < 0.2
        return Page(page.rows[:-1] if short else page.rows, page.number, page.size, page.total, page.has_more)


class AlwaysMore(Server):
    def answer(self, request: Request) -> Page:
        page = super().answer(request)
        return Page(page.rows, page.number, page.size, page.total, True)


class SometimesNoMore(Server):
    def answer(self, request: Request) -> Page:
        page = super().answer(request)
        more = page.has_more and self.rng.random() < 0.7
        return Page(page.rows, page.number, page.size, page.total, more)


class NeverMore(Server):
    def answer(self, request: Request) -> Page:
        page = super().answer(request)
        return Page(page.rows, page.number, page.size, page.total, False)


class WrongTotal(Server):
    """Counts some rows too few or too many, each time others."""

    def answer(self, request: Request) -> Page:
        page = super().answer(request)
        total = max(0, page.total + self.rng.randint(-2 * request.size, 2 * request.size))
        return Page(page.rows, page.number, page.size, total, page.has_more)


class TotalOfThePage(Server):
    """Counts the page instead of the list."""

    def answer(self, request: Request) -> Page:
        page = super().answer(request)
        return Page(page.rows, page.number, page.size, len(page.rows), page.has_more)


class Unordered(Server):
    """Ignores order_by: another order at each request."""

    def answer(self, request: Request) -> Page:
        self.rng.shuffle(self.rows)
        return super().answer(request)


class NewestFirst(Server):
    """Ignores order_by: always the other way round."""

    def answer(self, request: Request) -> Page:
        self.rows.sort(key=lambda row: -row[1])
        return super().answer(request)


DISHONEST = [
    Clamping,
    ClampingInSecret,
    ClampingSilently,
    NextPage,
    PreviousPage,
    AlwaysNextPage,
    AlwaysPreviousPage,
    NextPageAndSaysSo,
    SamePage,
    ShortPage,
    AlwaysMore,
    SometimesNoMore,
    NeverMore,
    WrongTotal,
    TotalOfThePage,
    Unordered,
    NewestFirst,
]


@pytest.mark.parametrize("kind", DISHONEST)
@pytest.mark.parametrize("changing", [False, True], ids=["at rest", "changing"])
def test_a_dishonest_server_never_gets_a_proof_with_a_loss(kind, changing) -> None:
    for seed in range(120):
        rng = Random(seed)
        page_size, workers = rng.choice([5, 10, 20]), rng.randint(1, 8)
        server = kind(rng, rng.randint(2, page_size * 30), rng.choice([0.0, 0.3]))
        adversary = Adversary(delete=0.03, append=0.03, many=False) if changing else None
        outcome = play(
            Scan(ORDER, page_size, workers), server, rng, page_size=page_size, workers=workers, adversary=adversary
        )
        assert not (outcome.scan.verdict == "proved" and outcome.lost), f"seed {seed}: {len(outcome.lost)} lost"


def test_a_clamped_page_size_that_is_told_is_followed_and_proved() -> None:
    for seed in range(50):
        rng = Random(seed)
        outcome = play(Scan(ORDER, 20, 4), Clamping(rng, 300, 0.0), rng, page_size=7, workers=4)
        assert (outcome.scan.verdict, len(outcome.returned)) == ("proved", 300)


# Lists in no known order


def test_one_answer_is_proved_without_an_order() -> None:
    rng = Random(1)
    outcome = play(Scan(NO_ORDER, 10, 4), Server(rng, 10, 0.0), rng, page_size=10, workers=4)
    assert (outcome.scan.verdict, len(outcome.returned)) == ("proved", 10)


def test_several_answers_without_an_order_are_counted_when_the_counts_agree() -> None:
    rng = Random(1)
    outcome = play(Scan(NO_ORDER, 10, 4), Server(rng, 95, 0.0), rng, page_size=10, workers=4)
    assert (outcome.scan.verdict, len(outcome.returned)) == ("counted", 95)


def test_without_an_order_nothing_of_several_answers_is_ever_proved() -> None:
    verdicts: Counter[str] = Counter()
    for seed in range(500):
        rng = Random(seed)
        scan = Scan(NO_ORDER, 10, 4)
        server = rng.choice([Server, Unordered])(rng, 200, 0.0)
        outcome = play(scan, server, rng, page_size=10, workers=4, adversary=any_adversary(rng))
        verdicts[scan.verdict] += 1
        assert len(outcome.returned) == len(set(outcome.returned))
        if scan.verdict == "counted":
            assert scan.total_min <= len(outcome.returned) <= scan.total_max
    assert verdicts["proved"] == 0
    assert verdicts["counted"]
    assert verdicts["unproved"]


@pytest.mark.parametrize("unknown", [None, "yesterday"])
def test_a_row_without_a_place_gives_the_order_up(unknown) -> None:
    for seed in range(100):
        rng = Random(seed)
        lost = rng.randrange(200)
        order = Order(key=lambda row: row[0], value=lambda row, lost=lost: unknown if row[0] == lost else row[1])
        outcome = play(
            Scan(order, 10, 4), Server(rng, 200, 0.3), rng, page_size=10, workers=4, adversary=any_adversary(rng)
        )
        assert outcome.scan.verdict != "proved" or lost not in outcome.scan.seen
        assert len(outcome.returned) == len(set(outcome.returned))
