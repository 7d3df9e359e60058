"""The webhook store: verified webhooks between their receipt and their load into the warehouse.

SQLite by default, PostgreSQL in production. An event that `add` has returned for is durable. The store is bounded:
`add` raises `WebhookStoreFull` above its limits. The receiver, once an hour, and each load of events remove events that
are older than `max_age`.
"""

import contextlib
import json
import math
import os
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError, SQLAlchemyError

from propel_assets.catalog.events import StoredEvent, ids_named_by
from propel_assets.errors import NotInstalled, SettingsError, WebhookStoreError, WebhookStoreFull

MAX_EVENTS = 1_000_000
MAX_BYTES = 1 << 30
MAX_AGE = timedelta(days=30)
BUSY_SECONDS = 10
STATEMENT_SECONDS = 10.0
POOL_SECONDS = 5
IDS_PER_STATEMENT = 500
PURGE_SECONDS = 3600
COUNT_AFTER = 0.01
"""The share of a limit that is added between two counts. Each process counts, so each can exceed a limit by it."""
POSTGRESQL = "postgresql+psycopg2"
INSERTS: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}

SETTING = "PROPELAUTH_WEBHOOK_STORE (of the environment NAME: NAME__PROPELAUTH_WEBHOOK_STORE)"

metadata = sa.MetaData()
events = sa.Table(
    "propel_webhook_events",
    metadata,
    sa.Column("sequence", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("svix_id", sa.String(256), nullable=False, unique=True),
    sa.Column("event_type", sa.String(256), nullable=False),
    sa.Column("received_at", sa.Float(53), nullable=False),  # epoch seconds: SQLite has no time zones
    sa.Column("sent_at", sa.BigInteger(), nullable=False),
    sa.Column("payload", sa.Text(), nullable=False),
)

SIZES: dict[str, Any] = {
    "sqlite": sa.func.length(sa.cast(events.c.payload, sa.LargeBinary)),
    "postgresql": sa.func.octet_length(events.c.payload),
}
"""By dialect, the bytes of a payload."""


@dataclass(frozen=True)
class StoreStatus:
    """The events that are not loaded yet.

    Attributes:
        pending: events.
        pending_bytes: the size of their payloads.
        oldest_received_at: when the oldest one arrived (UTC).
        share_used: how full the store is, by events or by bytes. At 1, `add` refuses events.
    """

    pending: int
    pending_bytes: int
    oldest_received_at: datetime | None
    share_used: float


def store_exists(url: str) -> bool:
    """Return whether there can be a store at ``url``: a SQLite file that does not exist was never written."""
    parsed = _parse(url)
    return parsed.get_backend_name() != "sqlite" or Path(parsed.database or "").is_file()


class WebhookStore:
    """Events that are not loaded yet. Several threads and processes can use one store."""

    def __init__(
        self,
        url: str,
        *,
        max_events: int = MAX_EVENTS,
        max_bytes: int = MAX_BYTES,
        max_age: timedelta = MAX_AGE,
        statement_seconds: float = STATEMENT_SECONDS,
    ) -> None:
        """Connect to ``url`` and create the table if it does not exist.

        PostgreSQL must respond to each statement within ``statement_seconds``, else the connection is closed.

        Raises:
            SettingsError: the URL cannot be used.
            WebhookStoreError: the database refused the connection.
        """
        self.max_events, self.max_bytes, self.max_age = max_events, max_bytes, max_age
        self._statement_seconds = statement_seconds
        self._engine = _engine(url, statement_seconds)
        self._lock = threading.Lock()
        self._counted: tuple[int, int] | None = None  # events and bytes
        self._added = (0, 0)  # since then
        self._next_purge = -math.inf
        try:
            self._create_table()
        except WebhookStoreError as error:
            if isinstance(error.__context__, OperationalError):
                raise
            self._create_table()  # another process has created it meanwhile

    def _create_table(self) -> None:
        with self._transaction() as connection:
            metadata.create_all(connection)

    def add(self, batch: Sequence[StoredEvent]) -> set[str]:
        """Store events in one transaction and return the ids that are new. A stored `svix_id` is a repeated delivery.

        Raises:
            WebhookStoreFull: the store has reached its limit and some of the events are new; nothing was stored.
            WebhookStoreError: the database failed; nothing was stored.
        """
        if not batch:
            return set()
        rows = {event.svix_id: _row(event) for event in reversed(batch)}
        insert = INSERTS[self._engine.dialect.name](events).on_conflict_do_nothing(index_elements=["svix_id"])
        with self._lock, self._transaction() as connection:
            try:
                self._require_room(connection, len(rows), sum(len(row["payload"].encode()) for row in rows.values()))
            except WebhookStoreFull as error:
                known = sa.select(events.c.svix_id).where(events.c.svix_id.in_(rows))
                error.stored = set(connection.execute(known).scalars())
                if len(error.stored) < len(rows):
                    raise
                return set()
            found = connection.execute(insert.returning(events.c.svix_id), list(rows.values()))
            return set(found.scalars())

    def _require_room(self, connection: Connection, count: int, size: int) -> None:
        """Raise `WebhookStoreFull` if so many events do not fit.

        The store is counted at the first event, after each 1 % of a limit, and for each batch above 99 % of one: other
        processes add events too, and a count of a large store takes up to a second.
        """
        new = (count, size)
        self._added = (self._added[0] + count, self._added[1] + size)
        if not self._is_count_due():
            return
        status = self._status(connection)
        self._counted, self._added = (status.pending, status.pending_bytes), new
        if any(stored + more > limit for stored, more, limit in zip(self._counted, new, self._limits, strict=True)):
            raise WebhookStoreFull(
                f"The webhook store holds {status.pending:,} events ({status.pending_bytes:,} bytes) and its limit "
                f"is {self.max_events:,} events ({self.max_bytes:,} bytes). Run the job whose name ends "
                "in `_apply_events`."
            )

    def _is_count_due(self) -> bool:
        return self._counted is None or any(
            added > limit * COUNT_AFTER or counted + added > limit * (1 - COUNT_AFTER)
            for counted, added, limit in zip(self._counted, self._added, self._limits, strict=True)
        )

    @property
    def _limits(self) -> tuple[int, int]:
        return self.max_events, self.max_bytes

    def pending(self, limit: int) -> list[StoredEvent]:
        """Return the oldest events that are not removed yet, at most ``limit``, in order of receipt."""
        query = sa.select(events).order_by(events.c.received_at, events.c.sequence).limit(limit)
        with self._transaction() as connection:
            return [
                StoredEvent(row.svix_id, row.event_type, _time(row.received_at), _time(row.sent_at), row.payload)
                for row in connection.execute(query)
            ]

    def ids_named_since(self, since: datetime) -> set[str]:
        """Return the ids of users, API keys and SCIM groups that events since then name; of orgs if of nothing else."""
        query = sa.select(events.c.payload).where(events.c.received_at >= since.timestamp())
        named: set[str] = set()
        with self._transaction() as connection:
            for (payload,) in connection.execution_options(yield_per=1_000).execute(query):
                named |= ids_named_by(json.loads(payload))
        return named

    def remove(self, svix_ids: Collection[str]) -> None:
        """Remove events that are in the warehouse."""
        if not svix_ids:
            return
        ids = [*svix_ids]
        with self._lock, self._transaction() as connection:
            for start in range(0, len(ids), IDS_PER_STATEMENT):  # not one by one: each takes a round trip
                batch = ids[start : start + IDS_PER_STATEMENT]
                connection.execute(sa.delete(events).where(events.c.svix_id.in_(batch)))
        self._overwrite()

    def purge_if_due(self) -> None:
        """Call `purge` once an hour: the age of events is not indexed."""
        if time.monotonic() >= self._next_purge:
            self.purge()

    def purge(self) -> int:
        """Remove events older than `max_age`, and return how many; none if all are older: the clock may be wrong."""
        self._next_purge = time.monotonic() + PURGE_SECONDS
        oldest = (datetime.now(UTC) - self.max_age).timestamp()
        with self._lock, self._transaction() as connection:
            newest = connection.execute(sa.select(sa.func.max(events.c.received_at))).scalar()
            if newest is None or newest < oldest:
                return 0
            removed = connection.execute(sa.delete(events).where(events.c.received_at < oldest)).rowcount
        self._overwrite()
        return removed

    def _overwrite(self) -> None:
        """Remove what SQLite's write-ahead log still has of removed events. A reader can delay it to the next call."""
        if self._engine.dialect.name == "sqlite":
            with self._transaction() as connection:
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")

    def status(self) -> StoreStatus:
        """Return what waits to be loaded."""
        with self._transaction() as connection:
            return self._status(connection)

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    def _status(self, connection: Connection) -> StoreStatus:
        query = sa.select(
            sa.func.count(),
            sa.func.coalesce(sa.func.sum(SIZES[self._engine.dialect.name]), 0),
            sa.func.min(events.c.received_at),
        )
        count, size, oldest = connection.execute(query).one()
        share = max(count / self.max_events, int(size) / self.max_bytes)
        return StoreStatus(count, int(size), None if oldest is None else _time(oldest), share)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Connection]:
        """Yield a connection in a transaction. Errors of the database quote rows, so only their class is reported."""
        try:
            with self._engine.begin() as connection:
                if self._engine.dialect.name == "postgresql":  # not a startup parameter: PgBouncer refuses those
                    limit = int(self._statement_seconds * 1000)
                    connection.exec_driver_sql(f"SET LOCAL statement_timeout = {limit}")
                yield connection
        except SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or error
            raise WebhookStoreError(
                f"The webhook store cannot be used ({type(cause).__name__}). Check that its database runs and has free "
                f"disk space. The setting is {SETTING}."
            ) from None


