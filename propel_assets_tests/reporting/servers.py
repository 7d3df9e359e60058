"""Servers that alerts are delivered to: a webhook, a mail server, incident services, and one that never finishes."""

import datetime
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from aiosmtpd.controller import Controller
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from propel_assets_tests.processes import free_port

SECRET = "T00/B00/very-secret"


class Webhook(ThreadingHTTPServer):
    """Stores the texts that are posted, and responds with ``status``."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), WebhookHandler)
        self.status, self.requests, self.texts = 200, 0, []
        self.url = f"http://127.0.0.1:{self.server_port}/services/{SECRET}"


class WebhookHandler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server: Any = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.requests += 1
        if server.status == 200 and self.path == f"/services/{SECRET}":
            server.texts.append(body["text"])
        self.send_response(server.status)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def running_webhook() -> Iterator[Webhook]:
    with Webhook() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class Mail(NamedTuple):
    is_encrypted: bool
    recipients: list[str]
    content: str


class MailServer:
    """Accepts every mail.

    Attributes:
        mails: the mails it has accepted.
        refused: the recipients that it refuses.
        address: host and port.
        certificate: the file with its certificate, which no authority has signed.
    """

    def __init__(self, address: str, certificate: Path) -> None:
        self.mails: list[Mail] = []
        self.refused: set[str] = set()
        self.address = address
        self.certificate = str(certificate)

    async def handle_RCPT(self, server, session, envelope, address, options) -> str:  # noqa: N802
        if address in self.refused:
            return "550 no such user"
        envelope.rcpt_tos.append(address)
        return "250 accepted"

    async def handle_DATA(self, server, session, envelope) -> str:  # noqa: N802 - the name that aiosmtpd calls
        self.mails.append(Mail(session.ssl is not None, envelope.rcpt_tos, envelope.content.decode()))
        return "250 accepted"


@contextmanager
def running_mail_server(folder: Path) -> Iterator[MailServer]:
    """Run a mail server that offers STARTTLS, with a certificate for localhost."""
    file = folder / "localhost.pem"
    context = tls_of("localhost", file)
    port = free_port()
    server = MailServer(f"localhost:{port}", file)
    controller = Controller(server, hostname="localhost", port=port, tls_context=context)
    controller.start()
    yield server
    controller.stop()


def tls_of(host: str, file: Path) -> ssl.SSLContext:
    """Return a server context with a new certificate for ``host``, which is written to ``file``."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(1)).not_valid_after(now + datetime.timedelta(1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
    certificate = builder.sign(key, hashes.SHA256())
    private = serialization.PrivateFormat.PKCS8
    pem = serialization.Encoding.PEM
    file.write_bytes(key.private_bytes(pem, private, serialization.NoEncryption()) + certificate.public_bytes(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


class IncidentService(ThreadingHTTPServer):
    """The service at ``host``, for clients that have it as their HTTPS proxy and trust its certificate.

    Attributes:
        posts: path and body of each request.
        limit: the number of requests after which it answers 500.
    """

    def __init__(self, host: str, certificate: Path) -> None:
        super().__init__(("127.0.0.1", 0), IncidentHandler)
        self.tls = tls_of(host, certificate)
        self.posts: list[tuple[str, dict[str, Any]]] = []
        self.limit = 100


class IncidentHandler(BaseHTTPRequestHandler):
    def do_CONNECT(self) -> None:
        server: Any = self.server
        self.send_response(200)
        self.end_headers()
        self.request = server.tls.wrap_socket(self.request, server_side=True)
        self.setup()
        self.close_connection = False

    def finish(self) -> None:
        super().finish()
        self.request.close()

    def do_POST(self) -> None:
        server: Any = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        accepted = len(server.posts) < server.limit
        if accepted:
            server.posts.append((self.path, body))
        self.send_response(202 if accepted else 500)
        self.end_headers()
        self.wfile.write(b'{"requestId": "1"}')

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def running_incident_service(host: str, folder: Path, monkeypatch) -> Iterator[IncidentService]:
    certificate = folder / f"{host}.pem"
    with IncidentService(host, certificate) as server, monkeypatch.context() as environment:
        environment.setenv("HTTPS_PROXY", f"http://127.0.0.1:{server.server_port}")
        environment.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class DrippingServer:
    """A server that reaches ``stage`` and then sends one byte every 50 ms until it is stopped.

    Attributes:
        mails: the mails it has accepted.
    """

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]
        self.port = self._listener.getsockname()[1]
        self.mails: list[str] = []
        self._threads[0].start()

    def stop(self) -> None:
        self._stopped.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
                self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            if self._stage == "status line":
                self._drip(connection, b"HTTP/1.1 ")
            elif self._stage == "headers":
                self._drip(connection, b"HTTP/1.1 200 OK\r\nX-Drip: ")
            elif self._stage == "TLS handshake":
                self._drip(connection, b"\x16\x03\x03\x40\x00")  # a TLS record of 16 KiB that never ends
            else:
                self._serve_mail(connection)

    def _drip(self, connection: socket.socket, start: bytes) -> NoReturn:
        connection.sendall(start)
        while not self._stopped.wait(0.05):
            connection.sendall(b"x")
        raise ConnectionAbortedError

    def _serve_mail(self, connection: socket.socket) -> None:
        def answer(command: str, text: bytes) -> None:
            if command == self._stage:
                self._drip(connection, text[:3] + b"-")
            connection.sendall(text + b"\r\n")

        answer("greeting", b"220 ready")
        lines = connection.makefile("rb")
        for line in lines:
            command = line.split()[0].decode().upper()
            if command == "DATA":
                answer("DATA", b"354 go on")
                mail = b"".join(takewhile(lambda line: line != b".\r\n", lines)).decode()
                if self._stage != "end of mail":
                    self.mails.append(mail)
                answer("end of mail", b"250 accepted")
            else:
                answer(command, b"250 ok")


@contextmanager
def dripping(stage: str) -> Iterator[DrippingServer]:
    server = DrippingServer(stage)
    try:
        yield server
    finally:
        server.stop()


class EndlessHandler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.send_response(200)
        self.end_headers()
        with suppress(OSError):
            while True:
                self.wfile.write(b"x" * (1 << 20))

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def endless() -> Iterator[str]:
    """Run a server whose responses never end; yield its URL for apprise."""
    with ThreadingHTTPServer(("127.0.0.1", 0), EndlessHandler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"json://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()
