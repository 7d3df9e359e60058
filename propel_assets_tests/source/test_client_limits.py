"""The client against hostile servers: no request flood, no endless wait, no unbounded memory. Raw sockets."""

import gzip
import itertools
import json
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import msgspec
import pytest

from propel_assets.catalog import BY_NAME
from propel_assets.errors import PermanentApiError, ResponseTooLarge, TransientApiError
from propel_assets.settings import Tenant
from propel_assets.source import client as client_module
from propel_assets.source.client import Client
from propel_assets.source.decode import PageDecoder, RowType
from propel_assets.source.readers import ScanContext, read_scan
from propel_assets.source.stream import Rows, ScanResult

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n"
JOIN_SECONDS = 20.0
Parts = Iterable[bytes]


class RawServer:
    """Sends what `respond(request line)` yields, byte by byte as yielded, and counts requests."""

    def __init__(self, respond: Callable[[str], Parts], tls: ssl.SSLContext | None = None) -> None:
        self.respond, self.requests, self._tls = respond, 0, tls
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self._listener.getsockname()[1]}"
        self._connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._connections.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        if self._tls:
            connection = self._tls.wrap_socket(connection, server_side=True)
        with suppress(OSError), connection, connection.makefile("rb") as lines:
            while line := lines.readline():
                while lines.readline() not in (b"\r\n", b""):
                    pass
                self.requests += 1
                for part in self.respond(line.decode("latin-1").partition(" ")[2].partition(" ")[0]):
                    connection.sendall(part)

    def close(self) -> None:
        self._listener.close()
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def serve() -> Iterator[Callable[..., RawServer]]:
    servers: list[RawServer] = []

    def start(respond: Callable[[str], Parts], tls: ssl.SSLContext | None = None) -> RawServer:
        servers.append(RawServer(respond, tls))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def client_of(server: RawServer, *, retry_seconds: float = 0) -> Client:
    return Client(Tenant(auth_url=server.url, api_key="k", retry_seconds=retry_seconds, max_concurrency=4))


def sized(body: bytes, head: bytes = HEAD) -> bytes:
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def dripping(parts: Iterable[bytes]) -> Parts:
    for part in parts:
        yield part
        time.sleep(0.02)


def in_time(call: Callable[[], Any]) -> BaseException:
    """Return the error of ``call``, made in a thread that must end: a stall fails the test."""
    caught: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(JOIN_SECONDS)
    assert not thread.is_alive(), "the request has not ended"
    assert caught
    return caught[0]


def get(client: Client) -> Any:
    return client.get("/x", msgspec.json.decode)


# Rate limits


def retry_after_of(form: str) -> str:
    past = format_datetime(datetime.now(UTC) - timedelta(hours=1), usegmt=True)
    return past if form == "past" else form


@pytest.mark.parametrize(
    ("status", "form"),
    [*((429, form) for form in ("0", "-1", "nan", "soon", "past", "0.0001", "")), (503, "0.0001"), (503, "")],
)
def test_no_retry_after_causes_a_request_flood(form, status, serve) -> None:
    header = f"Retry-After: {retry_after_of(form)}\r\n" if form else ""
    server = serve(lambda _: [f"HTTP/1.1 {status} Slow down\r\n{header}Content-Length: 0\r\n\r\n".encode()])
    client = client_of(server, retry_seconds=1.5)
    with pytest.raises(TransientApiError, match=f"returned {status}"):
        get(client)
    assert 2 <= server.requests <= 5


def test_workers_share_the_backoff(serve) -> None:
    server = serve(lambda _: [b"HTTP/1.1 429 Slow down\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n"])
    client = client_of(server, retry_seconds=2.5)
    workers = [threading.Thread(target=lambda: suppress_error(lambda: get(client)), daemon=True) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(JOIN_SECONDS)
    assert not any(worker.is_alive() for worker in workers)
    assert server.requests <= 20


def suppress_error(call: Callable[[], Any]) -> None:
    with suppress(TransientApiError):
        call()


# Deadlines


def drip_status_line(_: str) -> Parts:
    return dripping(itertools.chain([b"HTTP/1.1 200 "], itertools.repeat(b"x")))


def drip_header(_: str) -> Parts:
    return dripping(itertools.chain([HEAD + b"X: "], itertools.repeat(b"y")))


def drip_body(_: str) -> Parts:
    return dripping(itertools.chain([HEAD + b"Content-Length: 1000000\r\n\r\n["], itertools.repeat(b" ")))


def drip_chunks(_: str) -> Parts:
    return dripping(itertools.chain([CHUNKED + b"\r\n"], itertools.repeat(b"1\r\n \r\n")))


def drip_chunk_size(_: str) -> Parts:
    return dripping(itertools.chain([CHUNKED + b"\r\n1;"], itertools.repeat(b"x")))


def drip_gzip(_: str) -> Parts:
    body = gzip.compress(json.dumps(list(range(100_000))).encode())
    head = HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body)
    return dripping(itertools.chain([head], (body[n : n + 1] for n in range(len(body)))))


