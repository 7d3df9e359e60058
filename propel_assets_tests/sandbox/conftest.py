"""A sandbox for all tests of a module that only read it, and a plain HTTP client of it."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from propel_assets.sandbox.faults import Faults
from propel_assets.sandbox.running import Sandbox
from propel_assets_tests.processes import running_sandbox


@pytest.fixture(scope="module")
def unchanged() -> Iterator[Callable[[], Sandbox]]:
    """Return a running sandbox of 300 users and 24 orgs: the same one until a test changes its store."""
    current, version = None, 0
    with contextlib.ExitStack() as stack:

        def find() -> Sandbox:
            nonlocal current, version
            if current is None or current.store.version != version:
                current = stack.enter_context(running_sandbox(users=300, orgs=24, seed=7))
                version = current.store.version
            return current

        yield find


@pytest.fixture
def sandbox(unchanged: Callable[[], Sandbox]) -> Sandbox:
    """A running sandbox of 300 users and 24 orgs, as it is after its start."""
    running = unchanged()
    vars(running.faults).update(vars(Faults(running.store.seed)))
    running.requests.clear()
    return running


@pytest.fixture
def http(sandbox: Sandbox) -> Iterator[httpx.Client]:
    """A client of the sandbox that sends the API key."""
    headers = {"Authorization": f"Bearer {sandbox.api_key}"}
    with httpx.Client(base_url=sandbox.url, headers=headers) as client:
        yield client


@pytest.fixture
def ask(http: httpx.Client) -> Callable[..., Any]:
    """Return the JSON of ``ask("user/query", page_size=3)``; fail unless the status is 200."""

    def request(path: str, **query: Any) -> Any:
        response = http.get(f"/api/backend/v1/{path}", params=query)
        assert response.status_code == 200, (path, response.status_code, response.text)
        return response.json()

    return request


@pytest.fixture
def status_of(http: httpx.Client) -> Callable[..., int]:
    """Return the status of ``status_of("user/query", page_size=0)``."""

    def request(path: str, **query: Any) -> int:
        return http.get(f"/api/backend/v1/{path}", params=query).status_code

    return request


@pytest.fixture
def read_all(ask: Callable[..., Any]) -> Callable[..., list[Any]]:
    """Return the rows of every page of ``read_all("user/query", "users")``."""

    def read(path: str, name: str, *, page_size: int = 100, **query: Any) -> list[Any]:
        rows, number, more = [], 0, True
        while more:
            page = ask(path, page_size=page_size, page_number=number, **query)
            rows += page[name]
            number += 1
            more = page["has_more_results"]
        return rows

    return read
