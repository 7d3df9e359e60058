"""The tables and columns of a database that can contain an identifier, from the catalog of each kind of database."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from dlt.destinations.exceptions import DatabaseException

from propel_assets.catalog import AUDIT_TABLES, BY_NAME
from propel_assets.privacy.redaction import describe_error
from propel_assets.warehouse.erasure.receipt import UnsearchedColumn

ColumnKind = Literal["text", "typed", "binary"]
TableKind = Literal["table", "materialized view", "foreign table"]

NO_TEXT = re.compile(
    r"(bool\w*|\w*int\w*|number|numeric|decimal|float\d*|double( precision)?|real|money|date|time\w*|datetime|interval|"
    r"bit|oid)(\s*\(.*\))?( with(out)? time zone)?(\[\d*\])*",
    re.IGNORECASE,
)
TEXT = re.compile(
    r"(character varying|varchar|char|character|text|string|json|jsonb|super|variant)(\(.*\))?", re.IGNORECASE
)


@dataclass(frozen=True)
class SearchedColumn:
    """A column that can contain an identifier.

    ``kind``: `text` takes any text; `typed` is searched as text and takes what its type accepts; `binary` is bytes.
    """

    name: str
    type: str
    kind: ColumnKind = "text"
    is_unique: bool = False

    @property
    def is_scalar(self) -> bool:
        """Whether a value is one text or id: not JSON, not a list of them."""
        return self.type.lower() in {"uuid", "citext"} or (self.kind == "text" and "json" not in self.type.lower())


@dataclass(frozen=True)
class SearchedTable:
    """A table, with the columns that can contain an identifier."""

    schema: str
    name: str
    columns: tuple[SearchedColumn, ...] = ()
    kind: TableKind = "table"

    def __str__(self) -> str:
        """Return `schema.table`."""
        return f"{self.schema}.{self.name}"

    @property
    def scalar_names(self) -> list[str]:
        """The names of the columns that have one text or id as a value, not JSON or a list of them."""
        return [column.name for column in self.columns if column.is_scalar]


@dataclass(frozen=True)
class EnumType:
    """An enumerated type. ``used_by``: the column with this type, for databases where a type belongs to its column."""

    name: str
    labels: Sequence[str]
    used_by: tuple[SearchedTable, str] | None = None


@dataclass
class Contents:
    """The searchable contents of a database, and what cannot be searched.

    Attributes:
        texts: view definitions and column statistics: the relation, the kind of text, and the text.
    """

    tables: list[SearchedTable] = field(default_factory=list)
    enums: list[EnumType] = field(default_factory=list)
    texts: list[tuple[str, str, str]] = field(default_factory=list)
    unsearched: list[UnsearchedColumn] = field(default_factory=list)


class Catalog:
    """The catalog of a database with `information_schema`, and the SQL that differs between databases.

    Only columns with text are searched. Columns of other types are reported, unless they cannot contain text.
    """

    has_savepoints = False

    def __init__(self, client: Any) -> None:
        """Read through ``client``, dlt's client of the destination."""
        self._client, self.sql = client, client.sql_client
        self._upper = client.capabilities.casefold_identifier is str.upper

    def contents(self) -> Contents:
        """Return the tables, columns and texts to search."""
        query = (
            "SELECT c.table_schema, c.table_name, c.column_name, c.data_type FROM information_schema.columns c "
            "JOIN information_schema.tables t ON t.table_schema = c.table_schema AND t.table_name = c.table_name "
            "AND t.table_catalog = c.table_catalog WHERE t.table_type = 'BASE TABLE' "
            "AND c.table_catalog = current_database() ORDER BY 1, 2, c.ordinal_position"
        )
        try:
            rows = self.rows(query)
        except DatabaseException as error:
            return self._own_contents(describe_error(error))
        contents = Contents()
        columns: dict[tuple[str, str], list[SearchedColumn]] = {}
        fold = str.lower if self._upper else str
        for schema, table, column, type_ in rows:
            schema, table, column = fold(schema), fold(table), fold(column)
            if schema.startswith(("pg_", "information_schema")) or table.startswith("_dlt"):
                continue
            if TEXT.fullmatch(type_):
                columns.setdefault((schema, table), []).append(SearchedColumn(column, type_))
            elif not NO_TEXT.fullmatch(type_):
                reason = f"columns of this type are not searched on {self._client.config.destination_type}"
                contents.unsearched.append(UnsearchedColumn(f"{schema}.{table}.{column}", type_, reason))
        contents.tables = [SearchedTable(*name, tuple(found)) for name, found in columns.items()]
        return contents

    def _own_contents(self, reason: str) -> Contents:
        """Return the tables of this project: the database has no catalog of all schemas."""
        contents = Contents(unsearched=[UnsearchedColumn("all other schemas", "schema", reason)])
        fold = str.lower if self._upper else str
        for schema in (self.sql.dataset_name, self.sql.staging_dataset_name):
            with self.sql.with_alternative_dataset_name(schema):
                for name in (*BY_NAME, *(table.name for table in AUDIT_TABLES)):
                    _, stored = self._client.get_storage_table(name)
                    types = {fold(column): str(kind.get("data_type")) for column, kind in stored.items()}
                    columns = [SearchedColumn(c, type_) for c, type_ in types.items() if type_ in {"text", "json"}]
                    contents.tables += [SearchedTable(schema, name, tuple(columns))] if columns else []
        return contents

    # --- SQL ---

    def execute(self, query: str, *params: Any) -> contextlib.AbstractContextManager[Any]:
        """Run a query and return its cursor, to be opened by `with`.

        Raises:
            DatabaseException: the database refused it.
        """
        return self.sql.execute_query(query, *params)

    def rows(self, query: str, *params: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        with self.execute(query, *params) as cursor:
            return [tuple(row) for row in cursor.fetchall()]

    def stream(self, query: str, *params: Any) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query in batches."""
        with self.execute(query, *params) as cursor:
            while batch := cursor.fetchmany(1_000):
                yield from (tuple(row) for row in batch)

    def run(self, statement: str, *params: Any) -> None:
        """Run a statement."""
        with self.execute(statement, *params):
            pass

    @contextlib.contextmanager
    def savepoint(self) -> Iterator[None]:
        """Undo a failed block without undoing the transaction, where the database can do that."""
        yield

    def quote(self, name: str) -> str:
        """Return the quoted name of a column or schema."""
        return self.sql.escape_column_name(name, casefold=self._upper)

    def name(self, table: SearchedTable) -> str:
        """Return the quoted, qualified name of a table."""
        return f"{self.quote(table.schema)}.{self.quote(table.name)}"

    def text(self, column: SearchedColumn | str) -> str:
        """Return the SQL expression of a column as text."""
        return f"CAST({self.quote(column if isinstance(column, str) else column.name)} AS VARCHAR)"

    def accepts(self, column: SearchedColumn, value: str) -> bool:
        """Return whether ``value`` can be stored in a column of this type."""
        return column.kind == "text"

    def update_statistics(self, table: SearchedTable) -> None:
        """Update the statistics of a table, where they contain values of its rows."""

    def rename_labels(self, enum: EnumType, labels: dict[str, str]) -> None:
        """Rename labels of an enumerated type, in its columns too."""
        raise NotImplementedError
