"""The API fields that each column comes from: PropelAuth's API -> raw tables -> histories -> marts.

The first step is in the catalog. The others are in the SQL of the dbt project. Reading that takes seconds, so the
result is in `lineage.json`, which `python -m propel_assets_tests.derived` writes.
"""

import difflib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from propel_assets.catalog import AUDIT_TABLES, TABLES, Webhooks
from propel_assets.errors import SettingsError

LAYERS = ("PropelAuth's API", "raw tables", "histories", "marts")
API = ("GET ", "webhook ")
PAGE = Path(__file__).with_suffix(".html")
MODELS_FILE = Path(__file__).with_suffix(".json")


@dataclass(frozen=True)
class Lineage:
    """The lineage of every column.

    Attributes:
        sources: for each `table.column` the columns it is computed from; an API field is named `GET path field`,
            and a field of an event `webhook field`. Empty
            for constants, counts of rows, and columns that a load writes.
        layers: the layer of each table.
    """

    sources: Mapping[str, frozenset[str]]
    layers: Mapping[str, str]

    def layer(self, name: str) -> str:
        """Return the layer of a column or an API field."""
        return LAYERS[0] if name.startswith(API) else self.layers[name.split(".")[0]]

    def used_in(self) -> Mapping[str, set[str]]:
        """Return the inverse of ``sources``: the columns that each column is used in."""
        found: dict[str, set[str]] = defaultdict(set)
        for name, sources in self.sources.items():
            for source in sources:
                found[source].add(name)
        return found

    def api_fields(self, name: str) -> frozenset[str]:
        """Return the API fields that a column comes from, directly or through other columns."""
        if name.startswith(API):
            return frozenset({name})
        return frozenset(field for source in self.sources[name] if source != name for field in self.api_fields(source))

    def find(self, wanted: str) -> list[str]:
        """Return the columns with this name: `column`, `table` or `table.column`.

        Raises:
            SettingsError: there is no such column.
        """
        found = [name for name in self.sources if wanted in {name, *name.split(".")}]
        if not found:
            words = {word for name in self.sources for word in (name, *name.split("."))}
            near = difflib.get_close_matches(wanted, words, 3)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            raise SettingsError(f"There is no table or column {wanted}.{hint}")
        return found

    def lines(self, name: str) -> Iterator[str]:
        """Yield the sources of ``name`` and the columns that use it, one line each, indented by distance."""
        yield name
        if not self.sources[name]:
            yield "   no source: a count, a constant, or a column that a load writes"
        yield from self._tree(name, self.sources, "<-", 1)
        yield from self._tree(name, self.used_in(), "->", 1)

    def page(self) -> str:
        """Return a self-contained HTML page that draws the lineage."""
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
    """Return the lineage of every column."""
    sources, layers = raw_table_lineage()
    for layer, name, columns in json.loads(MODELS_FILE.read_text(encoding="utf-8")):
        layers[name] = layer
        sources |= {f"{name}.{column}": frozenset(found) for column, found in columns.items()}
    return Lineage(sources, layers)


def raw_table_lineage() -> tuple[dict[str, frozenset[str]], dict[str, str]]:
    """Return the sources of the columns of the raw tables, and the layer of these tables."""
    sources: dict[str, frozenset[str]] = {}
    layers: dict[str, str] = {}
    for table in (*TABLES, *AUDIT_TABLES):
        layers[table.name] = LAYERS[1]
        for c in table.columns:
            field = f"GET {table.source_of(c)}" if table.path else ""
            field = f"webhook {c.source_field}" if isinstance(table.shape, Webhooks) else field
            sources[f"{table.name}.{c.name}"] = frozenset(filter(None, [field]))
    return sources, layers
