"""One erasure, from the identifiers of the person to the search that must find nothing."""

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import dlt
import msgspec
from dlt.common.destination.client import WithStateSync

from propel_assets.catalog import BY_NAME, END_USER_API_KEY_USAGE, PROPEL_SCANS
from propel_assets.errors import ApiError, PermanentApiError, WarehouseError
from propel_assets.privacy.erasure_list import NOTES_KEY, STATE_KEY, ErasureList
from propel_assets.privacy.policy import Policy, require_key
from propel_assets.privacy.policy_file import load_policy
from propel_assets.settings import PrivacySettings, Target, Tenant
from propel_assets.source.client import Client
from propel_assets.source.dlt_source import SOURCE
from propel_assets.source.scan_reader import RESUME_STATES_KEY
from propel_assets.warehouse.destinations.duckdb_file import (
    needs_compaction,
    replace_with_compacted_copy,
    request_compaction,
    write_compacted_copy,
)
from propel_assets.warehouse.destinations.file_copies import copy_tables
from propel_assets.warehouse.destinations.files import FileTables
from propel_assets.warehouse.dlt_compat import FilesystemClient, SqlJobClientBase
from propel_assets.warehouse.erasure.eraser import PersonEraser, delete_states
from propel_assets.warehouse.erasure.person import Person
from propel_assets.warehouse.erasure.receipt import ErasureReceipt, ErasureRecord, UnsearchedColumn
from propel_assets.warehouse.folders import working_folder
from propel_assets.warehouse.locks import Log
from propel_assets.warehouse.pipeline import (
    build_pipeline,
    database_file,
    load_lock,
    remove_staged_files,
    sync_local_pipeline,
    write_lock,
)
from propel_assets.warehouse.query import not_loaded, require_database, warehouse_client
from propel_assets.warehouse.remedies import as_propel_error

NEXT_STEPS = (
    "Later loads exclude this person. Delete the user at PropelAuth too: otherwise only the erasure list in this "
    "warehouse excludes them. Backups, exports and Dagster's storage were not searched."
)
UNFINISHED_KEY = "erasing"  # in dlt's state: the row counts that an interrupted erasure of files has still to lower
CLEANUP_KEY = "erasure_cleanup"
"""In dlt's state: an erasure has deleted the rows, and identifiers can be left in older states and in DuckDB's file."""
LAST_AT_KEY = "last_erasure_at"  # in dlt's state: when the last erasure began
UNKNOWN_STATUSES = frozenset({400, 404})
NOT_STARTED = "Nothing was erased."
STARTED = "Rows of the person can have been deleted; the erasure is not complete."
ROWS_DELETED = (
    "The rows of the person were deleted; identifiers can be left in older states of dlt, or in the DuckDB file."
)


def erase(
    target: Target,
    privacy: PrivacySettings,
    user_id: str,
    *,
    tenant: Tenant | None = None,
    emails: Collection[str] = (),
    allow_unknown: bool = False,
    dry_run: bool = False,
    is_automatic: bool = False,
    log: Log = lambda _: None,
) -> ErasureReceipt:
    """Remove the user from the warehouse and from later loads, and return the receipt. Can be repeated.

    ``tenant``: PropelAuth, where a user that the warehouse does not have is read. ``emails``: more addresses of
    the person. ``allow_unknown``: put an id on the erasure list that neither of them knows. A dry run changes nothing
    and needs no key. ``is_automatic``: `unfinished_erasures` names the user until the erasure is complete.

    Raises:
        SettingsError: the key of the erasure list is missing.
        WarehouseError: there is no warehouse, no such user, or the destination cannot be erased from.
    """
    policy = load_policy(privacy, needs_key=not dry_run)
    if not dry_run:
        require_key(policy, "An erasure needs the key of the erasure list's hashes")
    person = Person.from_arguments(user_id, emails, policy)
    with working_folder() as folder:
        pipeline = build_pipeline(target, folder, log)
        find_user = None if allow_unknown else lambda: _find_user(tenant, user_id)
        run = _Run(target, pipeline, folder, policy, person, user_id, find_user, dry_run, is_automatic)
        with (
            _explain_errors(f"Erasing from {target.destination}", lambda: run.outcome),
            load_lock(target, pipeline, log),
            write_lock(target, pipeline, log),
        ):
            return run.erase()


class UnfinishedErasure(NamedTuple):
    """An erasure that was stopped, or an automatic one that has ended and is not complete."""

    is_automatic: bool
    has_ended: bool


