"""The pages of the benchmarks: the same responses as those of the sandbox, from files."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.frozen_pages import freeze, gate_options
from propel_assets.sandbox.running import Sandbox

USERS = "/api/backend/v1/user/query"
COUNT = 250
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "frozen_pages.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("frozen")
    freeze(folder, users=COUNT, seed=3, now=date(2026, 11, 24))
    return folder


@contextmanager
def served(folder: Path, *faults: str, users: int = COUNT) -> Iterator[httpx.Client]:
    """Serve ``folder`` in a process of its own; yield a client that sends the key."""
    command = [sys.executable, str(SCRIPT), str(folder), "--users", str(users), "--seed", "3"]
    command += [word for fault in faults for word in ("--fault", fault)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip().removeprefix("PROPELAUTH_AUTH_URL=")
        headers = {"Authorization": "Bearer sandbox-api-key"}
        with httpx.Client(base_url=url, headers=headers) as client:
            yield client
        server.terminate()
        assert server.wait(timeout=30) == 0


@pytest.fixture(scope="module")
def frozen(folder) -> Iterator[httpx.Client]:
    with served(folder) as client:
        yield client


@pytest.fixture
def page(frozen) -> Callable[..., dict[str, Any]]:
    def ask(**query: Any) -> dict[str, Any]:
        return frozen.get(USERS, params=query).raise_for_status().json()

    return ask


@pytest.fixture
def everyone(page) -> list[dict[str, Any]]:
    pages = [page(page_size=100, page_number=n, include_orgs="true") for n in range(3)]
    assert [p["has_more_results"] for p in pages] == [True, True, False]
    assert [p["current_page"] for p in pages] == [0, 1, 2]
    assert {p["total_users"] for p in pages} == {COUNT}
    return [user for p in pages for user in p["users"]]


def test_every_user_is_on_one_page(everyone, page) -> None:
    assert len({user["user_id"] for user in everyone}) == COUNT
    created = [user["created_at"] for user in everyone]
    assert created == sorted(created)
    small = [user for n in range(25) for user in page(page_number=n, include_orgs="true")["users"]]
    assert small == everyone


def test_users_have_the_fields_of_those_of_the_sandbox(everyone) -> None:
    with Sandbox(users=100, orgs=24, seed=7) as sandbox:
        live = [sandbox.store.user_object(user_id, include_orgs=True) for user_id in sandbox.store.users]
    shapes = [{name for user in users for name in user} for users in (everyone, live)]
    assert shapes[1] - shapes[0] <= {"legacy_user_id", "impersonator_user_id"}
    assert shapes[0] <= shapes[1]
    members = [m for user in everyone for m in user["org_id_to_org_info"].values()]
    live_members = [m for user in live for m in user["org_id_to_org_info"].values()]
    assert {frozenset(m) - {"legacy_org_id"} for m in members} == {
        frozenset(m) - {"legacy_org_id"} for m in live_members
    }
    assert 1.2 < len(members) / COUNT < 1.6
    assert all(user["created_at"] <= user["last_active_at"] for user in everyone)


def test_other_orders_and_plain_users(everyone, page) -> None:
    newest = page(order_by="CREATED_AT_DESC", page_size=100, page_number=2, include_orgs="true")
    assert newest["users"] == everyone[:50][::-1]
    active = page(order_by="LAST_ACTIVE_AT_DESC", page_size=100, include_orgs="true")["users"]
    moments = sorted((user["last_active_at"] for user in everyone), reverse=True)
    assert [user["last_active_at"] for user in active] == moments[:100]
    plain = page(page_number=1)["users"]
    without = [{k: v for k, v in u.items() if k != "org_id_to_org_info"} for u in everyone[10:20]]
    assert plain == without


def test_a_large_page_size_is_reduced_and_a_page_after_the_last_is_empty(page) -> None:
    assert page(page_size=1000)["page_size"] == 100
    after = page(page_number=99, include_orgs="true")
    assert (after["users"], after["has_more_results"]) == ([], False)


def test_it_refuses_what_the_sandbox_refuses(frozen) -> None:
    assert frozen.get(USERS, params={"page_size": "x"}).status_code == 400
    assert frozen.get(USERS, params={"include_orgs": "yes"}).status_code == 400
    assert frozen.get(USERS, params={"legacy_user_id": "1"}).json() == {"legacy_user_id": ["was not frozen"]}
    assert frozen.get(USERS, headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert frozen.get("/api/backend/v1/org/query").status_code == 404
    assert frozen.post(USERS).status_code == 404


def test_the_same_arguments_write_the_same_files(folder, tmp_path) -> None:
    freeze(tmp_path, users=COUNT, seed=3, now=date(2026, 11, 24))
    for file in folder.iterdir():
        assert file.read_bytes() == (tmp_path / file.name).read_bytes()


def test_a_folder_without_users_is_served(tmp_path) -> None:
    with served(tmp_path, users=0) as client:
        answer = client.get(USERS, params={"include_orgs": "true"}).json()
    assert (answer["users"], answer["total_users"]) == ([], 0)


def test_latency_and_rate_limit(folder) -> None:
    with served(folder, "latency_ms=1", "rate_limit=0.001", "retry_after=seconds") as client:
        answers = [client.get(USERS) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 429]
    assert 990 <= int(answers[1].headers["retry-after"]) <= 1000


@pytest.mark.parametrize("option", ["scim_off", "retry_after=date", "latency_ms=5,requests=2", "rate_limit=0"])
def test_a_fault_that_frozen_pages_do_not_support_is_refused(option) -> None:
    with pytest.raises(ValueError, match=r"Frozen pages support|not allowed"):
        gate_options([option])