def drip_error(_: str) -> Parts:
    return dripping(itertools.chain([b"HTTP/1.1 404 No\r\nContent-Length: 1000000\r\n\r\n"], itertools.repeat(b" ")))


def silence(_: str) -> Parts:
    return itertools.chain([HEAD], iter(lambda: time.sleep(0.1) or b"", None))


@pytest.mark.parametrize(
    "respond",
    [drip_status_line, drip_header, drip_body, drip_chunks, drip_chunk_size, drip_gzip, silence],
)
def test_a_response_that_drips_times_out(respond, serve, monkeypatch) -> None:
    monkeypatch.setattr(client_module, "REQUEST_SECONDS", 0.4)
    client = client_of(serve(respond))
    error = in_time(lambda: get(client))
    assert isinstance(error, TransientApiError)
    assert "failed: timed out after 0.4 s" in str(error)
    assert "GET /x" in str(error)


@pytest.mark.parametrize("respond", [drip_header, drip_body, silence])
def test_a_tls_response_that_drips_times_out(respond, serve, certificate, monkeypatch) -> None:
    monkeypatch.setattr(client_module, "REQUEST_SECONDS", 1.0)
    file, context = certificate
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    server = serve(respond, context)
    error = in_time(lambda: get(client_of(server)))
    assert isinstance(error, TransientApiError)
    assert "failed: timed out after 1 s" in str(error)
    assert server.requests == 1


def test_a_tls_handshake_that_never_ends_times_out(serve, monkeypatch) -> None:
    monkeypatch.setattr(client_module, "REQUEST_SECONDS", 1)
    server = serve(silence)  # it reads the client's first message as a request line, and waits for its end
    client = Client(Tenant(auth_url=server.url.replace("http", "https"), api_key="k", retry_seconds=0))
    error = in_time(lambda: get(client))
    assert isinstance(error, TransientApiError)
    assert "timed out after 1 s" in str(error)


def test_the_status_counts_when_the_body_of_an_error_drips(serve, monkeypatch) -> None:
    monkeypatch.setattr(client_module, "REQUEST_SECONDS", 1.0)
    error = in_time(lambda: get(client_of(serve(drip_error))))
    assert isinstance(error, PermanentApiError)
    assert error.status == 404


def test_a_connection_gets_a_new_deadline_for_each_request(serve, monkeypatch) -> None:
    monkeypatch.setattr(client_module, "REQUEST_SECONDS", 1.0)
    server = serve(lambda _: [sized(b"[1]")])
    client = client_of(server)
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        assert get(client) == [1]
        time.sleep(0.1)
    assert len(server._connections) == 1


def test_a_scan_ends_after_scan_seconds(serve) -> None:
    server = serve(lambda _: [sized(b"[]")])
    client = Client(Tenant(auth_url=server.url, api_key="k", scan_seconds=0))
    with pytest.raises(TransientApiError, match="PROPELAUTH_SCAN_SECONDS"):
        get(client)
    assert server.requests == 0


def test_stopping_aborts_responses_that_are_being_read(serve) -> None:
    server = serve(drip_body)
    client = client_of(server, retry_seconds=300)  # 60 s a request: longer than this test waits
    reader = threading.Thread(target=lambda: suppress_error(lambda: get(client)), daemon=True)
    reader.start()
    while not server.requests:
        time.sleep(0.01)
    with client.stopping():
        reader.join(JOIN_SECONDS)
    assert not reader.is_alive()


def test_an_interrupted_process_ends_while_a_response_drips(serve, tmp_path) -> None:
    server = serve(drip_body)
    script = textwrap.dedent(
        f"""
        import os, signal, threading
        from propel_assets.settings import Tenant
        from propel_assets.source.client import Client
        from propel_assets.source.readers import ScanContext, read_scan
        client = Client(Tenant(auth_url={server.url!r}, api_key="k"))
        threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
        list(read_scan("orgs", ScanContext(client=client)))
        """
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=40, cwd=tmp_path)
    assert "KeyboardInterrupt" in ran.stderr


# Body size


def endless(_: str) -> Parts:
    return itertools.chain([HEAD + b"\r\n"], itertools.repeat(b"[" * 65536))


def endless_chunks(_: str) -> Parts:
    return itertools.chain([CHUNKED + b"\r\n"], itertools.repeat(b"10000\r\n" + b"[" * 65536 + b"\r\n"))


def one_endless_chunk(_: str) -> Parts:
    return itertools.chain([CHUNKED + b"\r\nffffffffff\r\n"], itertools.repeat(b"[" * 65536))


