"""Pages read by the script, one request after the other, and piped as JSON lines into Sling. Users alone.

Sling's own API specs wait for a licence server, for ever where there is none. `python sling_duckdb.py URL DATABASE`
"""

import http.client
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

HEADERS = {"Authorization": "Bearer sandbox-api-key"}
DUCKDB = "1.5.5"


def users(url: str) -> Iterator[bytes]:
    """Yield one user a line; what is nested as text, so that Sling does not make a column per key."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc)
    number, more = 0, True
    while more:
        path = f"/api/backend/v1/user/query?page_size=100&page_number={number}"
        connection.request("GET", path, headers=HEADERS)
        page = json.load(connection.getresponse())
        for user in page["users"]:
            nested = {name: json.dumps(user[name]) for name in ("properties", "metadata")}
            yield json.dumps(user | nested).encode() + b"\n"
        number, more = number + 1, page["has_more_results"]


def folder_of(package: str) -> Path:
    """Return where a package is installed."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(f"{package} is not installed")
    return Path(spec.origin).parent


def main(url: str, database: str) -> int:
    """Pipe the users into Sling, whose DuckDB finds its extensions here and not on the network."""
    extensions = Path(f".duckdb/extensions/v{DUCKDB}/linux_amd64")
    extensions.mkdir(parents=True)
    for name in ("json", "httpfs"):
        shutil.copy(folder_of(f"duckdb_extension_{name}") / f"extensions/v{DUCKDB}/{name}.duckdb_extension", extensions)
    environment = {
        **os.environ,
        "HOME": str(Path.cwd()),
        "SLING_HOME_DIR": str(Path.cwd() / "sling"),
        "DUCKDB_PATH": str(folder_of("duckdb_cli") / "duckdb"),
        "DB": json.dumps({"type": "duckdb", "instance": database}),
    }
    program = folder_of("sling_linux_amd64") / "bin/sling-linux-amd64"
    command = [str(program), "run", "--src-options", '{"format": "jsonlines", "flatten": 0}']
    command += ["--tgt-conn", "DB", "--tgt-object", "propel_auth_data.user_query", "--mode", "full-refresh"]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE) as sling:
        assert sling.stdin is not None
        sling.stdin.writelines(users(url))
    return sling.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
