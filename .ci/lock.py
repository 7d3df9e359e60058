"""Write what a deployment installs, each file by its hash: `python .ci/lock.py deploy/requirements.txt '.[postgres]'`.

The files are those that pip takes on this machine under constraints.txt. Needs Python and pip only.
"""

import json
import platform
import subprocess
import sys
from pathlib import Path


def main(lock: Path, *what: str) -> int:
    """Ask pip what it would install, and write it down; nothing is written when pip cannot say."""
    pip = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report=-"]
    asked = subprocess.run([*pip, "-c", "constraints.txt", *what], stdout=subprocess.PIPE, text=True, check=False)
    if asked.returncode:
        return asked.returncode
    found = json.loads(asked.stdout)["install"]
    here = f"Python 3.{sys.version_info[1]} on {platform.system()} {platform.machine()}"
    lines = [f"# What pip takes for {here}. Made by `make lock`; do not edit."]
    for package in sorted(found, key=lambda package: package["metadata"]["name"].lower()):
        if "archive_info" in package["download_info"]:  # else it is this project
            name, version = package["metadata"]["name"], package["metadata"]["version"]
            sha256 = package["download_info"]["archive_info"]["hashes"]["sha256"]
            lines.append(f"{name}=={version} --hash=sha256:{sha256}")
    lock.write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