def _row(event: StoredEvent) -> dict[str, Any]:
    return {
        "svix_id": event.svix_id,
        "event_type": event.event_type,
        "received_at": event.received_at.timestamp(),
        "sent_at": int(event.sent_at.timestamp()),
        "payload": event.payload,
    }


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _parse(url: str) -> sa.URL:
    try:
        parsed = sa.make_url(url)
    except ArgumentError:
        raise SettingsError(
            "The webhook store has no database URL such as sqlite:///events.db or "
            f"postgresql+psycopg2://user:password@host/database. Set {SETTING}."
        ) from None
    if (name := parsed.get_backend_name()) not in INSERTS:
        raise SettingsError(
            f"The URL of the webhook store has the dialect {name!r}. "
            + ("Write postgresql+psycopg2://" if name == "postgres" else "Use sqlite or postgresql+psycopg2")
            + f" in {SETTING}."
        )
    if parsed.drivername == "postgresql":  # which SQLAlchemy 2.1 and later read as psycopg
        parsed = parsed.set(drivername=POSTGRESQL)
    if name == "postgresql" and parsed.drivername != POSTGRESQL:
        raise SettingsError(
            f"The URL of the webhook store has the driver {parsed.drivername}, whose statements have no time limit. "
            f"Write {POSTGRESQL}:// in {SETTING}."
        )
    return parsed


