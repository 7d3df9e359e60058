"""Airbyte's declarative CDK, by PyAirbyte, into its DuckDB cache. Users alone.

`python airbyte_duckdb.py URL DATABASE`
"""

import sys
from typing import Any

import airbyte
from airbyte.caches import DuckDBCache

BOOLEANS = ("email_confirmed", "has_password", "locked", "enabled", "mfa_enabled", "can_create_orgs")
TEXTS = ("user_id", "email", "username", "first_name", "last_name", "picture_url", "legacy_user_id")
PROPERTIES: dict[str, Any] = {
    **{name: {"type": ["null", "boolean"]} for name in (*BOOLEANS, "update_password_required")},
    **{name: {"type": ["null", "string"]} for name in (*TEXTS, "impersonator_user_id")},
    **{name: {"type": ["null", "integer"]} for name in ("created_at", "last_active_at")},
    **{name: {"type": ["null", "object"], "additionalProperties": True} for name in ("properties", "metadata")},
}


def manifest(url: str) -> dict[str, Any]:
    """Return the declarative source: one stream of numbered pages of 100."""
    users = {
        "type": "DeclarativeStream",
        "name": "user_query",
        "primary_key": ["user_id"],
        "schema_loader": {"type": "InlineSchemaLoader", "schema": {"type": "object", "properties": PROPERTIES}},
        "retriever": {
            "type": "SimpleRetriever",
            "requester": {
                "type": "HttpRequester",
                "url_base": f"{url}/api/backend/v1",
                "path": "/user/query",
                "http_method": "GET",
                "authenticator": {"type": "BearerAuthenticator", "api_token": "sandbox-api-key"},
            },
            "record_selector": {
                "type": "RecordSelector",
                "extractor": {"type": "DpathExtractor", "field_path": ["users"]},
            },
            "paginator": {
                "type": "DefaultPaginator",
                "page_token_option": {
                    "type": "RequestOption",
                    "inject_into": "request_parameter",
                    "field_name": "page_number",
                },
                "page_size_option": {
                    "type": "RequestOption",
                    "inject_into": "request_parameter",
                    "field_name": "page_size",
                },
                "pagination_strategy": {"type": "PageIncrement", "page_size": 100, "start_from_page": 0},
            },
        },
    }
    return {
        "version": "6.0.0",
        "type": "DeclarativeSource",
        "check": {"type": "CheckStream", "stream_names": ["user_query"]},
        "streams": [users],
        "spec": {
            "type": "Spec",
            "connection_specification": {"type": "object", "properties": {}, "additionalProperties": True},
        },
    }


if __name__ == "__main__":
    source = airbyte.get_source("source-propelauth", config={}, source_manifest=manifest(sys.argv[1]))
    source.select_all_streams()
    source.read(cache=DuckDBCache(db_path=sys.argv[2], schema_name="propel_auth_data"), force_full_refresh=True)
