"""One run of one command as a whole process: wall time, CPU time and peak memory, its children included."""

import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ENDED_WELL = 0


class CommandFailed(Exception):
    """A command did not end well; the text has the last it said."""


@dataclass(frozen=True)
class Cost:
    """What a run took. ``memory_mb``: the peak of its largest process."""

    wall: float
    cpu: float
    memory_mb: float


def measured(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Cost:
    """Run ``command`` in ``folder`` and return what it took.

    Raises:
        CommandFailed: it did not end with 0.
    """
    log = folder / "log"
    with log.open("wb") as output:
        started = time.monotonic()
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            _, status, used = os.wait4(process.pid, 0)  # it and all it has waited for
        except BaseException:
            process.kill()
            raise
        wall = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != ENDED_WELL:
        said = log.read_text(errors="replace")[-2_000:]
        raise CommandFailed(f"{' '.join(command)} ended with {process.returncode}:\n{said}")
    return Cost(wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


@contextmanager
def served(command: Sequence[str]) -> Iterator[str]:
    """Run a server in a process of its own; give its URL, which it prints after a name."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            _, _, url = server.stdout.readline().strip().partition("_URL=")
            if not url:
                raise CommandFailed(f"{' '.join(command)} did not start.")
            yield url
        finally:
            server.terminate()
