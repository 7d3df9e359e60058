"""The floor: every page downloaded over keep-alive connections, read by DuckDB's own JSON reader. Nothing else.

No retries, no proof, no state, no checks; a user who moves while this runs is lost.
`python floor.py URL DATABASE [users]`
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import urllib3

WORKERS, PAGE_SIZE = 8, 100
HEADERS = {"Authorization": "Bearer sandbox-api-key"}
USER = {
    "user_id": "VARCHAR",
    "email": "VARCHAR",
    "email_confirmed": "BOOLEAN",
    "has_password": "BOOLEAN",
    "locked": "BOOLEAN",
    "enabled": "BOOLEAN",
    "mfa_enabled": "BOOLEAN",
    "can_create_orgs": "BOOLEAN",
    "update_password_required": "BOOLEAN",
    "username": "VARCHAR",
    "first_name": "VARCHAR",
    "last_name": "VARCHAR",
    "picture_url": "VARCHAR",
    "properties": "JSON",
    "metadata": "JSON",
    "created_at": "BIGINT",
    "last_active_at": "BIGINT",
    "legacy_user_id": "VARCHAR",
    "impersonator_user_id": "VARCHAR",
}
MEMBER = {
    "org_id": "VARCHAR",
    "org_name": "VARCHAR",
    "org_metadata": "JSON",
    "url_safe_org_name": "VARCHAR",
    "org_role_structure": "VARCHAR",
    "user_role": "VARCHAR",
    "inherited_user_roles_plus_current_role": "JSON",
    "user_permissions": "JSON",
    "additional_roles": "JSON",
    "legacy_org_id": "VARCHAR",
}
ORGS = "org_id_to_org_info"


class Page(msgspec.Struct):
    """A page, its users still as they were sent."""

    users: list[msgspec.Raw]
    total_users: int


def download(url: str, file: Path, include_orgs: bool) -> None:
    """Write every user into ``file``, one a line."""
    pool = urllib3.PoolManager(maxsize=WORKERS, headers=HEADERS)
    decoder = msgspec.json.Decoder(Page)

    def page(number: int) -> Page:
        fields: Any = {"page_size": PAGE_SIZE, "page_number": number, "include_orgs": str(include_orgs).lower()}
        return decoder.decode(pool.request("GET", f"{url}/api/backend/v1/user/query", fields=fields).data)

    first = page(0)
    with file.open("wb") as lines, ThreadPoolExecutor(WORKERS) as workers:
        lines.writelines(user + b"\n" for user in map(bytes, first.users))
        for answer in workers.map(page, range(1, -(-first.total_users // PAGE_SIZE))):
            lines.write(b"\n".join(map(bytes, answer.users)) + b"\n")


def load(file: Path, database: str, include_orgs: bool) -> None:
    """Replace the tables by what ``file`` holds, in one transaction."""
    info = f"STRUCT({', '.join(f'{name} {kind}' for name, kind in MEMBER.items())})"
    columns = {**USER, ORGS: f"MAP(VARCHAR, {info})"} if include_orgs else USER
    typed = ", ".join(f"{name}: '{kind}'" for name, kind in columns.items())
    lines = f"read_json('{file}', format = 'newline_delimited', columns = {{{typed}}})"
    moments = ", ".join(f"make_timestamptz({name} * 1000000) AS {name}" for name in ("created_at", "last_active_at"))
    with duckdb.connect(database) as db:
        db.execute("BEGIN")
        if include_orgs:
            db.execute(f"CREATE TEMP TABLE lines AS FROM {lines}")
            member = "unnest(map_values(org_id_to_org_info), recursive := true)"
            db.execute(f"CREATE OR REPLACE TABLE org_membership AS SELECT user_id, {member} FROM lines")
            db.execute(f"CREATE OR REPLACE TABLE user_query AS SELECT * EXCLUDE {ORGS} REPLACE ({moments}) FROM lines")
        else:
            db.execute(f"CREATE OR REPLACE TABLE user_query AS SELECT * REPLACE ({moments}) FROM {lines}")
        db.execute("COMMIT")


if __name__ == "__main__":
    lines, with_orgs = Path("users.ndjson"), "users" not in sys.argv[3:]
    download(sys.argv[1], lines, with_orgs)
    load(lines, sys.argv[2], with_orgs)
