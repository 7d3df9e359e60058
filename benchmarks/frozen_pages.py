"""A server of ``user/query`` from files, as fast as one core can send: `python benchmarks/frozen_pages.py FOLDER`.

``freeze`` writes every user once, as the JSON of a page has it; ``serve_frozen`` cuts pages of any size out of that.
The rows never change, and no other endpoint exists. A folder has

- ``users.json``: the users in order of creation, ``org_id_to_org_info`` last, separated by commas;
- ``index.bin``: per user the offsets of the user and of its ``org_id_to_org_info``, then the end of the file
  (unsigned 64 bit);
- ``active.bin``: the users by last activity, latest first (unsigned 32 bit);
- ``about.json``: the arguments of ``freeze``.
"""

import asyncio
import json
import math
import os
import signal
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from http import HTTPStatus
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Any, cast
from urllib.parse import parse_qsl

import click

from propel_assets.sandbox.faults import TokenBucket
from propel_assets.sandbox.interference import BACKEND
from propel_assets.sandbox.pages import Paging
from propel_assets.sandbox.parameters import Refusal, choice, flag, refuse
from propel_assets.sandbox.people import DAY, Org, draw_org, draw_user
from propel_assets.sandbox.roles import MAPPINGS, Membership, member_info
from propel_assets.sandbox.running import listen, url_of
from propel_assets.sandbox.seed import draw_moments, noon
from propel_assets.sandbox.server import API_KEY
from propel_assets.sandbox.switches import Fault, parse_option

USERS_PER_ORG = 20
# how many orgs a user is in: 0, 1, 2, 3, 5; on average 1.5
ORGS_PER_USER = (0.15, 0.45, 0.25, 0.1, 0.05)
ROLE_WEIGHTS = (1, 5, 20, 40)  # of the four lowest roles, the lowest last
USER_QUERY = f"{BACKEND}/user/query"
AUTHORIZATION = f"authorization: bearer {API_KEY}".encode()
ORG_MAP = '"org_id_to_org_info":'
QUERY = {"page_size", "page_number", "order_by", "include_orgs"}
ORDERS = ("CREATED_AT_ASC", "CREATED_AT_DESC", "LAST_ACTIVE_AT_DESC")


def freeze(folder: Path, *, users: int, seed: int = 1, now: date = date(2026, 11, 24)) -> None:
    """Write ``users`` users into ``folder``: 1.2 KB and 1.5 memberships each.

    Memory: about 300 bytes per user, for orgs (one per 20 users), times of sign-up and the index.
    """
    folder.mkdir(parents=True, exist_ok=True)
    index, active = array("Q"), array("q")
    position = 0
    with (folder / "users.json").open("wb") as file:
        for own, memberships, last_active_at in _draw_users(seed=seed, now=noon(now), count=users):
            index.extend((position, position + len(own)))
            position += file.write(own + memberships)
            active.append(last_active_at)
    index.append(position)
    (folder / "index.bin").write_bytes(index.tobytes())
    latest_first = sorted(range(users), key=active.__getitem__, reverse=True)
    (folder / "active.bin").write_bytes(array("I", latest_first).tobytes())
    (folder / "about.json").write_text(json.dumps(_about(users, seed, now)))


def frozen(folder: Path, *, users: int, seed: int = 1, now: date = date(2026, 11, 24)) -> Path:
    """Return ``folder``. Its files are written unless it already has exactly these users."""
    about = folder / "about.json"
    if not about.exists() or json.loads(about.read_text()) != _about(users, seed, now):
        about.unlink(missing_ok=True)  # an interrupted freeze must not look complete
        freeze(folder, users=users, seed=seed, now=now)
    return folder


def _about(users: int, seed: int, now: date) -> dict[str, Any]:
    return {"users": users, "seed": seed, "now": now.isoformat()}


