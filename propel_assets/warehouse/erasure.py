"""Erasing a person from the warehouse: every schema of the database, and what comes with later loads.

A row about the person is deleted, a column that names them in another row is emptied, and where their id or e-mail
address stands within a text, it is replaced. Whether a row is about them is told by the names of its columns, so tables
made by others are found too. docs/privacy.md says what is out of reach.
"""

import contextlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import dlt
from dlt.common.destination.client import WithStateSync
from dlt.destinations.exceptions import DatabaseException

from propel_assets.catalog import BY_NAME, END_USER_API_KEY_USAGE, PROPEL_SCANS
from propel_assets.errors import WarehouseError, find_cause
from propel_assets.privacy.erasure_list import STATE_KEY, ErasureList, identifying_columns, mentioning_columns
from propel_assets.privacy.policy import Policy, require_key
from propel_assets.privacy.policy_file import load_policy
from propel_assets.settings import Settings
from propel_assets.source.dlt_source import RESUME_STATES_KEY, SOURCE
from propel_assets.warehouse.destinations.duckdb_file import replace_with_compacted_copy, write_compacted_copy
from propel_assets.warehouse.destinations.file_copies import copy_tables
from propel_assets.warehouse.dlt_compat import FilesystemClient, SqlJobClientBase
from propel_assets.warehouse.folders import working_folder
from propel_assets.warehouse.load import empty_bucket
from propel_assets.warehouse.pipeline import build_pipeline, database_file, load_lock, sync_local_pipeline
from propel_assets.warehouse.query import HOW_TO_LOAD, warehouse_client

TEXTS = re.compile(
    r"(character varying|varchar|char|text|string|json|jsonb|super|variant|uuid)(\(.*\))?", re.IGNORECASE
)
AFTERWARDS = (
    "Every load leaves this person out from now on. Delete them at PropelAuth too: while they are there, only the list "
    "in this warehouse keeps them out. Out of reach are backups, exports, and what Dagster keeps of its runs."
)
HASH = re.compile("[0-9a-f]{64}")
UNFINISHED = "erasing"  # in dlt's state: the rows by which `propel_scans` is lowered after a kill
INSTEAD = "erased"
LEARNED = ("email", "username", "api_key_id")
NUMBERS = ("rows_expected", "rows_read", "total_min", "total_max")


@dataclass(frozen=True)
class Removed:
    """One line of the receipt: where, what was done there, and to how many rows."""

    where: str
    what: str
    rows: int


@dataclass
class _Person:
    """What identifies one person, as it is stored: plain, hashed or both."""

    ids: set[str] = field(default_factory=set)
    emails: set[str] = field(default_factory=set)
    usernames: set[str] = field(default_factory=set)
    keys: set[str] = field(default_factory=set)

    def in_column(self, name: str) -> set[str]:
        """Return what a column of that name has of the person, in small letters."""
        of = {
            "username": self.usernames,
            "api_key_id": self.keys,
            "looked_up": self.ids | self.emails | self.usernames,
            **dict.fromkeys(("email", "invitee_email", "inviter_email"), self.emails),
        }
        return {value.lower() for value in of.get(name, self.ids)}

    def hashes(self, policy: Policy) -> set[str]:
        """Return the keyed hashes of all of it; what is stored hashed is one already."""
        values = self.ids | self.emails | self.usernames | self.keys
        return {h for v in values for h in ([v] if HASH.fullmatch(v) else map(policy.digest, {v, v.lower()}))}


@dataclass(frozen=True)
class _Place:
    """A table, with its text columns; others cannot hold an id or an address."""

    schema: str
    name: str
    columns: Sequence[str]

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


