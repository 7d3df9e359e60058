"""Finds and removes one person through an open connection."""

import contextlib
import secrets
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from dlt.destinations.exceptions import DatabaseException

from propel_assets.catalog import AUTH_EVENT, BY_NAME, END_USER_API_KEY_USAGE, PROPEL_SCANS, TABLES
from propel_assets.privacy.erasure_list import identifying_columns, mentioning_columns, own_columns
from propel_assets.privacy.identifiers import REPLACEMENT, is_one_identifier, like_patterns, replace_identifiers
from propel_assets.privacy.policy import VARIANT
from propel_assets.privacy.redaction import describe_error
from propel_assets.warehouse.audit import decode_json
from propel_assets.warehouse.dlt_compat import DuckDbSqlClient
from propel_assets.warehouse.erasure.database_catalog import Catalog, EnumType, SearchedColumn, SearchedTable
from propel_assets.warehouse.erasure.duckdb_catalog import DuckDbCatalog
from propel_assets.warehouse.erasure.person import DIGEST, Person
from propel_assets.warehouse.erasure.postgres_catalog import PostgresCatalog
from propel_assets.warehouse.erasure.receipt import ErasureRecord, UnsearchedColumn
from propel_assets.warehouse.query import placeholders

IDENTIFIER_PAIRS = (
    ("user_id", "email"),
    ("user_id", "username"),
    ("user_id", "api_key_id"),
    ("employee_id", "email"),
    ("inviter_user_id", "inviter_email"),
)
"""Columns of one row: an id of a person, and another identifier of the same person."""
ADDRESS_UNKNOWN = "no e-mail address of this person is known. If you know one, run again with --email"
ROW_COUNTS = ("rows_expected", "rows_read", "total_min", "total_max")
FREE_FORM = {c.name for table in TABLES for c in table.columns if c.privacy == "free_form"}
ADDRESS_PATTERNS = ("%@%", "%40%", "%&#%", "%commat%")  # LIKE patterns of plain and encoded addresses
NO_ROWS: tuple[str, list[Any]] = ("1 = 0", [])


class _Change(NamedTuple):
    """A change of one column in rows about others. ``statements``: the SQL, each with its parameters."""

    column: SearchedColumn
    what: str
    rows: int
    statements: list[tuple[Any, ...]]


