"""Loads the events of the store into the warehouse, and removes them from the store once the load is complete.

An event stays in the store until then, so a process that is killed at any moment loses none. The table `auth_event` is
merged by the message id, so an event that is loaded again is not duplicated.
"""

import contextlib
from collections.abc import Collection, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from propel_assets.catalog import AUTH_EVENT, ORG_QUERY, USER_QUERY
from propel_assets.errors import (
    ErasureIncomplete,
    NotInstalled,
    PropelError,
    TransientApiError,
    WebhookStoreError,
)
from propel_assets.privacy.policy_file import load_policy
from propel_assets.privacy.redaction import describe_error
from propel_assets.settings import Settings
from propel_assets.source.readers.events import UNREAD_ORGS, UNREAD_USERS, names_one_of
from propel_assets.source.stream import ReadOptions, ScanResult
from propel_assets.warehouse.erasure import run_due_erasures
from propel_assets.warehouse.grades import settle_grades
from propel_assets.warehouse.load import ScanLoad, load_scan
from propel_assets.warehouse.locks import Log
from propel_assets.warehouse.pipeline import has_write_lock, load_lock, write_lock
from propel_assets.warehouse.query import connect
from propel_assets.warehouse.session import LoadSession, open_session

if TYPE_CHECKING:
    from propel_assets.webhooks.store import StoredEvent, WebhookStore

BATCH_EVENTS = 5_000
MAX_BATCHES = 100
LOAD_SECONDS = 60.0
"""Limit of one statement of a load: each reads or removes up to `BATCH_EVENTS` events."""


@dataclass
class _UnreadIds:
    """Ids that PropelAuth returned errors for.

    Attributes:
        ids: the ids, by `users` and `orgs`.
        kept: the message ids of the events that name one of them. These events stay in the store.
        is_applied: whether events of such ids are applied. Their rows are read again until a full load has them.
    """

    ids: dict[str, set[str]] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)
    is_applied: bool = False

    def add(self, results: Sequence[ScanResult], events: Sequence["StoredEvent"]) -> None:
        """Add the unread ids of a load of ``events``."""
        for result in results:
            cursor = result.cursor or {}
            self.is_applied |= bool(cursor.get(UNREAD_USERS) or cursor.get(UNREAD_ORGS))
            if result.unread:
                kind = USER_QUERY.items if result.table_name == USER_QUERY.name else ORG_QUERY.items
                self.ids.setdefault(kind, set()).update(result.unread)
        ids = {id_ for result in results for id_ in result.unread}
        self.kept |= {event.svix_id for event in events if ids and names_one_of(event, ids)}

    def message(self) -> str:
        """Return what happens with these ids and events; empty if all ids were read."""
        if not self.ids:
            return ""
        listed = " and ".join(f"{len(ids)} {kind}" for kind, ids in self.ids.items())
        ends = [
            f"{len(self.kept)} events stay in the store until their ids can be read, or they are older than 30 days"
            if self.kept
            else "",
            "rows whose events are applied are read again until a full load has their rows" if self.is_applied else "",
        ]
        return (
            f"PropelAuth returned an error for {listed} that events name. All other events are applied. Each load of "
            f"events reads these ids again; {'; '.join(filter(None, ends))}."
        )


def load_events(
    settings: Settings, *, log: Log = lambda _: None, session: LoadSession | None = None
) -> Generator[ScanLoad, None, None]:
    """Load all events of the store, oldest first, and yield each load: at least one.

    Raises:
        PropelError: a load failed, and its events and later ones stay in the store. Or the events are loaded, and the
            automatic erasures failed for a reason that concerns every request.
        ErasureIncomplete: the events are loaded, and an automatic erasure failed or is not complete.
        TransientApiError: PropelAuth returned an error for some ids. The events that name them stay in the store.
    """
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(open_store(settings.webhook_store, statement_seconds=LOAD_SECONDS))
        if store is not None:
            stack.callback(_purge, store)  # also after an error: old events are removed whether or not they were loaded
        session = session or stack.enter_context(open_session(settings.target, log))
        unread = _UnreadIds()
        for _ in range(MAX_BATCHES):
            events = None if store is None else _pending(store, unread.kept)
            options = ReadOptions(events=events)
            load = load_scan(AUTH_EVENT.scan, settings, options=options, log=log, session=session)
            yield load
            if store is None or events is None or any(result.skipped for result in load.results):
                break
            unread.add(load.results, events)
            store.remove([event.svix_id for event in events if event.svix_id not in unread.kept])
            if len(events) < BATCH_EVENTS:
                _settle_grades(settings, session, log)
                break
    text = unread.message()
    if settings.erase_deleted:
        try:
            # With the write lock (PostgreSQL), loads can read during an erasure and then fail.
            run_due_erasures(settings, log, at_most_daily=has_write_lock(settings.target))
        except PropelError as error:
            if not text:
                raise
            problem = ErasureIncomplete(f"{error} {text}")
            problem.retry_may_help = error.retry_may_help
            raise problem from None
    if text:
        raise TransientApiError(text)


def _pending(store: "WebhookStore", kept: Collection[str]) -> list["StoredEvent"]:
    """Return the next events, without those that an earlier load of this call has ``kept``."""
    return [event for event in store.pending(BATCH_EVENTS + len(kept)) if event.svix_id not in kept]


def _purge(store: "WebhookStore") -> None:
    """Remove events that are older than the limit and were not loaded. After an error, the next load retries it."""
    with contextlib.suppress(WebhookStoreError):
        store.purge()


def _settle_grades(settings: Settings, session: LoadSession, log: Log) -> None:
    """Grade the last scan again, now that its last events are loaded."""
    target, policy = settings.target, load_policy(settings.privacy_settings)
    try:
        with (
            session.pipeline(log) as pipeline,
            load_lock(target, pipeline, log),
            write_lock(target, pipeline, log),
            connect(pipeline, target, policy) as warehouse,
        ):
            settle_grades(warehouse)
    except Exception as error:  # each database's driver has error classes of its own
        log(f"The webhooks were not graded: {describe_error(error)}. The next load of events retries it.")


@contextlib.contextmanager
def open_store(url: str, *, statement_seconds: float = 10.0) -> Iterator["WebhookStore | None"]:
    """Yield the webhook store; None if no webhook has been received. Each statement has ``statement_seconds``."""
    try:
        from propel_assets.webhooks.store import WebhookStore, store_exists
    except ImportError:
        raise NotInstalled("The webhook store is not installed", "webhooks") from None
    if not store_exists(url):
        yield None
        return
    store = WebhookStore(url, statement_seconds=statement_seconds)
    try:
        yield store
    finally:
        store.close()
