"""Delivery to servers that never finish: one total time limit, whatever the server does, and no mail twice."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from propel_assets.reporting.delivery import deliver
from propel_assets.settings import Settings

LIMIT = 2.0
MAIL: Any = {"alert_from": "dagster@example.com", "alert_to": "data@example.com"}
ALERT = ("PropelAuth: a test", "- Run failed: what to do")


class DrippingServer:
    """A server that sends one byte every 50 ms, for ever, once it has got to ``stage``.

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

    def _drip(self, connection: socket.socket, start: bytes) -> None:
        connection.sendall(start)
        while not self._stopped.wait(0.05):
            connection.sendall(b"x")

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
                body = iter(lines.readline, b".\r\n")
                mail = b"".join(body).decode()
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


@pytest.mark.parametrize("stage", ["status line", "headers"])
def test_a_webhook_that_drips_is_given_up_on_at_the_limit(stage) -> None:
    with dripping(stage) as server:
        settings = Settings(alert_webhook=f"http://127.0.0.1:{server.port}/secret")
        failures = deliver(settings, {"webhook": ALERT}, seconds=LIMIT)
    assert failures == {"webhook": "The webhook did not accept it within 2 s."}


@pytest.mark.parametrize("stage", ["greeting", "EHLO", "MAIL", "RCPT", "DATA", "end of mail", "TLS handshake"])
def test_a_mail_server_that_drips_is_given_up_on_at_the_limit(stage) -> None:
    scheme = "smtps" if stage == "TLS handshake" else "smtp"
    with dripping(stage) as server:
        settings = Settings(alert_smtp=f"{scheme}://127.0.0.1:{server.port}", **MAIL)
        failures = deliver(settings, {"e-mail": ALERT}, seconds=LIMIT)
        assert server.mails == []
    assert failures == {"e-mail": "The e-mail did not accept it within 2 s."}


def test_a_mail_that_was_accepted_is_delivered_although_the_server_drips_afterwards() -> None:
    with dripping("QUIT") as server:
        failures = deliver(Settings(alert_smtp=f"smtp://127.0.0.1:{server.port}", **MAIL), {"e-mail": ALERT})
        (mail,) = server.mails
    assert failures == {}
    assert ALERT[1] in mail


def test_a_target_that_drips_takes_no_time_from_the_other_one() -> None:
    with dripping("headers") as web, dripping("QUIT") as mail:
        settings = Settings(
            alert_webhook=f"http://127.0.0.1:{web.port}/", alert_smtp=f"smtp://127.0.0.1:{mail.port}", **MAIL
        )
        failures = deliver(settings, {"webhook": ALERT, "e-mail": ALERT}, seconds=10)
        assert len(mail.mails) == 1
    assert list(failures) == ["webhook"]


def test_no_process_is_started_without_a_target(monkeypatch) -> None:
    monkeypatch.setattr("subprocess.run", None)
    assert deliver(Settings(), {}) == {}


def test_a_reason_that_is_not_ascii_reaches_the_caller() -> None:
    settings = Settings(alert_smtp="smtp://127.0.0.1:1", alert_from="not an address", alert_to="ä@example.com")
    failures = deliver(settings, {"e-mail": ALERT})
    assert failures == {
        "e-mail": "PROPELAUTH_ALERT_FROM must be set to e-mail addresses, for example data@example.com."
    }
    assert json.dumps(failures)
