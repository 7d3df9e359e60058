"""One erasure, from the identifiers of the person to the search that must find nothing."""

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import dlt
import msgspec
from dlt.common.destination.client import WithStateSync

from propel_assets.catalog import BY_NAME, END_USER_API_KEY_USAGE, PROPEL_SCANS
from propel_assets.errors import ApiError, PermanentApiError, WarehouseError, find_cause
from propel_assets.privacy.erasure_list import NOTES_KEY, STATE_KEY, ErasureList
from propel_assets.privacy.policy import Policy, require_key
from propel_assets.privacy.policy_file import load_policy
from propel_assets.privacy.redaction import describe_error
from propel_assets.settings import PrivacySettings, Target, Tenant
from propel_assets.source.client import Client
from propel_assets.source.dlt_source import RESUME_STATES_KEY, SOURCE
from propel_assets.warehouse.destinations.duckdb_file import (
    needs_compaction,
    replace_with_compacted_copy,
    request_compaction,
    write_compacted_copy,
)
from propel_assets.warehouse.destinations.file_copies import copy_tables
from propel_assets.warehouse.dlt_compat import FilesystemClient, SqlJobClientBase
from propel_assets.warehouse.erasure.eraser import PersonEraser
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
from propel_assets.warehouse.query import HOW_TO_LOAD, warehouse_client
from propel_assets.warehouse.remedies import remedy_of

NEXT_STEPS = (
    "Later loads leave this person out. Delete the user at PropelAuth too: until then, only the erasure list in this "
    "warehouse keeps them out. Backups, exports and the storage of Dagster are out of reach."
)
UNFINISHED_KEY = "erasing"  # in dlt's state: the row counts that an interrupted erasure of files has still to lower
UNKNOWN_STATUSES = frozenset({400, 404})


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
        require_key(policy, "The erasure list consists of keyed hashes, so that no load restores the person")
    person = Person.from_arguments(user_id, emails, policy)
    with working_folder() as folder:
        pipeline = build_pipeline(target, folder, log)
        find_user = None if allow_unknown else lambda: _find_user(tenant, user_id)
        run = _Run(target, pipeline, folder, policy, person, user_id, find_user, dry_run, is_automatic)
        with _explain_errors(target), load_lock(target, pipeline, log), write_lock(target, pipeline, log):
            return run.erase()


class UnfinishedErasure(NamedTuple):
    """An erasure that was stopped, or an automatic one that has ended and is not complete."""

    is_automatic: bool
    has_ended: bool


def unfinished_erasures(target: Target, log: Log) -> dict[str, UnfinishedErasure]:
    """Return the erasures that are not complete, by user id."""
    with working_folder() as folder, _explain_errors(target):
        pipeline = build_pipeline(target, folder, log)
        pipeline.sync_destination()
        notes = _source_state(pipeline.state).get(NOTES_KEY, {})
        return {id_: UnfinishedErasure(note["is_automatic"], note["has_ended"]) for id_, note in notes.items()}


def finish_compaction(target: Target, log: Log) -> None:
    """Compact the DuckDB file, if an erasure was stopped before it had done that.

    Raises:
        WarehouseError: the file cannot be compacted.
    """
    with working_folder() as folder, _explain_errors(target):
        pipeline = build_pipeline(target, folder, log)
        if (file := database_file(pipeline)) is not None and needs_compaction(file):
            with load_lock(target, pipeline, log), warehouse_client(pipeline, target) as client:
                _compact(client, file)


