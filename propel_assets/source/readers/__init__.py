"""Readers: one for each shape of the catalog. `read_scan` reads the tables of one scan.

A reader yields the rows of its tables, then one `ScanResult` per table. It raises `SkipScan` where the project does not
have the feature: the tables are reported as skipped and keep their rows.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from propel_assets.catalog import BY_NAME, Table, tables_of
from propel_assets.catalog.model import Custom, Document, Lookup, MetricGrid, PagedList, PerParent, ReportGrid, Webhooks
from propel_assets.errors import LossRefused, OtherEnvironment
from propel_assets.settings import Tenant, variable_to_set
from propel_assets.source.client import SANDBOX
from propel_assets.source.readers.api_key_usage import read_api_key_usage
from propel_assets.source.readers.basic import read_document, read_employees, read_lookup, read_paged_list
from propel_assets.source.readers.context import ScanContext, SkipScan, allowed_loss
from propel_assets.source.readers.events import read_events
from propel_assets.source.readers.insights import read_metrics, read_reports
from propel_assets.source.readers.per_parent import read_per_parent
from propel_assets.source.readers.scim import read_scim
from propel_assets.source.readers.users import read_users
from propel_assets.source.stream import ResumeState, Rows, ScanResult

__all__ = ["CUSTOM_READERS", "READERS", "ScanContext", "read_scan"]

Stream = Iterator[Rows | ScanResult]

DEFAULT_PORT = re.compile(r":(80|443)$")

READERS: dict[type, Callable[[ScanContext, Table, Any], Stream]] = {
    PagedList: lambda context, table, _: read_paged_list(context, table),
    PerParent: read_per_parent,
    Document: read_document,
    Lookup: read_lookup,
    ReportGrid: read_reports,
    MetricGrid: read_metrics,
    Webhooks: read_events,
}
CUSTOM_READERS: dict[str, Callable[[ScanContext, Sequence[Table]], Stream]] = {
    "users": read_users,
    "scim": read_scim,
    "api_key_usage": read_api_key_usage,
    "employees": read_employees,
}


def read_scan(scan: str, context: ScanContext) -> Stream:
    """Yield the rows of the tables of ``scan`` in batches, then one result per table.

    Raises:
        ApiError: PropelAuth cannot be read.
        UnprovedScan: no attempt to read a list was proved complete.
        LossRefused: a complete scan has lost too many rows, or reads another environment than before.
    """
    _refuse_other_environment(context)
    tables, started_at = tables_of(scan), datetime.now(UTC)
    results: list[ScanResult] = []
    try:
        for item in _read(tables, context):
            _refuse_other_environment(context)
            if isinstance(item, Rows):
                yield item
            else:
                results.append(item)
    except SkipScan as skip:
        results = [ScanResult(table_name=table.name, verdict="skipped", reason=str(skip)) for table in tables]
    for result in results:
        _refuse_loss(result, context)
    state, traffic = _next_resume_state(results, context), context.client.traffic
    finished_at = datetime.now(UTC)  # of the scan: marts of one table compare it with the load of another one
    for result in results:
        yield replace(
            result,
            requests=traffic.requests,
            retries=traffic.retries,
            rate_limited=traffic.rate_limited,
            waited_seconds=round(traffic.waited_seconds, 3),
            concurrency=traffic.concurrency,
            started_at=started_at,
            finished_at=finished_at,
            resume_state=state,
        )


def _read(tables: Sequence[Table], context: ScanContext) -> Stream:
    """Read ``tables`` by their custom reader, or the one table by the reader of its shape."""
    for table in tables:
        if isinstance(table.shape, Custom):
            return CUSTOM_READERS[table.shape.reader](context, tables)
    (table,) = tables
    return READERS[type(table.shape)](context, table, table.shape)


def _refuse_other_environment(context: ScanContext) -> None:
    """Refuse to replace the rows of one environment by those of another.

    The id of a server on this machine is known after its first response (docs/decisions/0014-tenant-id.md).
    """
    before, now = context.resume_state.tenant_id, context.client.tenant_id
    if before and now and _normalized(before) != _normalized(now) and not context.client.tenant.allow_loss:
        databases = "another folder, or DESTINATION__DUCKDB__CREDENTIALS"
        if before.startswith(SANDBOX):
            remedy = (
                "This folder holds the demo, and a folder holds one tenant: use another folder (mkdir my-tenant && "
                "cd my-tenant), or another database (DESTINATION__DUCKDB__CREDENTIALS)."
            )
        elif now.startswith(SANDBOX):
            remedy = f"Use a separate database for the sandbox ({databases})."
        else:
            remedy = (
                f"Use a separate database for each environment ({databases}). If the same environment has a new "
                "address, run once with PROPELAUTH_ALLOW_LOSS=true."
            )
        raise OtherEnvironment(
            f"The tables were loaded from {before}, and {_url_variable(context)} now names {now}. The previous data is "
            f"kept. {remedy}"
        )


def _url_variable(context: ScanContext) -> str:
    return variable_to_set("auth_url", context.client.tenant.environment)


def _normalized(tenant_id: str) -> str:
    """Return the id of a tenant as it is compared: earlier versions stored the host as it was written."""
    return DEFAULT_PORT.sub("", tenant_id.lower())


def _refuse_loss(result: ScanResult, context: ScanContext) -> None:
    """Refuse a sudden loss of rows in a guarded table."""
    tenant: Tenant = context.client.tenant
    before = context.resume_state.rows.get(result.table_name, 0)
    if result.skipped or result.is_recent or tenant.allow_loss or not BY_NAME[result.table_name].guarded:
        return
    emptied = before and not result.rows_read
    if emptied or before - result.rows_read > allowed_loss(context, before):
        raise LossRefused(
            f"{result.table_name} had {before} rows at the last load and a complete scan now returns "
            f"{result.rows_read}. The previous data is kept. If so many were really deleted, run once with "
            f"PROPELAUTH_ALLOW_LOSS=true; if not, check that {_url_variable(context)} and the key belong to the right "
            "environment."
        )


def _next_resume_state(results: Sequence[ScanResult], context: ScanContext) -> ResumeState:
    previous = context.resume_state
    full = [result for result in results if not (result.skipped or result.is_recent)]
    newest = {
        result.table_name: result.newest
        for result in full
        if result.newest is not None and context.wants(BY_NAME[result.table_name])
    }
    cursor = next((result.cursor for result in results if result.cursor is not None), previous.cursor)
    return ResumeState(
        tenant_id=context.client.tenant_id or previous.tenant_id,
        rows={**previous.rows, **{result.table_name: result.rows_read for result in full}},
        newest={**previous.newest, **newest},
        cursor=cursor,
        privacy=previous.privacy,
    )
