"""dlt with rows as dicts and pages in parallel, by dlt's own means: `@dlt.defer` and its thread pool. Parquet.

`python parallel.py URL`: users with memberships, the map of orgs as a list. Reads forward: a user is lost
when a deletion shifts it to the previous page.
"""

import sys
from collections.abc import Iterator
from typing import Any

import dlt
from dlt.sources.helpers import requests

URL, PAGE_SIZE = sys.argv[1], 100
SESSION = requests.Client().session
HEADERS = {"Authorization": "Bearer sandbox-api-key"}


def ask(number: int) -> dict[str, Any]:
    """Return a page."""
    params = {"page_size": PAGE_SIZE, "page_number": number, "include_orgs": "true"}
    answer = SESSION.get(f"{URL}/api/backend/v1/user/query", params=params, headers=HEADERS)
    answer.raise_for_status()
    return answer.json()


@dlt.defer
def page(number: int) -> list[dict[str, Any]]:
    """Return the users of a page, with a list of orgs in place of the map."""
    users = ask(number)["users"]
    for user in users:
        user["org_id_to_org_info"] = list((user.get("org_id_to_org_info") or {}).values())
    return users


@dlt.resource(write_disposition="replace", primary_key="user_id")
def user_query() -> Iterator[Any]:
    """Yield every page."""
    for number in range(-(-ask(0)["total_users"] // PAGE_SIZE)):
        yield page(number)


if __name__ == "__main__":
    pipeline = dlt.pipeline("propel_auth_pipeline", destination="duckdb", dataset_name="propel_auth_data")
    pipeline.run(user_query(), loader_file_format="parquet")