@contextlib.contextmanager
def _explain_errors(target: Target) -> Iterator[None]:
    """Raise the `PropelError` inside an error, or one without the text of the driver, which may quote rows."""
    try:
        yield
    except Exception as error:  # every database driver has its own error classes
        raise find_cause(error) or WarehouseError(
            f"Erasing from {target.destination} failed: {describe_error(error)}. {remedy_of(error)}, and run again."
        ) from None


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

    def erase(self) -> ErasureReceipt:
        """Erase, and return the receipt."""
        file = database_file(self.pipeline)
        if file is not None and not file.exists():
            raise WarehouseError(f"There is no {file}. {HOW_TO_LOAD}")
        self.pipeline.sync_destination()
        client = warehouse_client(self.pipeline, self.target)
        if isinstance(client, FilesystemClient):
            return self._erase_from_files(client)
        return self._erase_from_database(file)

    def _erase_from_database(self, file: Path | None) -> ErasureReceipt:
        with self._connection() as client:
            if not isinstance(client, SqlJobClientBase):
                raise WarehouseError(f"Nothing was erased: the destination {self.target.destination} has no SQL.")
            with _transaction(client):
                eraser = PersonEraser(client, self.person)
                self._identify(eraser)
                if self.dry_run:
                    records = [*eraser.rename_labels(dry_run=True), *eraser.erase(dry_run=True)]
                    return ErasureReceipt(records, unsearched=sorted(eraser.unsearched | self.unsearched))
        state = self._add_to_erasure_list()
        with self._connection() as client:
            if file is not None:
                request_compaction(file)
            with _transaction(client):
                labels = PersonEraser(client, self.person)
                records = list(labels.rename_labels(dry_run=False))
            with _transaction(client):
                eraser = PersonEraser(client, self.person)
                eraser.refused |= labels.refused
                records += eraser.erase(dry_run=False)
                eraser.delete_states(self.pipeline.pipeline_name, state)
        # Files of a load that was killed, and the state that was just loaded.
        remove_staged_files(self.pipeline, [*BY_NAME, self.pipeline.default_schema.state_table_name])
        with self._connection() as client, _transaction(client):
            receipt = self._receipt(records, eraser, PersonEraser(client, self.person))
        state = self._end_note(receipt)
        with self._connection() as client:
            with _transaction(client):
                eraser = PersonEraser(client, self.person)
                eraser.delete_states(self.pipeline.pipeline_name, state)
            if file is not None:
                _compact(client, file)
        sync_local_pipeline(self.target)
        return receipt

    def _erase_from_files(self, client: FilesystemClient) -> ErasureReceipt:
        """Erase from a copy of the tables, and write each changed table back."""
        with copy_tables(client, self.folder) as copies:
            if PROPEL_SCANS.name not in copies.names:
                raise WarehouseError(f"Nothing has been loaded into {self.target.destination} yet. {HOW_TO_LOAD}")
            eraser = PersonEraser(copies.client, self.person)
            self._identify(eraser)
            eraser.resume(_source_state(self.pipeline.state).get(UNFINISHED_KEY, {}))
            records = list(eraser.erase(dry_run=self.dry_run))
            if self.dry_run:
                return ErasureReceipt(records, unsearched=sorted(eraser.unsearched | self.unsearched))
            state = self._add_to_erasure_list(eraser.deleted)
            for name in eraser.in_order(copies.names):
                copies.write_back(name)
            for name in copies.names:  # of unchanged tables too: their older versions can have the person
                copies.files.remove_old_versions(name)
            copies.files.remove_states(self.pipeline.pipeline_name, state)
        with copy_tables(warehouse_client(self.pipeline, self.target), self.folder) as copies:
            receipt = self._receipt(records, eraser, PersonEraser(copies.client, self.person))
            copies.files.remove_states(self.pipeline.pipeline_name, self._end_note(receipt))
        sync_local_pipeline(self.target)
        return receipt

    def _receipt(self, records: list[ErasureRecord], eraser: PersonEraser, search: PersonEraser) -> ErasureReceipt:
        """Return the receipt, with what a new search finds."""
        remaining = [
            ErasureRecord(r.where, f"{r.what}, not changed: {reason}", r.rows)
            if (reason := eraser.refused.get(r.where))
            else r
            for r in search.find_remaining()
        ]
        return ErasureReceipt(records, remaining, sorted(search.unsearched | self.unsearched))

    @contextlib.contextmanager
    def _connection(self) -> Iterator[Any]:
        with warehouse_client(self.pipeline, self.target) as client:
            yield client

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
        if self.find_user and not (eraser.knows_person() or is_listed):
            user = self.find_user()
            self.person.emails |= {user["email"]} if user.get("email") else set()
            self.person.usernames |= {user["username"]} if user.get("username") else set()
        eraser.learn_identifiers()
        self.person.add(state.get(NOTES_KEY, {}).get(self.user_id, {}))
        if self.policy.key:
            eraser.learn_plain_addresses(self.policy.digest)
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
            notes = state.setdefault(NOTES_KEY, {})
            is_automatic = self.is_automatic or notes.get(self.user_id, {}).get("is_automatic", False)
            notes[self.user_id] = {**self.person.as_lists(), "is_automatic": is_automatic, "has_ended": False}

        return self._write_state(change)

    def _end_note(self, receipt: ErasureReceipt) -> str:
        """Remove the note of this erasure, or note that it is not complete, and return the load of the state."""

        def change(state: dict[str, Any]) -> None:
            if self.is_automatic and not receipt.is_complete:
                state[NOTES_KEY][self.user_id] = {"is_automatic": True, "has_ended": True}
            else:
                del state[NOTES_KEY][self.user_id]

        return self._write_state(change)

    def _write_state(self, change: Callable[[dict[str, Any]], None]) -> str:
        """Change dlt's state of the source at the destination, and return the load of the state."""
        pipeline = self.pipeline
        with pipeline.managed_state(extract_state=True) as stored:
            change(_source_state(stored))
        if pipeline.has_pending_data:  # the state has changed
            pipeline.normalize()
            info = pipeline.load()
            info.raise_on_failed_jobs()
            return info.loads_ids[-1]
        with pipeline.destination_client() as client:
            latest = client.get_stored_state(pipeline.pipeline_name) if isinstance(client, WithStateSync) else None
        load_id = latest.as_doc().get("_dlt_load_id") if latest is not None else None
        if load_id is None:
            raise WarehouseError("Nothing was erased: the destination has no state of dlt. Load a table and run again.")
        return str(load_id)


