"""What is searched in a PostgreSQL database."""

import contextlib
from collections.abc import Iterator
from typing import Any

from dlt.destinations.exceptions import DatabaseException, DatabaseTerminalException

from propel_assets.warehouse.destinations.duckdb_file import sql_literal
from propel_assets.warehouse.erasure.database_catalog import (
    Catalog,
    ColumnKind,
    Contents,
    EnumType,
    SearchedColumn,
    SearchedTable,
    TableKind,
)
from propel_assets.warehouse.erasure.receipt import UnsearchedColumn

RELATION_KINDS: dict[str, TableKind] = {"r": "table", "m": "materialized view", "f": "foreign table"}
# Numbers, dates, booleans, time spans, geometry, networks and bit strings have no text; enums are searched by label.
SKIPPED_CATEGORIES = frozenset("NDBTGIVE")
COLUMNS = """
SELECT n.nspname, c.relname, c.relkind, a.attname, format_type(a.atttypid, a.atttypmod),
  COALESCE(e.typcategory, t.typcategory), t.typname,
  EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND a.attnum = ANY (i.indkey)),
  CASE
    WHEN NOT has_schema_privilege(n.oid, 'USAGE') OR NOT has_column_privilege(c.oid, a.attnum, 'SELECT')
      THEN 'no permission to read it'
    WHEN row_security_active(c.oid) THEN 'row-level security hides rows'
  END
FROM pg_attribute a
JOIN pg_class c ON c.oid = a.attrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_type e ON t.typcategory = 'A' AND e.oid = t.typelem
WHERE c.relkind IN ('r', 'm', 'f') AND c.relispopulated AND a.attnum > 0 AND NOT a.attisdropped
  AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND c.relname !~ '^_dlt'
ORDER BY 1, 2, a.attnum
"""
ENUMS = """
SELECT quote_ident(n.nspname) || '.' || quote_ident(t.typname), array_agg(e.enumlabel::text ORDER BY e.enumsortorder)
FROM pg_enum e JOIN pg_type t ON t.oid = e.enumtypid JOIN pg_namespace n ON n.oid = t.typnamespace
WHERE n.nspname !~ '^pg_' GROUP BY 1 ORDER BY 1
"""
TEXTS = """
SELECT schemaname, viewname, 'definition of the view', definition FROM pg_views
WHERE schemaname NOT IN ('pg_catalog', 'information_schema')
UNION ALL SELECT schemaname, matviewname, 'definition of the view', definition FROM pg_matviews
UNION ALL SELECT schemaname, tablename, 'statistics',
  concat_ws(' ', most_common_vals::text, histogram_bounds::text, most_common_elems::text) FROM pg_stats
ORDER BY 1, 2, 3
"""


class PostgresCatalog(Catalog):
    """PostgreSQL: arrays, composite types, bytea, enums, hstore, materialized views, partitions, foreign tables."""

    has_savepoints = True

    def contents(self) -> Contents:
        """Return the tables, columns and texts to search.

        Partitions are tables; their parents have no rows of their own.
        """
        contents = Contents()
        columns: dict[tuple[str, str, TableKind], list[SearchedColumn]] = {}
        for schema, table, relation, column, type_, category, type_name, is_unique, obstacle in self.rows(COLUMNS):
            if category in SKIPPED_CATEGORIES:
                continue
            if obstacle:
                contents.unsearched.append(UnsearchedColumn(f"{schema}.{table}.{column}", type_, obstacle))
                continue
            kind: ColumnKind = "typed"
            if type_name in {"text", "varchar", "bpchar", "json", "jsonb"}:
                kind = "text"
            elif type_name == "bytea":
                kind = "binary"
            found = SearchedColumn(column, type_, kind, is_unique=is_unique)
            columns.setdefault((schema, table, RELATION_KINDS[relation]), []).append(found)
        contents.tables = [
            SearchedTable(schema, table, tuple(found), kind) for (schema, table, kind), found in columns.items()
        ]
        for name, labels in self.rows(ENUMS):
            contents.enums.append(EnumType(name, labels))
        contents.texts = [(f"{schema}.{name}", what, text) for schema, name, what, text in self.rows(TEXTS) if text]
        return contents

    @contextlib.contextmanager
    def execute(self, query: str, *params: Any) -> Iterator[Any]:
        """Run a query and yield its cursor. dlt's own method would roll the transaction back after an error."""
        import psycopg2

        with self.sql.native_connection.cursor() as cursor:
            try:
                cursor.execute(query, params or None)
            except psycopg2.Error as error:
                raise DatabaseTerminalException(error) from error
            yield cursor

    @contextlib.contextmanager
    def savepoint(self) -> Iterator[None]:
        """Undo a failed block without undoing the transaction."""
        self.run("SAVEPOINT propel_erasure")
        try:
            yield
        except DatabaseException:
            self.run("ROLLBACK TO SAVEPOINT propel_erasure")
            raise
        finally:
            self.run("RELEASE SAVEPOINT propel_erasure")

    def text(self, column: SearchedColumn | str) -> str:
        """Return the SQL expression of a column as text."""
        if isinstance(column, SearchedColumn) and column.kind == "binary":
            return f"encode({self.quote(column.name)}, 'escape')"
        # The collation of a column can be one without LIKE, or with another lower case of ASCII letters (Turkish).
        return f'{super().text(column)} COLLATE "C"'

    def accepts(self, column: SearchedColumn, value: str) -> bool:
        """Return whether ``value`` can be stored in a column of this type."""
        if column.kind != "typed":
            return column.kind == "text"
        try:
            with self.savepoint():
                self.rows(f"SELECT CAST(%s AS {column.type})", value)
        except DatabaseException:
            return False
        return True

    def update_statistics(self, table: SearchedTable) -> None:
        """Update the statistics of a table and of those that it is a partition of: they contain values of its rows."""
        self.run(f"ANALYZE {self.name(table)}")
        for (parent,) in self.rows("SELECT relid::regclass::text FROM pg_partition_ancestors(%s)", self.name(table)):
            self.run(f"ANALYZE {parent}")

    def rename_labels(self, enum: EnumType, labels: dict[str, str]) -> None:
        """Rename labels, in all columns of the type at once."""
        for old, new in labels.items():
            self.run(f"ALTER TYPE {enum.name} RENAME VALUE {sql_literal(old)} TO {sql_literal(new)}")
        self.run("ANALYZE pg_catalog.pg_enum")  # its statistics contain labels; skipped without permission