def _draw_users(*, seed: int, now: int, count: int) -> Iterator[tuple[bytes, bytes, int]]:
    """Yield each user's own fields, memberships followed by a comma, and last activity."""
    rng = Random(seed)  # noqa: S311 - reproducible people, no secrets
    moments = draw_moments(rng, count, now)
    orgs = [draw_org(rng, i, now - 700 * DAY) for i in range(1 + count // USERS_PER_ORG)]
    weights = list(accumulate((rank + 1) ** -0.7 for rank in range(len(orgs))))
    known: dict[tuple[str, str], str] = {}
    for serial, at in enumerate(moments):
        user = draw_user(rng, serial, at, domain=None, late=at > now - 90 * DAY)
        user.wire["last_active_at"] = at + int((now - at) * rng.random())
        wanted = rng.choices((0, 1, 2, 3, 5), ORGS_PER_USER)[0]
        members = {}
        for org in rng.choices(orgs, cum_weights=weights, k=wanted):
            roles = MAPPINGS[org.role_mapping].roles
            role = rng.choices(roles, ROLE_WEIGHTS[-len(roles) :])[0]
            if (org.org_id, role) not in known:
                known[org.org_id, role] = _member(org, role)
            members[org.org_id] = known[org.org_id, role]
        own = _compact(user.wire)[:-1] + ","
        memberships = ORG_MAP + "{" + ",".join(members.values()) + "}},"
        yield own.encode(), memberships.encode(), user.wire["last_active_at"]


def _member(org: Org, role: str) -> str:
    """Return ``"org_id": {...}`` for a member with this role in the org."""
    info = member_info(Membership("", org.org_id, role, (), 0), org)
    return f'"{org.org_id}":{_compact(info)}'


def _compact(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


class FrozenUsers:
    """The pages of a folder that ``freeze`` wrote."""

    def __init__(self, folder: Path) -> None:
        """Open the folder and read the index: 20 bytes per user."""
        self._index, self._active = array("Q"), array("I")
        self._index.frombytes((folder / "index.bin").read_bytes())
        self._active.frombytes((folder / "active.bin").read_bytes())
        self._file = os.open(folder / "users.json", os.O_RDONLY)
        self.total = len(self._active)

    def page(self, query: dict[str, str]) -> bytes:
        """Return the JSON of a page.

        Raises:
            Refusal: a parameter was not frozen, or has a value that is not allowed.
        """
        for name in query.keys() - QUERY:
            raise refuse(name, "was not frozen")
        paging = Paging.read(query, {})
        order_by, include_orgs = choice(query, "order_by", ORDERS), flag(query, "include_orgs")
        wanted = paging.cut(range(self.total))
        if order_by == "CREATED_AT_ASC" and include_orgs:
            rows = self._read(2 * wanted[0], 2 * wanted[-1] + 2)[:-1] if wanted else b""
        else:
            rows = b",".join(self._user(i, include_orgs) for i in self._ordered(wanted, order_by))
        envelope = _compact(paging.envelope("total_users", self.total))
        return b'{"users":[' + rows + b"]," + envelope[1:].encode()

    def _ordered(self, wanted: Sequence[int], order_by: str) -> Sequence[int]:
        if order_by == "LAST_ACTIVE_AT_DESC":
            return [self._active[i] for i in wanted]
        if order_by == "CREATED_AT_DESC":
            return [self.total - 1 - i for i in wanted]
        return wanted

    def _user(self, number: int, include_orgs: bool) -> bytes:
        if include_orgs:
            return self._read(2 * number, 2 * number + 2)[:-1]
        return self._read(2 * number, 2 * number + 1)[:-1] + b"}"

    def _read(self, first: int, last: int) -> bytes:
        """Return the bytes between two entries of the index."""
        start, end = self._index[first], self._index[last]
        return os.pread(self._file, end - start, start)


def gate_options(faults: Iterable[str]) -> dict[str, Any]:
    """Return the arguments of ``serve_frozen`` for these faults, in the format of ``Faults.parse``.

    Raises:
        ValueError: a fault does not exist, or not in frozen mode.
    """
    values: dict[str, Any] = {}
    for option in faults:
        name, fault = parse_option(option)
        if name not in ("latency_ms", "rate_limit", "retry_after"):
            raise ValueError(f"Frozen pages support latency_ms, rate_limit and retry_after only, not {name}.")
        if fault is None:
            continue
        if fault != Fault(fault.value) or fault.value == "date":
            raise ValueError(f"Frozen pages support neither limits nor retry_after=date: {option}.")
        values[name] = fault.value
    return values | {"retry_after": values.get("retry_after") == "seconds"}


def serve_frozen(
    folder: Path,
    *,
    port: int,
    latency_ms: float = 0,
    rate_limit: float | None = None,
    retry_after: bool = False,
    on_ready: Callable[[str], None],
) -> None:
    """Serve a frozen folder on 127.0.0.1 until SIGTERM or Ctrl-C.

    Args:
        folder: written by ``freeze``.
        port: 0 for a free one.
        latency_ms: delay of each response; delays run in parallel.
        rate_limit: requests per second (token bucket); above it, 429.
        retry_after: whether a 429 has a Retry-After header, in seconds.
        on_ready: called with the URL once connections are accepted.
    """
    gate = Gate(latency_ms, TokenBucket(rate_limit) if rate_limit else None, retry_after)
    asyncio.run(_serve(FrozenUsers(folder), gate, port, on_ready))


@dataclass(frozen=True, slots=True)
class Gate:
    """The faults that every request passes."""

    latency_ms: float
    bucket: TokenBucket | None
    retry_after: bool


async def _serve(users: FrozenUsers, gate: Gate, port: int, on_ready: Callable[[str], None]) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    listener = listen(port)
    server = await loop.create_server(lambda: _Connection(users, gate), sock=listener)
    on_ready(url_of(listener))
    await stop.wait()
    server.close()


class _Connection(asyncio.Protocol):
    """One client connection that sends GET requests."""

    def __init__(self, users: FrozenUsers, gate: Gate) -> None:
        self._users, self._gate = users, gate
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Respond to each complete request."""
        *requests, self._received = (self._received + data).split(b"\r\n\r\n")
        for request in requests:
            answer = self._answer(request)
            if self._gate.latency_ms:
                loop = asyncio.get_running_loop()
                loop.call_later(self._gate.latency_ms / 1000, self._transport.write, answer)
            else:
                self._transport.write(answer)

    def _answer(self, request: bytes) -> bytes:
        line, _, headers = request.partition(b"\r\n")
        method, _, target = line.decode("latin-1").removesuffix(" HTTP/1.1").partition(" ")
        path, _, query = target.partition("?")
        wait = self._gate.bucket.take() if self._gate.bucket else 0.0
        if wait:
            hint = f"retry-after: {math.ceil(wait)}\r\n" if self._gate.retry_after else ""
            return _response(429, b"Rate limit exceeded", hint)
        if AUTHORIZATION not in headers.lower():
            return _response(401, b"Unauthorized")
        if method != "GET" or path != USER_QUERY:
            return _response(404, b"Not Found")
        try:
            return _response(200, self._users.page(dict(parse_qsl(query))))
        except Refusal as refusal:
            return _response(400, json.dumps(refusal.body).encode())


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--port", default=0, type=click.IntRange(0, 65_535), help="Port on 127.0.0.1. Default: a free one.")
@click.option("--users", default=2500, type=click.IntRange(min=0), show_default=True, help="Number of users.")
@click.option("--seed", default=1, show_default=True, help="Seed: with --now it decides every byte.")
@click.option("--now", default="2026-11-24", show_default=True, type=click.DateTime(["%Y-%m-%d"]), help="Its date.")
@click.option("--fault", "faults", multiple=True, help="latency_ms, rate_limit or retry_after, with a value.")
def main(folder: Path, port: int, users: int, seed: int, now: datetime, faults: tuple[str, ...]) -> None:
    """Serve the users in FOLDER, which is written when it does not have them."""
    try:
        options = gate_options(faults)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--fault") from error
    frozen(folder, users=users, seed=seed, now=now.date())
    serve_frozen(folder, port=port, on_ready=lambda url: click.echo(f"PROPELAUTH_AUTH_URL={url}"), **options)


def _response(status: int, body: bytes, headers: str = "") -> bytes:
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n{headers}\r\n"
    )
    return head.encode() + body


if __name__ == "__main__":
    main()
