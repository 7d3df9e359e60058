"""Which API field each column comes from: PropelAuth's answers -> raw tables -> histories -> marts.

The catalog has the first step, the SQL of the dbt project the others: it is compiled against empty tables
and read by sqlglot. No warehouse is asked.
"""

import difflib
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import duckdb

from propel_assets.catalog import AUDIT_TABLES, TABLES
from propel_assets.errors import SettingsError
from propel_assets.marts import runner as marts
from propel_assets.settings import DATASET

LAYERS = ("PropelAuth's API", "raw tables", "histories", "marts")
DUCKDB_TYPES = {"text": "VARCHAR", "timestamp": "TIMESTAMPTZ", "bool": "BOOLEAN"}
PAGE = Path(__file__).with_suffix(".html")


@dataclass(frozen=True)
class Lineage:
    """``sources`` holds, for each `table.column`, what it is made from; an API field is named `GET path field`.

    ``layers`` holds the layer of each table. What has no sources is made here: constants, counts, dbt's own.
    """

    sources: Mapping[str, frozenset[str]]
    layers: Mapping[str, str]

    def layer(self, name: str) -> str:
        """Return the layer of a column or an API field."""
        return LAYERS[0] if name.startswith("GET ") else self.layers[name.split(".")[0]]

    def users(self) -> Mapping[str, set[str]]:
        """Return the opposite of ``sources``: what each column goes into."""
        found: dict[str, set[str]] = defaultdict(set)
        for name, sources in self.sources.items():
            for source in sources:
                found[source].add(name)
        return found

    def api_fields(self, name: str) -> frozenset[str]:
        """Return the API fields that a column comes from, directly or by way of others."""
        if name.startswith("GET "):
            return frozenset({name})
        return frozenset(field for source in self.sources[name] if source != name for field in self.api_fields(source))

    def find(self, wanted: str) -> list[str]:
        """Return the columns of this name: `column`, `table` or `table.column`.

        Raises:
            SettingsError: there is none.
        """
        found = [name for name in self.sources if wanted in {name, *name.split(".")}]
        if not found:
            words = {word for name in self.sources for word in (name, *name.split("."))}
            near = difflib.get_close_matches(wanted, words, 3)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            raise SettingsError(f"There is no table or column {wanted}.{hint}")
        return found

    def lines(self, name: str) -> Iterator[str]:
        """Yield what ``name`` comes from and what it goes into, one line each, indented by distance."""
        yield name
        if not self.sources[name]:
            yield "   made here: a count, a constant, or a note of dbt or of a load"
        yield from self._tree(name, self.sources, "<-", 1)
        yield from self._tree(name, self.users(), "->", 1)

    def page(self) -> str:
        """Return a page of HTML that needs nothing else and draws all this."""
        fields = {field for name in self.sources for field in self.api_fields(name)}
        names = sorted((*fields, *self.sources), key=lambda name: (-LAYERS.index(self.layer(name)), name))
        columns = {n: [LAYERS.index(self.layer(n)), sorted(self.sources.get(n, ()))] for n in names}
        data = json.dumps({"layers": LAYERS, "columns": columns}).replace("<", "\\u003c")
        return PAGE.read_text(encoding="utf-8").replace("DATA", data, 1)

    def _tree(self, name: str, steps: Mapping[str, Any], arrow: str, depth: int) -> Iterator[str]:
        for step in sorted(steps.get(name, ())):
            if step != name:
                yield f"{'   ' * depth}{arrow} {step}"
                yield from self._tree(step, steps, arrow, depth + 1)


@cache
def lineage() -> Lineage:
    """Return the lineage of every column; of the raw tables alone without the extra `marts`."""
    sources: dict[str, frozenset[str]] = {}
    layers: dict[str, str] = {}
    for table in (*TABLES, *AUDIT_TABLES):
        layers[table.name] = LAYERS[1]
        for c in table.columns:
            field = f"GET {table.path} {table.items or 'answer'}.{c.source_field}"
            sources[f"{table.name}.{c.name}"] = frozenset({field} if table.path else ())
    if marts.installed():
        for node in _compiled():
            layers[node["name"]] = LAYERS[2] if node["resource_type"] == "snapshot" else LAYERS[3]
            sources |= _columns(node, sources)
    return Lineage(sources, layers)


def _compiled() -> list[dict[str, Any]]:
    """Return the models and histories with their SQL, each after those it reads."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        database = folder / "empty.duckdb"
        with duckdb.connect(str(database)) as connection:
            connection.execute(f"CREATE SCHEMA {DATASET}")
            for table in (*TABLES, *AUDIT_TABLES):
                columns = ", ".join(f'"{c.name}" {DUCKDB_TYPES.get(c.type, c.type)}' for c in table.columns)
                connection.execute(f'CREATE TABLE {DATASET}."{table.name}" ({columns})')
        with marts.dbt_on(database, folder) as dbt:
            dbt.run("compile")
        nodes = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["nodes"]
    made = {key: node for key, node in nodes.items() if node["resource_type"] in {"model", "snapshot"}}
    ordered: list[dict[str, Any]] = []
    while rest := [node for node in made.values() if node not in ordered]:
        names = {node["unique_id"] for node in rest}
        ordered += [node for node in rest if not names & set(node["depends_on"]["nodes"])]
    return ordered


def _columns(node: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    """Return what each column of a model is made from."""
    import sqlglot
    from sqlglot import exp
    from sqlglot.lineage import lineage as trace
    from sqlglot.optimizer.qualify import qualify
    from sqlglot.optimizer.scope import build_scope

    schema: dict[str, Any] = defaultdict(dict)
    for name in known:
        table, column = name.split(".")
        schema[table][column] = "unknown"
    tree: Any = sqlglot.parse_one(node["compiled_code"], dialect="duckdb")
    for table in tree.find_all(exp.Table):
        table.set("db", None)
        table.set("catalog", None)
    tree = qualify(tree, schema=schema, dialect="duckdb", identify=False)
    scope = build_scope(tree)
    found = {}
    for column in tree.named_selects:
        leaves = [
            step
            for step in trace(column, tree, schema=schema, dialect="duckdb", scope=scope).walk()
            if not step.downstream
        ]
        tables = [
            (leaf.source.name, leaf.name.split(".")[-1].strip('"'))
            for leaf in leaves
            if isinstance(leaf.source, exp.Table)
        ]
        found[f"{node['name']}.{column}"] = frozenset(f"{t}.{c}" for t, c in tables if f"{t}.{c}" in known)
    if node["resource_type"] == "snapshot":
        for column in ("dbt_scd_id", "dbt_updated_at", "dbt_valid_from", "dbt_valid_to"):
            found[f"{node['name']}.{column}"] = frozenset()
    return found