def announced(_: str) -> Parts:
    return itertools.chain([HEAD + b"Content-Length: 99999999999\r\n\r\n"], itertools.repeat(b"[" * 65536))


def bomb(mebibytes: int) -> bytes:
    compressor = zlib.compressobj(9, wbits=31)
    return b"".join([*(compressor.compress(b" " * 2**20) for _ in range(mebibytes)), compressor.flush()])


def gzip_bomb(_: str) -> Parts:
    body = bomb(256)  # 250 KB of gzip
    return [HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body), body]


def gzip_bomb_of_many_members(_: str) -> Parts:
    body = bomb(16) * 16
    return [HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body), body]


def gzip_bomb_in_gzip(_: str) -> Parts:
    body = gzip.compress(bomb(256))
    return [HEAD + b"Content-Encoding: gzip, gzip\r\nContent-Length: %d\r\n\r\n" % len(body), body]


BODIES = [
    endless,
    endless_chunks,
    one_endless_chunk,
    announced,
    gzip_bomb,
    gzip_bomb_of_many_members,
    gzip_bomb_in_gzip,
]
PEAK = """
import resource, sys, msgspec
from propel_assets.catalog import BY_NAME
from propel_assets.errors import ResponseTooLarge
from propel_assets.settings import Tenant
from propel_assets.source.client import Client

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 2**20)

client, before = Client(Tenant(auth_url=sys.argv[1], api_key="k", retry_seconds=0)), peak()
try:
    client.get("/x", msgspec.json.decode)
except ResponseTooLarge as error:
    print(peak() - before, error)
"""


@pytest.mark.parametrize("respond", BODIES)
def test_a_body_above_the_limit_is_refused_in_bounded_memory(respond, serve, tmp_path) -> None:
    server = serve(respond)
    command = [sys.executable, "-c", PEAK, server.url]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path, check=True)
    used, text = ran.stdout.split(" ", 1)
    assert float(used) < 100  # MiB: the limit of 64 and what the C library keeps
    assert text.startswith("GET /x failed: response larger than 64 MiB.")
    assert server.requests == 1


@pytest.mark.parametrize("respond", [endless, gzip_bomb])
@pytest.mark.parametrize("status", [404, 500])
def test_an_endless_error_body_is_not_read(respond, status, serve) -> None:
    server = serve(lambda path: (p.replace(b"200 OK", b"%d No" % status) for p in respond(path)))
    error = in_time(lambda: get(client_of(server)))
    assert f"returned {status}" in str(error)


def test_a_body_at_the_limit_is_read(serve, monkeypatch) -> None:
    monkeypatch.setattr(client_module, "MAX_BODY_BYTES", 1000)
    body = b"[" + b" " * 998 + b"]"
    client = client_of(serve(lambda _: [sized(body)]))
    assert get(client) == []
    with pytest.raises(ResponseTooLarge):
        get(client_of(serve(lambda _: [sized(body + b" ")])))


# Truncated and corrupt bodies


CORRUPT = {
    "content length": sized(b"[1, 2]")[:-2],
    "chunk": CHUNKED + b"\r\n6\r\n[1, 2",
    "no last chunk": CHUNKED + b"\r\n6\r\n[1, 2]\r\n",
    "not gzip": sized(b"[1, 2]", HEAD + b"Content-Encoding: gzip\r\n"),
    "half a gzip": sized(gzip.compress(b"[1, 2]" + b" " * 9000)[:20], HEAD + b"Content-Encoding: gzip\r\n"),
}


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("content length", "response truncated"),
        ("chunk", "response truncated"),
        ("no last chunk", "response truncated"),
        ("not gzip", "response cannot be decompressed"),
        ("half a gzip", "not JSON"),
    ],
)
def test_a_corrupt_body_is_transient(kind, text, serve) -> None:
    def respond(_: str) -> Parts:
        yield CORRUPT[kind]
        raise ConnectionAbortedError

    with pytest.raises(TransientApiError, match=text):
        get(client_of(serve(respond)))


def nested(levels: int) -> bytes:
    return b'{"users": [{"metadata": "[[[" , "properties": ' + b"[" * levels + b'"secret"' + b"]" * levels + b"}]}"


@pytest.mark.parametrize(
    ("body", "error", "text"),
    [
        (nested(100_000), PermanentApiError, r"cannot be parsed \(page 7\): 100,003 levels of nesting \(byte 100045\)"),
        (b'{"users": [{"email": "secret", "x": NaN}]}', TransientApiError, r"not JSON \(page 7\): .*\(byte 36\)"),
        (b'{"users": [{"email": "secret\xff"}]}', TransientApiError, r"not JSON \(page 7\): invalid UTF-8 \(byte 28\)"),
    ],
)
def test_a_page_that_cannot_be_parsed_is_refused_with_page_and_position(body, error, text, serve) -> None:
    client = client_of(serve(lambda _: [sized(body)]))
    decode = PageDecoder(RowType(BY_NAME["user_query"]), "users")
    with pytest.raises(error, match=text) as caught:
        client.get("/users", decode, {"page_size": 10, "page_number": 7})
    assert "secret" not in str(caught.value)
    assert type(caught.value) is error


