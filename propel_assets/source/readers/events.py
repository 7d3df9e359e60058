"""`Webhooks`: the events that the webhook receiver has stored."""

import json
from collections.abc import Iterator
from typing import Any

import msgspec

from propel_assets.catalog import AUTH_EVENT, Table
from propel_assets.source.decode import to_arrow
from propel_assets.source.readers.context import ScanContext, SkipScan
from propel_assets.source.stream import ReceivedEvent, Rows, ScanResult

USER_FIELDS = ("user_id", "removed_user_id")
NAMED = {"org_id": ("org_id",), "role": ("role", "new_role"), "impersonator_user_id": ("impersonator_user_id",)}
"""By column of `auth_event`, the fields of payloads that it is read from."""


def read_events(context: ScanContext, table: Table, _: Any) -> Iterator[Rows | ScanResult]:
    """Read the events that the options name."""
    events = context.options.events
    if events is None:
        raise SkipScan("No webhook has been received. Start the receiver: propel-assets webhooks.")
    if context.options.full_refresh:
        raise SkipScan("The destination cannot merge rows by their key: set PROPELAUTH_TABLE_FORMAT=delta.")
    yield Rows(table.name, to_arrow(AUTH_EVENT, map(_row, events)))
    yield ScanResult(table_name=table.name, verdict="proved", rows_read=len(events))


def _row(event: ReceivedEvent) -> dict[str, Any]:
    payload = json.loads(event.payload)  # as the receiver decoded it: an event that is stored can be loaded
    columns = {"user_id": USER_FIELDS, **NAMED}
    return {
        "message_id": event.svix_id,
        "event_type": event.event_type,
        **{column: named(payload, *fields) for column, fields in columns.items()},
        "payload": msgspec.Raw(event.payload.encode()),
        "received_at": event.received_at,
        "attempted_at": event.sent_at,
    }


def named(payload: dict[str, Any], *fields: str) -> str | None:
    """Return the first of ``fields`` that is a text in ASCII. Other values are in the payload only."""
    values = (payload.get(field) for field in fields)
    return next((value for value in values if isinstance(value, str) and value.isascii() and value.isprintable()), None)
