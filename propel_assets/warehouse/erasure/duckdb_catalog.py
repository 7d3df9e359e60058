"""What is searched in a DuckDB database."""

import re

import duckdb

from propel_assets.warehouse.destinations.duckdb_file import sql_literal
from propel_assets.warehouse.erasure.database_catalog import (
    NO_TEXT,
    Catalog,
    ColumnKind,
    Contents,
    EnumType,
    SearchedColumn,
    SearchedTable,
)
from propel_assets.warehouse.erasure.receipt import UnsearchedColumn

TEXT_INSIDE = re.compile(r"VARCHAR|JSON|BLOB|UUID|ENUM|VARIANT|UNION|ANY")


class DuckDbCatalog(Catalog):
    """DuckDB: lists, structs, maps, unions, blobs, enums."""

    def contents(self) -> Contents:
        """Return the tables, columns and texts to search."""
        contents = Contents()
        columns: dict[tuple[str, str], list[SearchedColumn]] = {}
        enums: list[tuple[str, str, str, str]] = []
        unique = {
            (schema, table, column)
            for schema, table, names in self.rows(
                "SELECT schema_name, table_name, constraint_column_names FROM duckdb_constraints() "
                "WHERE constraint_type IN ('UNIQUE', 'PRIMARY KEY') AND database_name = current_database()"
            )
            for column in names
        }
        for schema, table, column, type_ in self.rows(
            "SELECT c.schema_name, c.table_name, c.column_name, c.data_type FROM duckdb_columns() c "
            "JOIN duckdb_tables() t USING (database_oid, schema_oid, table_oid) "
            "WHERE c.database_name = current_database() AND NOT t.temporary ORDER BY 1, 2, c.column_index"
        ):
            if table.startswith("_dlt"):
                continue
            if type_.startswith("ENUM("):
                enums.append((schema, table, column, type_))
            elif kind := column_kind(type_):
                is_unique = (schema, table, column) in unique
                found = SearchedColumn(column, type_, kind, is_unique=is_unique)
                columns.setdefault((schema, table), []).append(found)
        contents.tables = [SearchedTable(*name, tuple(found)) for name, found in columns.items()]
        for schema, table, column, type_ in enums:
            [(labels,)] = self.rows(f"SELECT enum_range(CAST(NULL AS {type_}))")
            name = f"{schema}.{table}.{column}"
            contents.enums.append(EnumType(name, labels, (SearchedTable(schema, table), column)))
        for schema, name, labels in self.rows(
            "SELECT schema_name, type_name, labels FROM duckdb_types() WHERE logical_type = 'ENUM' AND NOT internal "
            "AND database_name = current_database()"
        ):
            contents.enums.append(EnumType(f"{self.quote(schema)}.{self.quote(name)}", labels))
        contents.texts = [
            (f"{schema}.{name}", "definition of the view", sql)
            for schema, name, sql in self.rows(
                "SELECT schema_name, view_name, sql FROM duckdb_views() WHERE NOT internal "
                "AND database_name = current_database()"
            )
        ]
        contents.unsearched = [
            UnsearchedColumn(f"database {name}", "database", "only the database that is loaded into is searched")
            for (name,) in self.rows(
                "SELECT database_name FROM duckdb_databases() WHERE NOT internal "
                "AND database_name <> current_database() ORDER BY 1"
            )
        ]
        return contents

    def accepts(self, column: SearchedColumn, value: str) -> bool:
        """Return whether ``value`` can be stored. A second connection tries it: an error would end the transaction."""
        if column.kind != "typed":
            return column.kind == "text"
        try:
            with self.sql.native_connection.cursor() as cursor:
                cursor.execute(f"SELECT CAST(? AS {column.type})", [value]).fetchall()
        except duckdb.Error:
            return False
        return True

    def rename_labels(self, enum: EnumType, labels: dict[str, str]) -> None:
        """Rename labels. DuckDB has no statement for it: a column gets a new type, a named type is created again."""
        new_type = f"ENUM ({', '.join(map(sql_literal, (labels.get(label, label) for label in enum.labels)))})"
        if enum.used_by:
            table, column = enum.used_by
            text = self.text(column)
            cases = " ".join(f"WHEN {sql_literal(old)} THEN {sql_literal(new)}" for old, new in labels.items())
            self.run(
                f"ALTER TABLE {self.name(table)} ALTER {self.quote(column)} TYPE {new_type} "
                f"USING CASE {text} {cases} ELSE {text} END"
            )
        else:
            self.run(f"DROP TYPE {enum.name}")
            self.run(f"CREATE TYPE {enum.name} AS {new_type}")


def column_kind(type_: str) -> ColumnKind | None:
    """Return how a column of this type is searched; None: it cannot contain text."""
    if type_ in {"VARCHAR", "JSON"}:
        return "text"
    if type_ == "BLOB":
        return "binary"
    if NO_TEXT.fullmatch(type_) or (type_.startswith(("STRUCT", "MAP")) and not TEXT_INSIDE.search(type_)):
        return None
    return "typed"
