"""Servers that are processes of their own."""

import contextlib
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

START_SECONDS = 60
ROOT = Path(__file__).parents[3]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def running(command: Sequence[str | Path], port: int, env: Mapping[str, str] | None = None) -> Iterator[None]:
    """Run a server until the block is left; it is there once it listens on ``port``."""
    with tempfile.TemporaryFile("w+") as said:  # not a pipe: nobody reads it, and a full one stops the server
        process = subprocess.Popen(command, env=env, stdout=said, stderr=said)
        try:
            deadline = time.monotonic() + START_SECONDS
            while not _listens(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    said.seek(0)
                    raise RuntimeError(f"{command[0]} did not start: {said.read()[-2000:]}")
                time.sleep(0.05)
            yield
        finally:
            process.kill()
            process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
