"""The right part of a list, back to a value: the real `Scan` against the model of the server in test_scan_model."""

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from propel_assets.source.scan import Order, Page
from propel_assets_tests.cases import cases
from propel_assets_tests.source.test_scan_model import FineScan, Server, any_adversary, any_server, play

INTERLEAVINGS = cases(2_000)


def lost_of_the_young(rng: Random, scanner: Callable[..., Any] = FineScan) -> tuple[str, int]:
    """Play one pass; return its verdict, and how many it missed of those it had to read."""
    page_size, workers = rng.choice([1, 2, 3, 5, 8, 13, 20]), rng.randint(1, 12)
    server = any_server(rng, page_size)
    since = rng.randint(0, server.clock + 1)
    order = Order(lambda row: row[0], lambda row: row[1], since)
    outcome = play(scanner(order, page_size, workers), server, workers=workers, adversary=any_adversary(rng))
    assert len(outcome.returned) == len(set(outcome.returned)), "a row came twice"
    return outcome.scan.verdict, sum(row[1] >= since for row in outcome.lost)


def test_a_proved_scan_back_to_a_value_loses_no_row_from_that_value_on() -> None:
    proved = 0
    for seed in range(INTERLEAVINGS):
        verdict, lost = lost_of_the_young(Random(seed))
        proved += verdict == "proved"
        assert not (lost and verdict == "proved"), f"seed {seed} lost {lost}"
    print(f"{proved} of {INTERLEAVINGS} attempts were proved")
    assert proved > INTERLEAVINGS / 4


class TooEarly(FineScan):
    """Takes a page for far enough back that only ends below the value."""

    def _is_before_since(self, page: Page | None) -> bool:
        return page is not None and bool(page.rows)


def test_a_scanner_that_stops_too_early_is_caught() -> None:
    played = [lost_of_the_young(Random(seed), TooEarly) for seed in range(INTERLEAVINGS)]
    assert any(verdict == "proved" and lost for verdict, lost in played)


@pytest.mark.parametrize("length", [1_000, 20_000])
def test_how_much_is_asked_for_depends_on_what_changed_alone(length) -> None:
    server = Server(Random(1), length, ties=0.0)
    order = Order(lambda row: row[0], lambda row: row[1], since=server.clock - 150)
    outcome = play(FineScan(order, 100, 8), server, workers=8)
    assert (outcome.scan.verdict, outcome.requests) == ("proved", 6)


def test_rows_that_move_to_the_end_while_being_read_are_counted_not_proved() -> None:
    server = Server(Random(1), 500, ties=0.0)
    order = Order(lambda row: row[0], lambda row: row[1], since=server.clock - 150, stable=False)
    scan = FineScan(order, 100, 8)
    while not scan.done:
        for request in scan.next_requests():
            mover, _ = server.rows.pop(350)
            server.clock += 1
            server.rows.append((mover, server.clock))
            scan.receive(request, server.answer(request))
    assert scan.verdict == "counted", scan.reasons
    assert {row[0] for row in server.rows if row[1] >= 350 and row[1] <= 500} <= scan.seen
