"""Reading in a process of its own: one core reads users while another writes what dlt makes of them.

Both want Python's lock, so threads would only take turns. The other process runs `main`; it is asked over its stdin and
tells over its stdout, pickled, and ends with the one that started it, however that ends. docs/decisions/0008.
"""

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Collection, Generator, Iterator, MutableMapping
from queue import Queue
from threading import Thread
from typing import Any, BinaryIO

from propel_assets.errors import ReadingStopped
from propel_assets.settings import Settings
from propel_assets.source.client import Client
from propel_assets.source.lists import Progress, ScanReport
from propel_assets.source.readers import Reader
from propel_assets.source.table_reader import ReadOptions, Rows

SCAN = "users"  # others are small, or wait for the server most of the time
MANY_USERS = 50_000  # fewer are read before the other process is there
MESSAGES_AHEAD = 4  # of 10,000 rows each
PROGRAM = "import sys; sys.path[:] = {path!r}; from propel_assets.source.apart import main; main()"

_started: list[subprocess.Popen[bytes]] = []


def start() -> None:
    """Start the other process now, so that it imports what it needs while this one imports dlt."""
    command = [sys.executable, "-c", PROGRAM.format(path=sys.path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603 - this very Python
    _started.append(process)


def reader_of(
    scan: str, settings: Settings, state: MutableMapping[str, Any], options: ReadOptions, progress: Progress
) -> "Reader | ReaderApart":
    """Return what reads ``scan``: another process if one was started, or if there were many users at the last load."""
    many = state.get("rows", {}).get("user_query", 0) >= MANY_USERS
    if scan == SCAN and not options.recent and (many or _started):
        return ReaderApart(settings, state, options, progress)
    return Reader(Client(settings), state, options, progress)


class ReaderApart:
    """Reads the tables of one scan as `Reader` does, in another process."""

    def __init__(
        self, settings: Settings, state: MutableMapping[str, Any], options: ReadOptions, progress: Progress
    ) -> None:
        """Start nothing yet. ``state`` and `reports` are those of before until all has been read."""
        self._settings, self._state, self._options, self._progress = settings, state, options, progress
        self.reports: dict[str, ScanReport] = {}

    def read(self, scan: str, wanted: Collection[str]) -> Generator[Rows]:
        """Yield what `Reader.read` yields, and raise what it raises.

        Raises:
            ReadingStopped: the other process was killed.
        """
        if not _started:
            start()
        with _started.pop() as process:
            asked: Any = process.stdin
            told: Any = process.stdout
            try:
                _send((self._settings, dict(self._state), self._options, scan, set(wanted)), asked)
                while not self.reports:
                    yield from self._hear(told)
            except (EOFError, BrokenPipeError, pickle.UnpicklingError):
                raise ReadingStopped(
                    f"The process that read {', '.join(sorted(wanted))} from PropelAuth was ended by somebody else, or "
                    "for want of memory. Nothing was replaced; run again."
                ) from None
            finally:
                process.kill()

    def _hear(self, told: BinaryIO) -> Iterator[Rows]:
        match pickle.load(told):  # noqa: S301 - of our own process
            case "rows", rows:
                yield rows
            case "progress", progress:
                self._progress(*progress)
            case "failed", error:
                raise error
            case "done", reports, state:
                self.reports = reports
                self._state.update(state)


def main() -> None:
    """Read what the process that started this one asks for."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both, and the other one ends this
    told, sys.stdout = sys.stdout.buffer, sys.stderr
    try:
        settings, state, options, scan, wanted = pickle.load(sys.stdin.buffer)  # noqa: S301 - of our own process
    except EOFError:
        return  # it had nothing to ask
    messages: Queue[Any] = Queue(MESSAGES_AHEAD)
    Thread(target=_end_with, args=(sys.stdin.fileno(),), daemon=True).start()
    telling = Thread(target=_tell, args=(messages, told), daemon=True)
    telling.start()
    reader = Reader(Client(settings), state, options, lambda *progress: messages.put(("progress", progress)))
    try:
        for rows in reader.read(scan, wanted):
            messages.put(("rows", rows))
        messages.put(("done", reader.reports, state))
    except Exception as error:  # the other process says what it means
        messages.put(("failed", error))
    messages.put(None)
    telling.join()


def _send(message: Any, to: BinaryIO) -> None:
    pickle.dump(message, to)
    to.flush()


def _tell(messages: "Queue[Any]", told: BinaryIO) -> None:
    """Write, while more is read. What cannot be told ends the process: the other one then knows."""
    try:
        while (message := messages.get()) is not None:
            _send(message, told)
    except BaseException:
        os._exit(1)


def _end_with(asked: int) -> None:
    """End this process when the other one ends: its end of the pipe is then closed."""
    os.read(asked, 1)  # without the lock of a file object, which the end of the interpreter wants
    os._exit(1)