class PersonEraser:
    """Finds and removes one person.

    Attributes:
        unsearched: what cannot be searched.
        refused: why the database refused a change, by table or type.
        deleted: by table, what `_row_counts` returned before the deletion, and the number of deleted rows.
    """

    def __init__(self, client: Any, person: Person) -> None:
        """Read the catalog of the database behind dlt's ``client``."""
        self.person = person
        self._client = client
        self._catalog = _catalog_of(client)
        self._contents = self._catalog.contents()
        self.unsearched: set[UnsearchedColumn] = {*self._contents.unsearched}
        self.refused: dict[str, str] = {}
        self.deleted: dict[str, list[Any]] = {}
        self._kept: defaultdict[str, set[str]] = defaultdict(set)
        """By table, the addresses of other users that identify the person or contain an identifier."""

    def collect_identifiers(self) -> None:
        """Add the addresses, usernames and API keys in rows with the person's id to the person's identifiers."""
        person = self.person
        known = {"username": person.usernames, "api_key_id": person.api_keys}
        emails: set[str] = set()
        for table in self._contents.tables:
            for id_column, column in IDENTIFIER_PAIRS:
                if {id_column, column} <= {*table.scalar_names}:
                    condition, params = self._identifies(table, [id_column])
                    text = self._catalog.text(column)
                    sql = f"SELECT DISTINCT {text} FROM {self._name(table)} WHERE {condition}"  # noqa: S608 - quoted
                    values = [value for (value,) in self._catalog.rows(sql, *params) if value]
                    known.get(column, emails).update(values)
            if table.name == AUTH_EVENT.name and "payload" in [column.name for column in table.columns]:
                self._collect_from_events(table)
        # Not `unknown` or `-`, which rows of other people can have too.
        person.emails |= {email for email in emails if "@" in email or DIGEST.fullmatch(email)}

    def collect_plain_addresses(self, digest: Callable[[str], str]) -> None:
        """Add addresses that are known only by their keyed hash: a policy that hashes columns keeps them in text."""
        person = self.person
        hashed = {email for email in person.emails if DIGEST.fullmatch(email)}
        hashed -= {digest(form) for email in person.emails - hashed for form in (email, email.lower())}

        def add(value: str) -> bool:
            is_of_person = not hashed.isdisjoint({digest(value), digest(value.lower())})
            person.emails |= {value} if is_of_person else set()
            return is_of_person

        columns = [(table, column) for table in self._contents.tables for column in table.columns] if hashed else []
        for table, column in columns:
            text = self._catalog.text(column)
            like = " OR ".join([f"{text} LIKE %s"] * len(ADDRESS_PATTERNS))
            sql = f"SELECT DISTINCT {text} FROM {self._name(table)} WHERE {like}"  # noqa: S608 - quoted names
            with contextlib.suppress(DatabaseException), self._catalog.savepoint():  # `find_remaining` reports it
                for (value,) in self._catalog.stream(sql, *ADDRESS_PATTERNS):
                    replace_identifiers(value, add)

    def _collect_from_events(self, table: SearchedTable) -> None:
        """Add the address and username in the person's `user.created` events, which remain after a deletion."""
        condition, params = self._identifies(table, ["user_id"])
        sql = f"SELECT {self._catalog.text('payload')} FROM {self._name(table)} WHERE {condition} AND event_type = %s"  # noqa: S608
        for (stored,) in self._catalog.rows(sql, *params, "user.created"):
            payload = decode_json(stored) or {}
            for name, values in (("email", self.person.emails), ("username", self.person.usernames)):
                values.update([payload[name]] if isinstance(payload.get(name), str) else ())

    def columns_with_addresses(self) -> Iterator[UnsearchedColumn]:
        """Yield the columns of invites with addresses. Without an address of the person, they cannot be searched."""
        for table in self._contents.tables:
            for name in {"invitee_email", "inviter_email"} & {*table.scalar_names}:
                if self._count(table, f"{self._catalog.quote(name)} IS NOT NULL", []):
                    yield UnsearchedColumn(f"{table}.{name}", "text", ADDRESS_UNKNOWN)

    def api_keys_of_resume_states(self) -> Iterator[str]:
        """Yield the API keys that the resume states in `propel_scans` name."""
        for table in self._contents.tables:
            if table.name == PROPEL_SCANS.name and "resume_state" in [column.name for column in table.columns]:
                text = self._catalog.text("resume_state")
                sql = f"SELECT {text} FROM {self._name(table)} WHERE table_name = %s"  # noqa: S608 - quoted names
                for (stored,) in self._catalog.rows(sql, END_USER_API_KEY_USAGE.name):
                    yield from (decode_json(stored) or {}).get("cursor", {})

    def has_person(self) -> bool:
        """Return whether a table has the person's id. The value of a lookup does not count: it can be an unknown id."""
        for table in self._contents.tables:
            ids = [
                name
                for name in table.scalar_names
                if name in {"user_id", "employee_id"} or (name in mentioning_columns([name]) and name.endswith("_id"))
            ]
            if ids and self._count(table, *self._identifies(table, ids)):
                return True
        return False

    # --- erasing ---

    def rename_labels(self, *, dry_run: bool) -> Iterator[ErasureRecord]:
        """Yield the enumerated types with labels that identify the person, and rename these labels.

        DuckDB cannot change rows and types of a table in one transaction. Call this in a transaction of its own.
        """
        for enum in self._contents.enums:
            if labels := self._new_labels(enum):
                record = ErasureRecord(enum.name, "enum labels renamed", len(labels))
                if dry_run or self._try(enum.name, lambda e=enum, new=labels: self._catalog.rename_labels(e, new)):
                    yield record

    def erase(self, *, dry_run: bool) -> Iterator[ErasureRecord]:
        """Yield what is removed, table by table. A dry run finds the same and changes nothing."""
        views = {view: rows for view in self._tables("materialized view") if (rows := self._count_matches(view))}
        for table in self._tables("table"):
            records = list(self._erase_from(table, dry_run=dry_run))
            yield from records
            if records and not dry_run:
                self._clear_value_counts(table)
                self._try(str(table), lambda table=table: self._catalog.update_statistics(table))
        refreshed = views if dry_run else self._refresh([*views])
        for view in refreshed:
            yield ErasureRecord(str(view), "materialized view refreshed", views[view])

    def _refresh(self, views: list[SearchedTable]) -> list[SearchedTable]:
        """Refresh views until none contains the person, and return the refreshed ones.

        A view on another view needs several rounds.
        """
        pending = views
        while pending:
            for view in pending:
                self._try(str(view), lambda v=view: self._catalog.run(f"REFRESH MATERIALIZED VIEW {self._name(v)}"))
                self._try(str(view), lambda v=view: self._catalog.update_statistics(v))
            still_found = [view for view in pending if self._count_matches(view)]
            if still_found == pending:
                break
            pending = still_found
        return [view for view in views if view not in pending]

    def find_remaining(self) -> list[ErasureRecord]:
        """Return what still identifies the person, in every column that can be searched."""
        found = [ErasureRecord(r.where, "enum labels", r.rows) for r in self.rename_labels(dry_run=True)]
        for table in self._contents.tables:
            if rows := self._count_matches(table):
                found.append(ErasureRecord(str(table), table.kind, rows))
        for where, what, text in self._contents.texts:
            unquoted = text.replace("''", "'")
            for value in self._kept.get(where, ()):  # in the statistics of the table
                unquoted = unquoted.replace(value, "")
            if self._replace(unquoted, with_usernames=False) != unquoted:
                found.append(ErasureRecord(where, what, 1))
        return list(dict.fromkeys(found))

    def _tables(self, kind: str) -> list[SearchedTable]:
        return [table for table in self._contents.tables if table.kind == kind]

    def _erase_from(self, table: SearchedTable, *, dry_run: bool) -> Iterator[ErasureRecord]:
        about_person, params = self._rows_about_person(table)
        if rows := self._count(table, about_person, params):
            record = ErasureRecord(str(table), "rows deleted", rows)
            sql = f"DELETE FROM {self._name(table)} WHERE {about_person}"  # noqa: S608 - quoted names
            if dry_run or self._try(str(table), lambda: self._catalog.run(sql, *params)):
                yield record
                if not dry_run:
                    self._lower_row_counts(table, rows)
        for change in self._changes(table, about_person, params):
            record = ErasureRecord(str(table), f"{change.column.name}: {change.what}", change.rows)
            if dry_run or self._try(
                str(table), lambda c=change: [self._catalog.run(*statement) for statement in c.statements]
            ):
                yield record

    def _count_matches(self, table: SearchedTable) -> int:
        """Return in how many rows of a table the person is found, counted once for each column."""
        try:
            with self._catalog.savepoint():
                about_person, params = self._rows_about_person(table)
                rows = self._count(table, about_person, params)
                return rows + sum(change.rows for change in self._changes(table, about_person, params))
        except DatabaseException as error:  # a foreign table whose server is away
            if not self._catalog.has_savepoints:
                raise
            self.unsearched.add(UnsearchedColumn(str(table), table.kind, describe_error(error)))
            return 0

    def _changes(self, table: SearchedTable, about_person: str, params: Sequence[Any]) -> Iterator[_Change]:
        """Yield the changes of each column that identifies the person in rows about others."""
        others = f"({about_person}) IS NOT TRUE"
        yield from self._null_mentions(table, others, params)
        yield from self._replace_in_text(table, others, params)

    def _null_mentions(self, table: SearchedTable, others: str, params: Sequence[Any]) -> Iterator[_Change]:
        """Yield the changes that set an id or address of the person to null."""
        columns = {column.name: column for column in table.columns}
        for name in mentioning_columns(table.scalar_names):
            condition, values = self._identifies(table, [name])
            if rows := self._count(table, f"{condition} AND {others}", [*values, *params]):
                sql = f"UPDATE {self._name(table)} SET {self._catalog.quote(name)} = NULL WHERE {condition}"  # noqa: S608
                yield _Change(columns[name], "set to null", rows, [(sql, *values)])

    def _replace_in_text(self, table: SearchedTable, others: str, params: Sequence[Any]) -> Iterator[_Change]:
        """Yield the changes that replace identifiers of the person within values."""
        own = own_columns(table.scalar_names)
        for name, column in {column.name: column for column in table.columns}.items():
            found = self._find_text(table, column, others, params)
            if name in own:
                kept = {old for old, *_ in found if is_one_identifier(old, self._is_of_person)}
                self._kept[str(table)] |= kept
                found = [(old, new, rows) for old, new, rows in found if old not in kept]
            if found:
                text = self._catalog.text(column)
                equals = self._catalog.quote(name) if column.kind == "binary" else text
                sql = f"UPDATE {self._name(table)} SET {self._catalog.quote(name)} = "  # noqa: S608 - quoted names
                statements = [
                    (f"{sql}CAST(%s AS {column.type}) WHERE {equals} = %s", new, old)
                    if column.kind == "typed" and new is not None
                    else (f"{sql}%s WHERE {equals} = %s", new, old)
                    for old, new, _ in found
                ]
                what = "set to null" if all(new is None for _, new, _ in found) else "identifiers replaced"
                yield _Change(column, what, sum(rows for _, _, rows in found), statements)

    def _find_text(
        self, table: SearchedTable, column: SearchedColumn, others: str, params: Sequence[Any]
    ) -> list[tuple[Any, str | None, int]]:
        """Return the values of a column that identify the person: the value, its replacement, the number of rows."""
        with_usernames = column.name.removesuffix(VARIANT) in FREE_FORM
        patterns = self.person.text_patterns(with_usernames=with_usernames)
        hex_patterns = [f"%{v.encode().hex()}%" for v in self.person.in_text(with_usernames=False)]
        patterns += hex_patterns if column.kind == "typed" else []
        if not patterns:
            return []
        text = self._catalog.text(column)
        value = self._catalog.quote(column.name) if column.kind == "binary" else text
        like = " OR ".join([f"lower({text}) LIKE %s"] * len(patterns))
        sql = f"SELECT {value}, count(*) FROM {self._name(table)} WHERE ({like}) AND {others} GROUP BY {value}"  # noqa: S608
        found: list[tuple[Any, str | None, int]] = []
        for old, rows in self._catalog.stream(sql, *patterns, *params):
            if column.kind == "binary":
                content = bytes(old).decode(errors="replace")
                if self._replace(content, with_usernames=False) != content:
                    found.append((bytes(old), None, rows))
            elif (new := self._replace(old, with_usernames=with_usernames)) != old:
                found.append((old, self._storable(column, new), rows))
            elif any(pattern.strip("%") in old.lower() for pattern in hex_patterns):
                found.append((old, None, rows))
        return found

    def _storable(self, column: SearchedColumn, value: str) -> str | None:
        """Return ``value`` as the column can store it; None if its type cannot."""
        if value == REPLACEMENT and column.is_unique and column.kind == "text":
            return f"{REPLACEMENT}-{secrets.token_hex(6)}"
        return value if self._catalog.accepts(column, value) else None

    def _replace(self, text: str, *, with_usernames: bool) -> str:
        identifiers = self.person.in_text(with_usernames=with_usernames)
        return replace_identifiers(text, lambda value: value.lower() in identifiers, whole_values=with_usernames)

    def _is_of_person(self, value: str) -> bool:
        return value.lower() in self.person.in_text(with_usernames=True)

    def _new_labels(self, enum: EnumType) -> dict[str, str]:
        """Return the new names of the labels that identify the person."""
        labels: dict[str, str] = {}
        for label in enum.labels:
            if (new := self._replace(label, with_usernames=False)) != label:
                taken = {*enum.labels, *labels.values()}
                labels[label] = next(name for name in chain([new], _numbered(new)) if name not in taken)
        return labels

    def _try(self, where: str, change: Callable[[], Any]) -> bool:
        """Return whether a change was made. Why the database refused it is kept in `refused`."""
        try:
            with self._catalog.savepoint():
                change()
        except DatabaseException as error:
            if not self._catalog.has_savepoints:
                raise
            self.refused[where] = describe_error(error)
            return False
        return True

    # --- the row counts of the audit table ---

    def _lower_row_counts(self, table: SearchedTable, rows: int) -> None:
        """Subtract ``rows`` from the numbers of the last load, so that the checks pass."""
        if table.schema != self._client.sql_client.dataset_name or table.name not in BY_NAME:
            return
        self.deleted[table.name] = [*self._row_counts(table), rows]
        scans, last = self._last_scan(table)
        lower = ", ".join(
            f"{n} = CASE WHEN {n} > {rows} THEN {n} - {rows} WHEN {n} >= 0 THEN 0 END" for n in ROW_COUNTS
        )
        sql = f"UPDATE {scans} SET {lower} WHERE table_name = %s AND load_id = ({last})"  # noqa: S608 - quoted names
        self._catalog.run(sql, table.name, table.name)

    def _clear_value_counts(self, table: SearchedTable) -> None:
        """Remove the number of values of each column in the last load: the table has fewer now."""
        scans = SearchedTable(table.schema, PROPEL_SCANS.name)
        stored = next((t for t in self._contents.tables if str(t) == str(scans)), scans)
        if "values_read" in [column.name for column in stored.columns]:
            sql = f"UPDATE {self._name(scans)} SET values_read = NULL WHERE table_name = %s"  # noqa: S608 - quoted
            self._catalog.run(sql, table.name)

    def _last_scan(self, table: SearchedTable) -> tuple[str, str]:
        """Return the name of `propel_scans`, and a query for the last load of a table, whose name is its parameter."""
        scans = self._name(SearchedTable(table.schema, PROPEL_SCANS.name))
        return scans, f"SELECT max(load_id) FROM {scans} WHERE table_name = %s AND verdict <> 'skipped'"  # noqa: S608

    def _row_counts(self, table: SearchedTable) -> list[Any]:
        """Return the id of the last load of a table, its `ROW_COUNTS`, and the table's current number of rows."""
        scans, last = self._last_scan(table)
        names = ", ".join(ROW_COUNTS)
        sql = f"SELECT load_id, {names} FROM {scans} WHERE table_name = %s AND load_id = ({last})"  # noqa: S608
        return [*chain(*self._catalog.rows(sql, table.name, table.name)), self._count(table, "1 = 1", [])]

    def resume(self, unfinished: Mapping[str, Sequence[Any]]) -> None:
        """Lower the row counts of tables that a killed erasure has written, and whose counts it has not lowered."""
        for table in self._contents.tables:
            *counts, rows = unfinished.get(table.name, [None])
            if counts and counts == self._row_counts(table):
                self._lower_row_counts(table, rows)
                self._clear_value_counts(table)

    def in_order(self, names: Iterable[str]) -> list[str]:
        """Return tables in the order to write them: those with the identifiers late, `propel_scans` last."""
        with_identifiers = {
            table.name
            for table in self._contents.tables
            if table.name == AUTH_EVENT.name or any({*pair} <= {*table.scalar_names} for pair in IDENTIFIER_PAIRS)
        }
        return sorted(names, key=lambda name: (name == PROPEL_SCANS.name, name in with_identifiers))

    # --- SQL ---

    def _rows_about_person(self, table: SearchedTable) -> tuple[str, list[Any]]:
        columns = identifying_columns(table.scalar_names)
        return self._identifies(table, columns) if columns else NO_ROWS

    def _identifies(self, table: SearchedTable, columns: Sequence[str]) -> tuple[str, list[Any]]:
        """Return a condition and its parameters: one of ``columns`` has an identifier of the person."""
        conditions, params = [NO_ROWS[0]], []
        for column in columns:
            text, values = self._catalog.text(column), self.person.in_column(column)
            for expression, listed in ((f"lower({text})", values), (text, self._spellings(table, column, values))):
                if listed:
                    conditions.append(f"{expression} IN {placeholders([*listed])}")
                    params += sorted(listed)
        return f"({' OR '.join(conditions)})", params

    def _spellings(self, table: SearchedTable, column: str, values: Collection[str]) -> set[str]:
        """Return the stored values that are, in lower case, one of ``values`` with characters other than ASCII.

        Databases differ in which of these characters have a lower case, so Python decides.
        """
        patterns = [pattern for value in values if not value.isascii() for pattern in like_patterns(value)]
        if not patterns:
            return set()
        text = self._catalog.text(column)
        like = " OR ".join([f"lower({text}) LIKE %s"] * len(patterns))
        sql = f"SELECT DISTINCT {text} FROM {self._name(table)} WHERE {like}"  # noqa: S608 - quoted names
        return {value for (value,) in self._catalog.stream(sql, *patterns) if value.lower() in values}

    def _count(self, table: SearchedTable, condition: str, params: Sequence[Any]) -> int:
        sql = f"SELECT count(*) FROM {self._name(table)} WHERE {condition}"  # noqa: S608 - quoted names
        return int(self._catalog.rows(sql, *params)[0][0])

    def _name(self, table: SearchedTable) -> str:
        return self._catalog.name(table)


def delete_states(client: Any, pipeline_name: str, keep: str) -> None:
    """Delete dlt's states of the pipeline through dlt's ``client``, but not that of the load ``keep``."""
    catalog = _catalog_of(client)
    states = catalog.name(SearchedTable(client.sql_client.dataset_name, client.schema.state_table_name))
    condition = f"{catalog.quote('pipeline_name')} = %s AND {catalog.quote('_dlt_load_id')} <> %s"
    catalog.run(f"DELETE FROM {states} WHERE {condition}", pipeline_name, keep)  # noqa: S608 - quoted names


def _numbered(name: str) -> Iterator[str]:
    number = 2
    while True:
        yield f"{name}_{number}"
        number += 1


def _catalog_of(client: Any) -> Catalog:
    """Return the catalog of the database behind dlt's ``client``."""
    if isinstance(client.sql_client, DuckDbSqlClient):
        return DuckDbCatalog(client)
    if client.config.destination_type == "postgres":
        return PostgresCatalog(client)
    return Catalog(client)
