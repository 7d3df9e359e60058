"""Servers and processes that tests start: a free port, a wait for an event, a sandbox, a process that is stopped."""

import contextlib
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from threading import Thread
from typing import Any

import psutil

from propel_assets.sandbox.running import Sandbox

ROOT = Path(__file__).parents[1]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until(
    happened: Callable[[], Any], process: subprocess.Popen, what: str, *, seconds: float = 120, every: float = 0.05
) -> Any:
    """Return what ``happened`` returns once it is something; fail when that takes too long or ``process`` ends."""
    deadline = time.monotonic() + seconds
    while not (found := happened()):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(every)
            raise AssertionError(f"{what}: the process has ended by itself with {process.returncode}")
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
    return found


@contextlib.contextmanager
def running(
    command: Sequence[str | Path], port: int, env: Mapping[str, str] | None = None, *, seconds: float = 60
) -> Iterator[None]:
    """Run a server until the block is left; it is there once it listens on ``port``."""
    with tempfile.TemporaryFile("w+") as said:  # not a pipe: it is not read, and a full one stops the server
        process = subprocess.Popen(command, env=env, stdout=said, stderr=said)
        try:
            wait_until(lambda: listens(port), process, f"{command[0]} starts", seconds=seconds)
            yield
        except AssertionError:
            said.seek(0)
            print(said.read()[-2000:])
            raise
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
            process.kill()
            process.wait()


@contextlib.contextmanager
def running_sandbox(**options: Any) -> Iterator[Sandbox]:
    """Run a sandbox. It stops while the next test runs: stopping is 0.2 s of waiting."""
    sandbox = Sandbox(**options)
    sandbox.__enter__()
    try:
        yield sandbox
    finally:
        Thread(target=sandbox.__exit__).start()
