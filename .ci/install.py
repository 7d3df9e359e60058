"""Install into a virtual environment, with the versions that a constraints file names.

    python3 .ci/install.py .venv constraints.txt -e '.[test]'

An install that was cut short leaves a mark in the environment, and the next one starts afresh.
Two at the same time take turns. Needs Python only: this runs before anything is installed.
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path


def main(venv: Path, constraints: str, *what: str) -> int:
    """Make `venv` if it is missing or broken, and install `what` into it."""
    lock = wait_for_turn()
    started = time.monotonic()
    python, mark, log = venv / "bin/python", venv / "unfinished", venv / "install.log"
    if mark.exists() or not works(python):
        print(f"Making {venv} with Python {sys.version.split()[0]}", flush=True)
        shutil.rmtree(venv, ignore_errors=True)
        venv.mkdir()
        mark.touch()
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    print(f"Installing {what[-1]} into {venv}; details in {log}", flush=True)
    mark.touch()
    pip = [python, "-u", "-m", "pip", "install", "--no-input", "--progress-bar=off"]
    pip += ["--disable-pip-version-check", "-c", constraints]
    log.write_text("")
    # setuptools first, so that building the project downloads nothing of its own.
    for arguments in (["setuptools>=77"], ["--no-build-isolation", *what]):
        if failed := run([*pip, *arguments], log=log, lock=lock):
            print(f"pip failed; the rest of what it said is in {log}", file=sys.stderr)
            return failed
    mark.unlink()
    print(f"  done in {time.monotonic() - started:.0f} s", flush=True)
    return 0


def wait_for_turn() -> int:
    """Lock the working directory until this process and its pip have ended."""
    here = os.open(".", os.O_RDONLY)
    try:
        fcntl.flock(here, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("Another install is running here: waiting for it", flush=True)
        fcntl.flock(here, fcntl.LOCK_EX)
    return here


def works(python: Path) -> bool:
    """Tell whether `python` is there and has pip."""
    try:
        pip = [python, "-c", "import pip"]
        return subprocess.run(pip, check=False, capture_output=True).returncode == 0
    except OSError:
        return False


def run(command: list[str | Path], *, log: Path, lock: int) -> int:
    """Run pip, log what it says, and show of that only what takes long."""
    pip = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, pass_fds=[lock])
    with log.open("a") as file:
        for line in pip.stdout or ():
            file.write(line)
            if big := re.match(r" *Downloading (\S+?)-[^(]*(\([\d.]+ MB\))", line):
                print(f"  downloading {Path(big[1]).name} {big[2]}", flush=True)
            elif (commas := line.count(",")) and line.startswith("Installing collected"):
                print(f"  installing {commas + 1} packages", flush=True)
    return pip.wait()


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
    except KeyboardInterrupt:
        sys.exit(130)