def _engine(url: str, statement_seconds: float) -> Engine:
    parsed = _parse(url)
    try:
        if parsed.get_backend_name() == "sqlite":
            _create_file(parsed.database or "")
            engine = sa.create_engine(parsed, connect_args={"timeout": BUSY_SECONDS})
            sqlalchemy_event.listen(engine, "connect", _configure_sqlite)
            return engine
        from propel_assets.webhooks.postgres import connect_arguments

        arguments = connect_arguments([*parsed.query], statement_seconds)
        return sa.create_engine(parsed, pool_pre_ping=True, pool_timeout=POOL_SECONDS, connect_args=arguments)
    except (ImportError, NoSuchModuleError):
        what = f"The driver of the webhook store is not installed ({parsed.drivername})"
        if parsed.get_backend_name() == "postgresql":
            raise NotInstalled(what, "postgres") from None
        raise SettingsError(f"{what}. Use SQLite or PostgreSQL.") from None


def _create_file(path: str) -> None:
    """Create the file of a SQLite store for this user only. SQLite gives its write-ahead log the same mode."""
    if path and path != ":memory:" and not path.startswith("file:"):
        with contextlib.suppress(OSError):  # SQLite reports it
            os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))


def _configure_sqlite(connection: Any, _record: Any) -> None:
    """Let readers work beside the writer, flush each commit to the disk, and overwrite removed rows by zeros."""
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON"):
        connection.execute(f"PRAGMA {pragma}")
