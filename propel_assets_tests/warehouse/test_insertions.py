"""Users that come to the middle of the list, as old as others: no load loses a user, and none is refused for them."""

from dataclasses import replace
from itertools import count

import duckdb
import pytest

from propel_assets.settings import Settings
from propel_assets.source.stream import ReadOptions, ScanResult
from propel_assets.warehouse.erasure import erase
from propel_assets.warehouse.load import load_scan

USERS = "/api/backend/v1/user/query"


@pytest.fixture
def slow(settings) -> Settings:
    """One worker, 15 pages: an insertion comes between two requests."""
    return replace(settings, page_size=20, max_concurrency=1)


def load_users(settings: Settings, options: ReadOptions | None = None) -> ScanResult:
    return load_scan("users", settings, options=options).results[0]


def stored(query) -> set[str]:
    return {user_id for (user_id,) in query("SELECT user_id FROM user_query")}


def insert(store) -> str:
    """Add a user as old as the fifth."""
    return store.add_user(created_at=list(store.users.values())[4].wire["created_at"])


@pytest.fixture
def at_request(sandbox, monkeypatch):
    """Return a function that has something happen before the n-th answer to `user/query` from now on."""

    def happens(changes) -> None:
        numbers, arrived = count(), sandbox.store.sorted_users

        def sorted_users(order_by: str):
            changes.get(next(numbers), lambda: None)()
            return arrived(order_by)

        monkeypatch.setattr(sandbox.store, "sorted_users", sorted_users)

    return happens


@pytest.mark.parametrize("deleted_at", [None, 4, 8])
def test_a_user_inserted_while_the_list_is_read_costs_a_second_scan_and_no_user(
    deleted_at, sandbox, slow, query, at_request
) -> None:
    changes = {6: lambda: insert(sandbox.store)}
    if deleted_at:
        changes[deleted_at] = lambda: sandbox.store.delete_user(list(sandbox.store.users)[2])
    at_request(changes)
    report = load_users(slow)
    assert set(sandbox.store.users) <= stored(query)
    assert (report.verdict, report.attempts) == ("proved", 2)


def test_a_user_hidden_by_an_insertion_and_a_deletion_at_once_is_found_in_a_repeated_scan(
    sandbox, slow, query, at_request
) -> None:
    load_users(slow)

    def both() -> None:
        insert(sandbox.store)
        sandbox.store.delete_user(list(sandbox.store.users)[-2])

    at_request({6: both})
    report = load_users(slow)
    assert set(sandbox.store.users) <= stored(query)
    assert (report.verdict, report.attempts) == ("proved", 3)  # the second brings the user, the third no other
    assert report.reason.startswith("1 unknown row older than the previous scan")


@pytest.mark.slow
def test_users_imported_between_two_scans_cost_one_more_scan_once(sandbox, slow, query) -> None:
    assert load_users(slow).attempts == 1
    for _ in range(3):
        insert(sandbox.store)
    report = load_users(slow)
    assert (report.verdict, report.attempts) == ("proved", 2)
    assert report.reason.startswith("3 unknown rows")
    assert stored(query) == set(sandbox.store.users)
    assert (load_users(slow).attempts, load_users(slow).reason) == (1, "")


def test_users_that_keep_coming_to_the_middle_never_make_a_load_fail(sandbox, slow, query, at_request) -> None:
    load_users(slow)
    first = list(sandbox.store.users.values())[-1].wire["created_at"] - 1

    def both() -> None:  # hidden from the totals, in each scan
        sandbox.store.add_user(created_at=first)
        sandbox.store.delete_user(next(iter(sandbox.store.users)))

    at_request({n: both for n in range(6, 60, 3)})
    report = load_users(slow)
    assert report.verdict == "counted"
    assert report.reason.endswith("the list was read 3 times, and each attempt returned further rows")


@pytest.mark.slow
@pytest.mark.parametrize("options", [None, ReadOptions(recent=True)], ids=["full", "recent"])
def test_ordinary_changes_between_two_scans_cost_no_further_scan(options, sandbox, slow, query) -> None:
    load_users(slow)
    for user_id in list(sandbox.store.users)[:5]:
        sandbox.store.delete_user(user_id)
    newcomers = [sandbox.store.add_user() for _ in range(3)]
    load_users(slow, options)
    sandbox.store.add_user()
    sandbox.store.touch_user(newcomers[0])
    assert load_users(slow).attempts == 1


def test_a_table_that_was_emptied_costs_no_further_scan(slow, tmp_path) -> None:
    load_users(slow)
    with duckdb.connect(str(tmp_path / "propel_auth_pipeline.duckdb")) as database:
        database.execute("DELETE FROM propel_auth_data.user_query")
    assert load_users(slow).attempts == 1


@pytest.mark.slow
def test_hashed_ids_and_erased_people_cost_no_further_scan(sandbox, slow, query) -> None:
    strict = replace(slow, privacy="strict", privacy_key="0123456789abcdef0123456789abcdef")
    load_users(strict)
    erase(strict.target, strict.privacy_settings, list(sandbox.store.users)[7])
    load_users(strict)
    sandbox.store.add_user()
    assert load_users(strict).attempts == 1
    insert(sandbox.store)
    assert load_users(strict).attempts == 2
    open_again = replace(strict, privacy="open")  # the ids stored have another form
    assert load_users(open_again).attempts == 1
    assert len(stored(query)) == len(sandbox.store.users) - 1