def erase(
    settings: Settings,
    user_id: str,
    *,
    emails: Collection[str] = (),
    dry_run: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> list[Removed]:
    """Remove the user, and return the receipt. ``emails``: further addresses that are theirs. Safe to repeat.

    Raises:
        SettingsError: there is no key to keep the list of the erased by.
        WarehouseError: there is no warehouse, or it cannot be erased from.
    """
    policy = load_policy(settings.privacy_settings)
    require_key(policy, "Who was erased is remembered by a keyed hash, so that no load brings them back")
    person = _Person({user_id, policy.digest(user_id)}, {h for e in emails for h in (e, policy.digest(e))})
    with working_folder() as folder:
        pipeline = build_pipeline(settings.target, folder, say)
        file = database_file(pipeline)
        if file is not None and not file.exists():
            raise WarehouseError(f"There is no {file}. {HOW_TO_LOAD}")
        try:
            with load_lock(settings.target, pipeline, say):
                pipeline.sync_destination()
                client = warehouse_client(pipeline, settings.target)
                if isinstance(client, FilesystemClient):
                    return _erase_files(settings, pipeline, client, folder, policy, person, dry_run=dry_run)
                return _erase(settings, pipeline, file, policy, person, dry_run=dry_run)
        except Exception as error:  # each destination's library has classes of its own; their texts have values in them
            raise find_cause(error) or WarehouseError(
                f"Erasing from {settings.destination} failed: {type(error).__name__}. Run it again: that is safe."
            ) from None


def _erase(
    settings: Settings, pipeline: dlt.Pipeline, file: Path | None, policy: Policy, person: _Person, *, dry_run: bool
) -> list[Removed]:
    with warehouse_client(pipeline, settings.target) as client:
        if not isinstance(client, SqlJobClientBase):
            raise WarehouseError(f"Nothing was erased: the destination {settings.destination} cannot be asked in SQL.")
        eraser = _Eraser(client, person)
        eraser.find()
        _find_keys(pipeline, eraser, policy)
        if dry_run:
            return list(eraser.erase(dry_run=True))
    state = _remember(pipeline, policy, person)
    with warehouse_client(pipeline, settings.target) as client:
        atomic = client.capabilities.supports_transactions
        with client.sql_client.begin_transaction() if atomic else contextlib.nullcontext():
            eraser = _Eraser(client, person)
            receipt = list(eraser.erase(dry_run=False))
            eraser.forget_states(pipeline.pipeline_name, state)
        if file is not None:
            write_compacted_copy(client.sql_client, file)
    if file is not None:
        replace_with_compacted_copy(file)
    empty_bucket(pipeline, list(BY_NAME))  # a load that was killed has left its files there
    sync_local_pipeline(settings.target)
    return receipt


def _erase_files(
    settings: Settings,
    pipeline: dlt.Pipeline,
    client: FilesystemClient,
    folder: str,
    policy: Policy,
    person: _Person,
    *,
    dry_run: bool,
) -> list[Removed]:
    """Erase from a copy of the tables, and write back one table after another what that has changed."""
    with copy_tables(client, folder) as copies:
        if PROPEL_SCANS.name not in copies.names:
            raise WarehouseError(f"Nothing has been loaded into {settings.destination} yet. {HOW_TO_LOAD}")
        eraser = _Eraser(copies.client, person)
        eraser.find()
        _find_keys(pipeline, eraser, policy)
        eraser.go_on(_ours(pipeline.state).get(UNFINISHED, {}))
        receipt = list(eraser.erase(dry_run=dry_run))
        if dry_run:
            return receipt
        state = _remember(pipeline, policy, person, eraser.fewer)
        for name in eraser.in_order(copies.names):
            copies.write_back(name)
        for name in copies.names:  # also of those that have nothing of the person any more: their older versions do
            copies.files.remove_old_versions(name)
        copies.files.remove_states(pipeline.pipeline_name, state)
    sync_local_pipeline(settings.target)
    return receipt


def _ours(state: Any) -> dict[str, Any]:
    return state.setdefault("sources", {}).setdefault(SOURCE, {})


def _usage_cursor(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the days up to which the usage of each API key was read, by key, from dlt's state of the source."""
    return state.get(RESUME_STATES_KEY, {}).get(END_USER_API_KEY_USAGE.scan, {}).get("cursor", {})


def _find_keys(pipeline: dlt.Pipeline, eraser: "_Eraser", policy: Policy) -> None:
    """Add the API keys that tables have hashed: resume states have the keys themselves."""
    keys = {*_usage_cursor(_ours(pipeline.state)), *eraser.keys_of_resume_states()}
    eraser.person.keys |= {key for key in keys if policy.digest(key) in eraser.person.keys}


def _remember(
    pipeline: dlt.Pipeline, policy: Policy, person: _Person, unfinished: Mapping[str, Sequence[Any]] | None = None
) -> str:
    """Put the person on the list that every load leaves out, and their keys out of what dlt remembers.

    Return the load whose state has that. All other states must go: older ones name keys, and one that was written while
    the clock was ahead would be taken for newer.
    """
    with pipeline.managed_state(extract_state=True) as state:
        ours = _ours(state)
        ours[STATE_KEY] = ErasureList(ours, policy).with_people(person.hashes(policy))
        usage = _usage_cursor(ours)
        for key in person.keys & {*usage}:
            del usage[key]
        if unfinished:
            ours[UNFINISHED] = dict(unfinished)
    if pipeline.has_pending_data:  # else they were on it already
        pipeline.normalize()
        info = pipeline.load()
        info.raise_on_failed_jobs()
        return info.loads_ids[-1]
    with pipeline.destination_client() as client:
        stored = client.get_stored_state(pipeline.pipeline_name) if isinstance(client, WithStateSync) else None
    load_id = stored.as_doc().get("_dlt_load_id") if stored is not None else None
    if load_id is None:
        raise WarehouseError("Nothing was erased: dlt's state is not at the destination. Load a table and run again.")
    return str(load_id)


class _Eraser:
    """Finds and removes one person through an open connection."""

    def __init__(self, client: Any, person: _Person) -> None:
        self._client, self._sql, self.person = client, client.sql_client, person
        self.fewer: dict[str, list[Any]] = {}
        self._upper = client.capabilities.casefold_identifier is str.upper
        self._places = list(self._find_places())

    def find(self) -> None:
        """Learn what else identifies the person."""
        for place in self._places:
            known_by = (self.person.emails, self.person.usernames, self.person.keys)
            for column, known in zip(LEARNED, known_by, strict=True):
                if {"user_id", column} <= {*place.columns}:
                    known.update(self._values(place, column))

    def keys_of_resume_states(self) -> Iterator[str]:
        """Yield the API keys that the resume states in `propel_scans` name."""
        for place in self._places:
            if place.name == PROPEL_SCANS.name and "resume_state" in place.columns:
                sql = f"SELECT {self._text('resume_state')} FROM {self._name(place)} WHERE table_name = %s"  # noqa: S608
                for (stored,) in self._rows(sql, END_USER_API_KEY_USAGE.name):
                    state = stored or "{}"
                    while isinstance(state, str):  # SQLite's is encoded twice
                        state = json.loads(state)
                    yield from state.get("cursor", {})

    def _values(self, place: _Place, column: str) -> list[str]:
        condition, params = self._is_theirs(["user_id"])
        sql = f"SELECT DISTINCT {self._text(column)} FROM {self._name(place)} WHERE {condition}"  # noqa: S608 - quoted
        return [value for (value,) in self._rows(sql, *params) if value]

    def erase(self, *, dry_run: bool) -> Iterator[Removed]:
        """Yield what is removed, table by table."""
        for place in self._places:
            about = identifying_columns(place.columns)
            theirs, params = self._is_theirs(about) if about else ("1 = 0", [])
            if rows := self._count(place, theirs, params):
                if not dry_run:
                    self._run(f"DELETE FROM {self._name(place)} WHERE {theirs}", *params)  # noqa: S608 - quoted
                    self._expect_fewer(place, rows)
                    self._forget_values(place)
                yield Removed(str(place), "rows deleted", rows)
            other = f"({theirs}) IS NOT TRUE"
            for column in mentioning_columns(place.columns):
                named, more = self._is_theirs([column])
                if rows := self._count(place, f"{named} AND {other}", [*more, *params]):
                    if not dry_run:
                        sql = f"UPDATE {self._name(place)} SET {self._quoted(column)} = NULL WHERE {named}"  # noqa: S608
                        self._run(sql, *more)
                        self._forget_values(place)
                    yield Removed(str(place), f"{column} emptied", rows)
            for column in place.columns:
                if column not in mentioning_columns(place.columns) and not (
                    column in {"email", "looked_up"} and "user_id" in place.columns
                ):
                    yield from self._replace_within(place, column, other, params, dry_run=dry_run)

    def _expect_fewer(self, place: _Place, rows: int) -> None:
        """Take ``rows`` off what the last load is known to have left, so that the checks hold."""
        if place.schema != self._sql.dataset_name or place.name not in BY_NAME:
            return
        self.fewer[place.name] = [*self._stands(place), rows]
        scans, last = self._books(place)
        less = ", ".join(f"{n} = CASE WHEN {n} > {rows} THEN {n} - {rows} WHEN {n} >= 0 THEN 0 END" for n in NUMBERS)
        sql = f"UPDATE {scans} SET {less} WHERE table_name = %s AND load_id = ({last})"  # noqa: S608 - quoted names
        self._run(sql, place.name, place.name)

    def _forget_values(self, place: _Place) -> None:
        """Remove how many values the last load read of each column, which the table no longer has."""
        scans = next((p for p in self._places if p.schema == place.schema and p.name == PROPEL_SCANS.name), None)
        if scans and "values_read" in scans.columns:
            sql = f"UPDATE {self._name(scans)} SET values_read = NULL WHERE table_name = %s"  # noqa: S608 - quoted
            self._run(sql, place.name)

    def _books(self, place: _Place) -> tuple[str, str]:
        """Return the name of `propel_scans`, and a query for the last load of a table, whose name is its parameter."""
        scans = self._name(_Place(place.schema, PROPEL_SCANS.name, ()))
        return scans, f"SELECT max(load_id) FROM {scans} WHERE table_name = %s AND verdict <> 'skipped'"  # noqa: S608

    def _stands(self, place: _Place) -> list[Any]:
        """Return the last load of a table, its numbers, and how many rows there are."""
        scans, last = self._books(place)
        sql = f"SELECT load_id, {', '.join(NUMBERS)} FROM {scans} WHERE table_name = %s AND load_id = ({last})"  # noqa: S608
        return [*chain(*self._rows(sql, place.name, place.name)), self._count(place, "1 = 1", ())]

    def go_on(self, unfinished: Mapping[str, Sequence[Any]]) -> None:
        """Lower what a kill has left too high: tables stand as it was to leave them, and `propel_scans` as before."""
        for place in self._places:
            *stands, rows = unfinished.get(place.name, [None])
            if stands and stands == self._stands(place):
                self._expect_fewer(place, rows)

    def in_order(self, names: Iterable[str]) -> list[str]:
        """Return tables so that, after a kill between any two, what is still to be learned is there to be learned."""
        teach = {p.name for p in self._places if "user_id" in p.columns and {*LEARNED} & {*p.columns}}
        return sorted(names, key=lambda name: (name == PROPEL_SCANS.name, name in teach))

    def forget_states(self, pipeline_name: str, but: str) -> None:
        """Remove dlt's states of the pipeline, but not that of the load ``but``."""
        states = self._name(_Place(self._sql.dataset_name, self._client.schema.state_table_name, ()))
        theirs = f"{self._quoted('pipeline_name')} = %s AND {self._quoted('_dlt_load_id')} <> %s"
        self._run(f"DELETE FROM {states} WHERE {theirs}", pipeline_name, but)  # noqa: S608 - quoted names

    def _replace_within(
        self, place: _Place, column: str, other: str, params: Sequence[Any], *, dry_run: bool
    ) -> Iterator[Removed]:
        """Replace ids and addresses that stand within texts and JSON, in rows about others."""
        values = self.person.ids | self.person.emails | self.person.keys
        told = sorted({word for value in values for word in (value, json.dumps(value)[1:-1])})
        text, name = self._text(column), self._name(place)
        like = " OR ".join([f"lower({text}) LIKE %s"] * len(told))
        sql = f"SELECT {text}, count(*) FROM {name} WHERE ({like}) AND {other} GROUP BY {text}"  # noqa: S608 - quoted
        found = self._rows(sql, *(f"%{word.lower()}%" for word in told), *params)
        words = re.compile(rf"(?<![\w.+-])({'|'.join(map(re.escape, told))})(?!\.?[\w-])", re.IGNORECASE)
        changed = [(old, words.sub(INSTEAD, old), rows) for old, rows in found if words.search(old)]
        for old, new, _ in changed if not dry_run else []:
            value = None if new == INSTEAD else new
            self._run(f"UPDATE {name} SET {self._quoted(column)} = %s WHERE {text} = %s", value, old)  # noqa: S608
            if value is None:
                self._forget_values(place)
        if changed:
            yield Removed(str(place), f"{column}: replaced within", sum(rows for _, _, rows in changed))

    # --- SQL ---

    def _find_places(self) -> Iterator[_Place]:
        """Yield every table of the database that has text; where it cannot be asked for them, those of this project."""
        sql = (
            "SELECT c.table_schema, c.table_name, c.column_name, c.data_type FROM information_schema.columns c "
            "JOIN information_schema.tables t ON t.table_schema = c.table_schema AND t.table_name = c.table_name "
            "AND t.table_catalog = c.table_catalog WHERE t.table_type = 'BASE TABLE' "
            "AND c.table_catalog = current_database() ORDER BY 1, 2, c.ordinal_position"
        )
        found: dict[tuple[str, str], list[str]] = {}
        try:
            for schema, name, column, kind in self._rows(sql):
                if not schema.lower().startswith(("pg_", "information_schema")) and TEXTS.fullmatch(kind):
                    found.setdefault((schema, name), []).append(column)
        except DatabaseException:
            for schema in (self._sql.dataset_name, self._sql.staging_dataset_name):
                with self._sql.with_alternative_dataset_name(schema):
                    for name in BY_NAME:
                        _, columns = self._client.get_storage_table(name)
                        texts = [c for c, kind in columns.items() if kind.get("data_type") in {"text", "json"}]
                        found |= {(schema, name): texts} if texts else {}
        ours = str.lower if self._upper else str
        for (schema, name), columns in found.items():
            if not name.lower().startswith("_dlt"):
                yield _Place(ours(schema), ours(name), list(map(ours, columns)))

    def _is_theirs(self, columns: Sequence[str]) -> tuple[str, list[str]]:
        """Return a condition, and its parameters: one of ``columns`` has what identifies the person."""
        conditions, params = ["1 = 0"], []
        for column in columns:
            if values := sorted(self.person.in_column(column)):
                conditions.append(f"lower({self._text(column)}) IN ({', '.join(['%s'] * len(values))})")
                params += values
        return f"({' OR '.join(conditions)})", params

    def _count(self, place: _Place, condition: str, params: Sequence[Any]) -> int:
        sql = f"SELECT count(*) FROM {self._name(place)} WHERE {condition}"  # noqa: S608 - quoted names
        return int(self._rows(sql, *params)[0][0])

    def _rows(self, sql: str, *params: Any) -> list[tuple[Any, ...]]:
        with self._sql.execute_query(sql, *params) as cursor:
            return [tuple(row) for row in cursor.fetchall()]

    def _run(self, sql: str, *params: Any) -> None:
        self._sql.execute_sql(sql, *params)

    def _quoted(self, name: str) -> str:
        return self._sql.escape_column_name(name, casefold=self._upper)

    def _name(self, place: _Place) -> str:
        return f"{self._quoted(place.schema)}.{self._quoted(place.name)}"

    def _text(self, column: str) -> str:
        return f"CAST({self._quoted(column)} AS VARCHAR)"
