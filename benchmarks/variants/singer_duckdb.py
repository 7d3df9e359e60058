"""A Singer tap built with the Singer SDK, piped into target-duckdb. Users alone.

`python singer_duckdb.py URL DATABASE`: the pipe. `python singer_duckdb.py tap URL`: the tap.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

BOOLEANS = ("email_confirmed", "has_password", "locked", "enabled", "mfa_enabled", "can_create_orgs")
TEXTS = ("email", "username", "first_name", "last_name", "picture_url", "legacy_user_id", "impersonator_user_id")


def tap(url: str) -> None:
    """Write the users to standard output."""
    from singer_sdk import RESTStream, Tap
    from singer_sdk import typing as th
    from singer_sdk.authenticators import BearerTokenAuthenticator
    from singer_sdk.pagination import BasePageNumberPaginator

    class Pages(BasePageNumberPaginator):
        def has_more(self, response: Any) -> bool:
            return response.json()["has_more_results"]

    class Users(RESTStream):
        name = "user_query"
        url_base = f"{url}/api/backend/v1"
        path = "/user/query"
        primary_keys = ("user_id",)
        records_jsonpath = "$.users[*]"
        authenticator = BearerTokenAuthenticator(token="sandbox-api-key")  # noqa: S106
        schema = th.PropertiesList(
            th.Property("user_id", th.StringType, required=True),
            *(th.Property(name, th.StringType) for name in TEXTS),
            *(th.Property(name, th.BooleanType) for name in (*BOOLEANS, "update_password_required")),
            *(th.Property(name, th.IntegerType) for name in ("created_at", "last_active_at")),
            *(th.Property(name, th.ObjectType(additional_properties=True)) for name in ("properties", "metadata")),
        ).to_dict()

        def get_new_paginator(self) -> Pages:
            return Pages(0)

        def get_url_params(self, _context: Any, next_page_token: int | None) -> dict[str, Any]:
            return {"page_size": 100, "page_number": next_page_token or 0}

    class TapPropelAuth(Tap):
        name = "tap-propelauth"
        config_jsonschema = th.PropertiesList().to_dict()

        def discover_streams(self) -> list[Users]:
            return [Users(self)]

    TapPropelAuth(config={}).sync_all()


def pipe(url: str, database: str) -> int:
    """Run the tap into the target."""
    config = Path("target.json")
    config.write_text(json.dumps({"path": database, "default_target_schema": "propel_auth_data"}))
    target = [str(Path(sys.executable).with_name("target-duckdb")), "--config", str(config)]
    with subprocess.Popen([sys.executable, __file__, "tap", url], stdout=subprocess.PIPE) as source:
        done = subprocess.run(target, stdin=source.stdout, stdout=subprocess.DEVNULL, check=False)
    return source.returncode or done.returncode


if __name__ == "__main__":
    if sys.argv[1] == "tap":
        tap(sys.argv[2])
    else:
        sys.exit(pipe(sys.argv[1], sys.argv[2]))
