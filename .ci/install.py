"""Install into a virtual environment, with the versions of a constraints file, in a few plain lines.

    python3 .ci/install.py .venv constraints.txt -e '.[test]'

An install that was cut short leaves a mark in the environment, and the next one starts afresh.
Two at the same time take turns. Needs Python only: this runs before anything is installed.
"""

import contextlib
import fcntl
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path


def main(venv: Path, constraints: str, *what: str) -> int:
    """Make `venv` if it is missing or broken, and install `what` into it."""
    python, mark, log = venv / "bin/python", venv / "unfinished", venv / "install.log"
    with one_at_a_time():
        started = time.monotonic()
        if mark.exists() or not works(python):
            print(f"Making {venv} with Python {sys.version.split()[0]}", flush=True)
            subprocess.run([sys.executable, "-m", "venv", "--clear", venv], check=True)
        print(f"Installing {what[-1]} into {venv}; details in {log}", flush=True)
        mark.touch()
        pip = [python, "-m", "pip", "install", "--no-input", "--progress-bar=off"]
        pip += ["--disable-pip-version-check", "-c", constraints]
        with log.open("w") as file:
            # setuptools first, so that building the project downloads nothing of its own.
            for arguments in (["setuptools>=77"], ["--no-build-isolation", *what]):
                if failed := run([*pip, *arguments], log=file):
                    print(f"pip failed; the rest of what it said is in {log}", file=sys.stderr)
                    return failed
        mark.unlink()
        print(f"  done in {time.monotonic() - started:.0f} s", flush=True)
    return 0


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Hold a lock on the working directory."""
    here = os.open(".", os.O_RDONLY)
    try:
        try:
            fcntl.flock(here, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Another install is running here: waiting for it", flush=True)
            fcntl.flock(here, fcntl.LOCK_EX)
        yield
    finally:
        os.close(here)


def works(python: Path) -> bool:
    """Tell whether `python` is there and has pip."""
    try:
        pip = [python, "-c", "import pip"]
        return subprocess.run(pip, check=False, capture_output=True).returncode == 0
    except OSError:
        return False


def run(command: list, *, log) -> int:
    """Run pip, and show of what it says only what takes long."""
    pip = subprocess.Popen(["env", "PYTHONUNBUFFERED=1", *command], stdout=subprocess.PIPE, text=True)
    for line in pip.stdout:
        log.write(line)
        log.flush()
        if big := re.match(r" *Downloading (\S+?)-[^(]*(\([\d.]+ MB\))", line):
            print(f"  downloading {Path(big[1]).name} {big[2]}", flush=True)
        elif (packages := line.count(",")) and line.startswith("Installing collected"):
            print(f"  installing {packages + 1} packages", flush=True)
    return pip.wait()


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
    except KeyboardInterrupt:
        sys.exit(130)