def test_a_refused_connection_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(TransientApiError, match="failed: connection refused"):
        get(Client(Tenant(auth_url=f"http://127.0.0.1:{port}", api_key="k", retry_seconds=0)))


def test_an_unknown_host_is_named() -> None:
    with pytest.raises(TransientApiError, match="failed: host name not found"):
        get(Client(Tenant(auth_url="https://propel-assets.invalid", api_key="k", retry_seconds=0)))


# A list whose pages are too large is read in smaller pages


def org_pages(heavy: range) -> Callable[[str], Parts]:
    """Return a server of 300 orgs; those in ``heavy`` make pages too large for a limit of 20,000 bytes."""

    def org(number: int) -> dict[str, Any]:
        filler = "x" * (700 if number in heavy else 10)
        return {"org_id": f"o{number:04}", "name": filler, "created_at": 1_700_000_000 + number}

    def respond(path: str) -> Parts:
        query = dict(pair.split("=") for pair in path.partition("?")[2].split("&"))
        size, number = int(query["page_size"]), int(query["page_number"])
        orgs = [org(n) for n in range(size * number, min(300, size * (number + 1)))]
        page = {"orgs": orgs, "total_orgs": 300, "page_size": size, "current_page": number}
        return [sized(json.dumps(page | {"has_more_results": size * (number + 1) < 300}).encode())]

    return respond


@pytest.mark.parametrize("heavy", [range(300), range(10), range(150, 160), range(290, 300)])
def test_pages_above_the_limit_are_read_with_half_the_page_size(heavy, serve, monkeypatch) -> None:
    monkeypatch.setattr(client_module, "MAX_BODY_BYTES", 20_000)
    client = client_of(serve(org_pages(heavy)))
    *batches, result = read_scan("orgs", ScanContext(client=client))
    ids = [id_ for rows in batches if isinstance(rows, Rows) for id_ in rows.data.column("org_id").to_pylist()]
    assert sorted(ids) == [f"o{number:04}" for number in range(300)]
    assert isinstance(result, ScanResult)
    assert (result.verdict, result.rows_read) == ("proved", 300)


def test_rows_too_large_for_any_page_size_end_the_scan(serve, monkeypatch) -> None:
    monkeypatch.setattr(client_module, "MAX_BODY_BYTES", 5_000)
    client = client_of(serve(org_pages(range(300))))
    with pytest.raises(ResponseTooLarge, match="response larger than"):
        list(read_scan("orgs", ScanContext(client=client)))


@pytest.mark.parametrize(
    ("header", "named"),
    [
        ("Text/HTML; charset=utf-8", "text/html"),
        ("bob@secret.test key-SECRET", "a body of another type"),
        ("secret/key-SECRET", "a body of another type"),
        ("", "a body without a type"),
    ],
)
def test_an_error_names_known_types_of_bodies_only(header, named, serve) -> None:
    server = serve(lambda _: [f"HTTP/1.1 200 OK\r\nContent-Type: {header}\r\nContent-Length: 5\r\n\r\n<bob>".encode()])
    client = Client(Tenant(auth_url=server.url, api_key="the-key", retry_seconds=0.1))
    with pytest.raises(TransientApiError, match=f"returned 200 with {named} that is not JSON") as caught:
        client.get("/x", msgspec.json.decode)
    assert "ecret" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ('{"bob@secret.test": ["x"], "key-SECRET": 1}', "request"),
        ('{"bob@secret.test": ["x"], "page_size": ["secret"]}', "page_size"),
        (
            '{"error_code": "e", "user_facing_error": "secret", "field_errors": {"page_size": "x", "secret": 1}}',
            "page_size",
        ),
        ('{"error_code": "e", "user_facing_errors": {"page_number": ["secret"]}}', "page_number"),
        ('["secret"]', "request"),
        ("[" * 60_000, "request"),
    ],
)
def test_a_refusal_names_only_parameters_that_were_sent(body, named, serve) -> None:
    head = f"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    client = Client(Tenant(auth_url=serve(lambda _: [(head + body).encode()]).url, api_key="the-key"))
    with pytest.raises(PermanentApiError) as caught:
        client.get("/x", msgspec.json.decode, {"page_size": 1, "page_number": 0})
    assert str(caught.value) == f"GET /x returned 400: invalid {named}."