def _find_user(tenant: Tenant | None, user_id: str) -> Mapping[str, Any]:
    """Return the user or the employee with this id at PropelAuth.

    Raises:
        WarehouseError: there is none, or PropelAuth cannot be asked.
    """
    unknown = "No such user: no table of the warehouse has this id"
    advice = "Nothing was erased. Check the id; to put it on the erasure list anyway, add --allow-unknown."
    if tenant is None:
        raise WarehouseError(f"{unknown}, and PropelAuth was not asked, because no API key is set. {advice}")
    client = Client(tenant)
    for table, parameter in (("user_by_id", "user_id"), ("employee", "employee_id")):
        try:
            return client.get(BY_NAME[table].path_of(**{parameter: user_id}), msgspec.json.decode)
        except ApiError as error:
            if not isinstance(error, PermanentApiError) or error.status not in UNKNOWN_STATUSES:
                raise WarehouseError(f"{unknown}, and PropelAuth could not be asked. {error} {advice}") from None
    raise WarehouseError(f"{unknown}, and PropelAuth has no such user. {advice}")


def _source_state(state: Any) -> dict[str, Any]:
    return state.setdefault("sources", {}).setdefault(SOURCE, {})


def _usage_cursor(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the day up to which the usage of each API key was read, by key, from dlt's state of the source."""
    return state.get(RESUME_STATES_KEY, {}).get(END_USER_API_KEY_USAGE.scan, {}).get("cursor", {})


@contextlib.contextmanager
def _transaction(client: Any) -> Iterator[None]:
    """Run a block in one transaction, where the destination has transactions."""
    atomic = client.capabilities.supports_transactions
    with client.sql_client.begin_transaction() if atomic else contextlib.nullcontext():
        yield
