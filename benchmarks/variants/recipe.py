"""The recipe of dltHub's PropelAuth page, given the paginator it lacks: else dlt reads one page and reports success.

`python recipe.py URL PAGE_SIZE`: users at dlt's defaults.
`python recipe.py URL 100 best`: users with memberships at the best settings found: Parquet, and the map of orgs as a
list, which dlt makes a child table of. Left as a map it becomes a set of columns per org.
"""

import sys
from typing import Any

import dlt
from dlt.sources.rest_api import RESTAPIConfig, rest_api_source

URL, PAGE_SIZE, BEST = sys.argv[1], int(sys.argv[2]), "best" in sys.argv[3:]


def orgs_as_list(user: dict[str, Any]) -> dict[str, Any]:
    """Return the user with a list of orgs in place of the map."""
    user["org_id_to_org_info"] = list((user.get("org_id_to_org_info") or {}).values())
    return user


config: RESTAPIConfig = {
    "client": {
        "base_url": f"{URL}/api/backend/v1/",
        "auth": {"type": "bearer", "token": "sandbox-api-key"},
        "paginator": {
            "type": "page_number",
            "page_param": "page_number",
            "base_page": 0,
            "total_path": None,
            "has_more_path": "has_more_results",
        },
    },
    "resources": [
        {
            "name": "user_query",
            "endpoint": {
                "path": "user/query",
                "data_selector": "users",
                "params": {"page_size": PAGE_SIZE, "include_orgs": str(BEST).lower()},
            },
            "processing_steps": [{"map": orgs_as_list}] if BEST else [],
        }
    ],
}

if __name__ == "__main__":
    pipeline = dlt.pipeline("propel_auth_pipeline", destination="duckdb", dataset_name="propel_auth_data")
    best: Any = {"loader_file_format": "parquet", "write_disposition": "replace"}
    pipeline.run(rest_api_source(config, name="propel_auth_source"), **(best if BEST else {}))
