"""Install into a virtual environment, with the versions that a constraints file names.

    python3 .ci/install.py .venv constraints.txt -e '.[test]'
    python3 .ci/install.py uvx constraints.txt --from WHEEL propel-assets demo

uv installs if it is on PATH or pip can install it; if uv fails, pip installs. An install that was cut short leaves a
mark in the environment, and the next one starts from an empty environment. Two installs at the same time take turns.
Needs only Python: this runs before anything is installed.
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
    """Create `venv` if it is missing or broken, and install `what` into it."""
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
    log.write_text("")
    pip = [python, "-u", "-m", "pip", "install", "--no-input", "--progress-bar=off", "--disable-pip-version-check"]
    installers = [(find_uv(venv, pip), uv_environment(python)), (pip, dict(os.environ))]
    failed = 1
    for command, environment in installers:
        # setuptools first, so that building the project downloads nothing of its own.
        for arguments in (["setuptools>=77"], ["--no-build-isolation", *what]):
            failed = run([*command, "-c", constraints, *arguments], environment, log=log, lock=lock) if command else 1
            if failed:
                break
        if not failed:
            break
    if failed:
        print(f"pip failed; its output is in {log}", file=sys.stderr)
        return failed
    mark.unlink()
    print(f"  done in {time.monotonic() - started:.0f} s", flush=True)
    return 0


def find_uv(venv: Path, pip: list[str | Path]) -> list[str | Path]:
    """Return the command of uv that installs into `venv`; an empty list if there is no uv."""
    uv = shutil.which("uv") or venv / "bin/uv"
    if not Path(uv).exists():
        subprocess.run([*pip, "--quiet", "uv"], check=False, capture_output=True)
    return [uv, "pip", "install", "--python", venv / "bin/python"] if Path(uv).exists() else []


def uv_environment(python: Path) -> dict[str, str]:
    """Return the environment for uv, with pip's index and certificate: uv does not read pip's configuration."""
    listed = subprocess.run([python, "-m", "pip", "config", "list"], check=False, capture_output=True, text=True).stdout
    names = {"index.url": "UV_DEFAULT_INDEX", "extra.index.url": "UV_INDEX", "cert": "SSL_CERT_FILE"}
    environment = {"UV_INDEX_STRATEGY": "unsafe-best-match", **os.environ}  # all indexes are equal, as for pip
    for name, variable in names.items():
        if found := re.search(rf"(?:global|install|:env:)\.{name}='([^']+)'", listed):
            places = found[1].split()
            usable = [place for place in places if not place.startswith("file:") or Path(place[7:]).is_dir()]
            if usable:
                environment.setdefault(variable, " ".join(usable))
    return environment


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
    """Return whether `python` exists and has pip."""
    try:
        pip = [python, "-c", "import pip"]
        return subprocess.run(pip, check=False, capture_output=True).returncode == 0
    except OSError:
        return False


def run(command: list[str | Path], environment: dict[str, str], *, log: Path, lock: int) -> int:
    """Run an installer, log its output, and print the lines of pip that announce long work."""
    with log.open("a") as file:
        installer = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=file, text=True, pass_fds=[lock]
        )
        for line in installer.stdout or ():
            file.write(line)
            if big := re.match(r" *Downloading (\S+?)-[^(]*(\([\d.]+ MB\))", line):
                print(f"  downloading {Path(big[1]).name} {big[2]}", flush=True)
            elif (commas := line.count(",")) and line.startswith("Installing collected"):
                print(f"  installing {commas + 1} packages", flush=True)
    return installer.wait()


def run_uvx(constraints: str, *words: str) -> int:
    """Run uvx with pip's index and certificate."""
    uvx = shutil.which("uvx") or Path(sys.executable).with_name("uvx")
    environment = uv_environment(Path(sys.executable)) | {"UV_CONSTRAINT": constraints}
    return subprocess.run([uvx, "--quiet", *words], env=environment, check=False).returncode


if __name__ == "__main__":
    try:
        if sys.argv[1] == "uvx":
            sys.exit(run_uvx(*sys.argv[2:]))
        sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
    except KeyboardInterrupt:
        sys.exit(130)