class UnfinishedErasures(NamedTuple):
    """The erasures that are not complete, by user id; whether `clean_up` has something to do; when one began last."""

    by_id: Mapping[str, UnfinishedErasure]
    must_clean_up: bool
    last_at: datetime | None


def unfinished_erasures(target: Target, log: Log) -> UnfinishedErasures:
    """Return the erasures that are not complete."""
    with working_folder() as folder, _explain_errors(f"Reading the erasures of {target.destination}"):
        pipeline = build_pipeline(target, folder, log)
        pipeline.sync_destination()
        state = _source_state(pipeline.state)
        notes, last_at = state.get(NOTES_KEY, {}), state.get(LAST_AT_KEY)
        by_id = {id_: UnfinishedErasure(note["is_automatic"], note["has_ended"]) for id_, note in notes.items()}
        return UnfinishedErasures(by_id, _must_clean_up(pipeline), datetime.fromisoformat(last_at) if last_at else None)


def clean_up(target: Target, log: Log) -> None:
    """Delete older states of dlt and compact the DuckDB file, if an erasure was stopped before it had done that.

    Raises:
        WarehouseError: the destination refused it, or the file cannot be compacted.
    """
    explain_errors = _explain_errors(f"Finishing an erasure from {target.destination}", lambda: ROWS_DELETED)
    with working_folder() as folder, explain_errors:
        pipeline = build_pipeline(target, folder, log)
        with load_lock(target, pipeline, log), write_lock(target, pipeline, log):
            pipeline.sync_destination()
            if _must_clean_up(pipeline):
                _clean_up(pipeline, target, _stored_state(pipeline))


def _must_clean_up(pipeline: dlt.Pipeline) -> bool:
    file = database_file(pipeline)
    return CLEANUP_KEY in _source_state(pipeline.state) or (file is not None and needs_compaction(file))


def _clean_up(pipeline: dlt.Pipeline, target: Target, state: str) -> None:
    """Delete all states of dlt except that of the load ``state``, compact the DuckDB file, and remove the note."""
    client = warehouse_client(pipeline, target)
    if isinstance(client, FilesystemClient):
        FileTables(client).remove_states(pipeline.pipeline_name, state)
    else:
        with client:
            with _transaction(client):
                delete_states(client, pipeline.pipeline_name, state)
            if (file := database_file(pipeline)) is not None:
                _compact(client, file)
    _write_state(pipeline, lambda stored: stored.pop(CLEANUP_KEY, None))
    sync_local_pipeline(target)


@contextlib.contextmanager
def _explain_errors(attempt: str, outcome: Callable[[], str] = lambda: "") -> Iterator[None]:
    """Raise the `PropelError` inside an error, or one without the text of the driver, which may quote rows.

    ``attempt``: what is attempted. ``outcome``: returns what the tables have after an error.
    """
    try:
        yield
    except Exception as error:  # every database driver has its own error classes
        raise as_propel_error(error, f"{attempt} failed", outcome()) from None


def _compact(client: Any, file: Path) -> None:
    write_compacted_copy(client.sql_client, file)
    replace_with_compacted_copy(file)


@dataclass
class _Run:
    """One erasure from one destination. ``find_user`` raises if PropelAuth has no such user either."""

    target: Target
    pipeline: dlt.Pipeline
    folder: str
    policy: Policy
    person: Person
    user_id: str
    find_user: Callable[[], Mapping[str, Any]] | None
    dry_run: bool
    is_automatic: bool
    unsearched: set[UnsearchedColumn] = field(default_factory=set)
    outcome: str = NOT_STARTED

    def erase(self) -> ErasureReceipt:
        """Erase, and return the receipt."""
        require_database(self.pipeline, self.target)
        self.pipeline.sync_destination()
        client = warehouse_client(self.pipeline, self.target)
        if isinstance(client, FilesystemClient):
            return self._erase_from_files(client)
        return self._erase_from_database(database_file(self.pipeline))

    def _erase_from_database(self, file: Path | None) -> ErasureReceipt:
        with warehouse_client(self.pipeline, self.target) as client:
            if not isinstance(client, SqlJobClientBase):
                raise WarehouseError(f"Nothing was erased: the destination {self.target.destination} has no SQL.")
            with _transaction(client):
                eraser = PersonEraser(client, self.person)
                self._identify(eraser)
                if self.dry_run:
                    records = [*eraser.rename_labels(dry_run=True), *eraser.erase(dry_run=True)]
                    return self._dry_run_receipt(records, eraser)
        state = self._add_to_erasure_list()
        with warehouse_client(self.pipeline, self.target) as client:
            if file is not None:
                request_compaction(file)
            with _transaction(client):  # DuckDB cannot change types and rows of a table in one transaction
                labels = PersonEraser(client, self.person)
                records = list(labels.rename_labels(dry_run=False))
            with _transaction(client):  # a new eraser, because the labels and column types have changed
                eraser = PersonEraser(client, self.person)
                eraser.refused |= labels.refused
                records += eraser.erase(dry_run=False)
                delete_states(client, self.pipeline.pipeline_name, state)
        # Files of a load that was killed, and the state that was just loaded.
        remove_staged_files(self.pipeline, [*BY_NAME, self.pipeline.default_schema.state_table_name])
        with warehouse_client(self.pipeline, self.target) as client, _transaction(client):  # search again
            receipt = self._receipt(records, eraser, PersonEraser(client, self.person))
        _clean_up(self.pipeline, self.target, self._replace_note(receipt))
        return receipt

    def _erase_from_files(self, client: FilesystemClient) -> ErasureReceipt:
        """Erase from a copy of the tables, and write each changed table back."""
        with copy_tables(client, self.folder) as copies:
            if PROPEL_SCANS.name not in copies.names:
                raise not_loaded(self.target)
            eraser = PersonEraser(copies.client, self.person)
            self._identify(eraser)
            eraser.resume(_source_state(self.pipeline.state).get(UNFINISHED_KEY, {}))
            records = list(eraser.erase(dry_run=self.dry_run))
            if self.dry_run:
                return self._dry_run_receipt(records, eraser)
            state = self._add_to_erasure_list(eraser.deleted)
            for name in eraser.in_order(copies.names):
                copies.write_back(name)
            for name in copies.names:  # of unchanged tables too: their older versions can have the person
                copies.files.remove_old_versions(name)
            copies.files.remove_states(self.pipeline.pipeline_name, state)
        with copy_tables(warehouse_client(self.pipeline, self.target), self.folder) as copies:
            receipt = self._receipt(records, eraser, PersonEraser(copies.client, self.person))
        _clean_up(self.pipeline, self.target, self._replace_note(receipt))
        return receipt

    def _dry_run_receipt(self, records: list[ErasureRecord], eraser: PersonEraser) -> ErasureReceipt:
        """Return what a run would remove."""
        return ErasureReceipt(records, unsearched=sorted(eraser.unsearched | self.unsearched))

    def _receipt(self, records: list[ErasureRecord], eraser: PersonEraser, search: PersonEraser) -> ErasureReceipt:
        """Return the receipt, with what a new search finds."""
        remaining = [
            ErasureRecord(r.where, f"{r.what}, not changed: {reason}", r.rows)
            if (reason := eraser.refused.get(r.where))
            else r
            for r in search.find_remaining()
        ]
        return ErasureReceipt(records, remaining, sorted(search.unsearched | self.unsearched))

    # --- the person ---

    def _identify(self, eraser: PersonEraser) -> None:
        """Find what identifies the person, or refuse an id that is known neither here nor at PropelAuth.

        Raises:
            WarehouseError: there is no such user.
        """
        state = _source_state(self.pipeline.state)
        is_listed = bool(self.policy.key) and any(
            id_ in ErasureList(state.get(STATE_KEY), self.policy) for id_ in self.person.ids
        )
        if self.find_user and not (eraser.has_person() or is_listed):
            user = self.find_user()
            self.person.emails |= {user["email"]} if user.get("email") else set()
            self.person.usernames |= {user["username"]} if user.get("username") else set()
        eraser.collect_identifiers()
        self.person.add(state.get(NOTES_KEY, {}).get(self.user_id, {}))
        if self.policy.key:
            eraser.collect_plain_addresses(self.policy.digest)
        if not (self.person.emails or is_listed):
            self.unsearched |= {*eraser.columns_with_addresses()}
        # Resume states have the API keys in clear that the tables have hashed.
        keys = {*_usage_cursor(state), *eraser.api_keys_of_resume_states()}
        self.person.api_keys |= {key for key in keys if self.policy.digest(key) in self.person.api_keys}

    # --- the erasure list ---

    def _add_to_erasure_list(self, unfinished: Mapping[str, Sequence[Any]] | None = None) -> str:
        """Add the person to the erasure list, remove their API keys from dlt's state, and return the load of the state.

        All other states must be deleted: older ones contain API keys, and one that was written while the clock was
        ahead would be taken for newer.
        """

        def change(state: dict[str, Any]) -> None:
            state[STATE_KEY] = ErasureList(state.get(STATE_KEY), self.policy).with_people(
                self.person.hashes(self.policy)
            )
            usage = _usage_cursor(state)
            for key in self.person.api_keys & {*usage}:
                del usage[key]
            if unfinished:
                state[UNFINISHED_KEY] = dict(unfinished)
            state[LAST_AT_KEY] = datetime.now(UTC).isoformat()
            notes = state.setdefault(NOTES_KEY, {})
            is_automatic = self.is_automatic or notes.get(self.user_id, {}).get("is_automatic", False)
            notes[self.user_id] = {**self.person.as_lists(), "is_automatic": is_automatic, "has_ended": False}

        self.outcome = STARTED
        return _write_state(self.pipeline, change)

    def _replace_note(self, receipt: ErasureReceipt) -> str:
        """Replace the note of this erasure by one without identifiers, and return the load of the state.

        It is removed once older states, which have the identifiers, are deleted.
        """

        def change(state: dict[str, Any]) -> None:
            state[CLEANUP_KEY] = True
            if self.is_automatic and not receipt.is_complete:
                state[NOTES_KEY][self.user_id] = {"is_automatic": True, "has_ended": True}
            else:
                del state[NOTES_KEY][self.user_id]

        self.outcome = ROWS_DELETED
        return _write_state(self.pipeline, change)


def _write_state(pipeline: dlt.Pipeline, change: Callable[[dict[str, Any]], Any]) -> str:
    """Change dlt's state of the source at the destination, and return the load of the state."""
    with pipeline.managed_state(extract_state=True) as stored:
        change(_source_state(stored))
    if pipeline.has_pending_data:  # the state has changed
        pipeline.normalize()
        info = pipeline.load()
        info.raise_on_failed_jobs()
        return info.loads_ids[-1]
    return _stored_state(pipeline)


def _stored_state(pipeline: dlt.Pipeline) -> str:
    """Return the load of the newest state at the destination.

    Raises:
        WarehouseError: there is none.
    """
    with pipeline.destination_client() as client:
        latest = client.get_stored_state(pipeline.pipeline_name) if isinstance(client, WithStateSync) else None
    load_id = latest.as_doc().get("_dlt_load_id") if latest is not None else None
    if load_id is None:
        raise WarehouseError("Nothing was erased: the destination has no state of dlt. Load a table and run again.")
    return str(load_id)


def _find_user(tenant: Tenant | None, user_id: str) -> Mapping[str, Any]:
    """Return the user or the employee with this id at PropelAuth.

    Raises:
        WarehouseError: there is no such user, or the request to PropelAuth failed.
    """
    unknown = "No such user: no table of the warehouse has this id"
    advice = "Nothing was erased. Check the id; to put it on the erasure list anyway, add --allow-unknown."
    if tenant is None:
        raise WarehouseError(f"{unknown}, and no request was sent to PropelAuth, because no API key is set. {advice}")
    client = Client(tenant)
    for table, parameter in (("user_by_id", "user_id"), ("employee", "employee_id")):
        try:
            return client.get(BY_NAME[table].path_of(**{parameter: user_id}), msgspec.json.decode)
        except ApiError as error:
            if not isinstance(error, PermanentApiError) or error.status not in UNKNOWN_STATUSES:
                raise WarehouseError(f"{unknown}, and the request to PropelAuth failed. {error} {advice}") from None
    raise WarehouseError(f"{unknown}, and PropelAuth has no such user. {advice}")


def _source_state(state: Any) -> dict[str, Any]:
    return state.setdefault("sources", {}).setdefault(SOURCE, {})


def _usage_cursor(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the day up to which the usage of each API key was read, by key, from dlt's state of the source."""
    return state.get(RESUME_STATES_KEY, {}).get(END_USER_API_KEY_USAGE.scan, {}).get("cursor", {})


def _transaction(client: Any) -> contextlib.AbstractContextManager[Any]:
    """Run a block in one transaction, where the destination has transactions."""
    atomic = client.capabilities.supports_transactions
    return client.sql_client.begin_transaction() if atomic else contextlib.nullcontext()
