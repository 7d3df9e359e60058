"""Digests of rows, to compare tables without keeping their rows: a DuckDB file in a working folder."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import date
from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, Context, Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Literal, NamedTuple

import duckdb
import pyarrow as pa

from propel_assets.source.values import JSON_TOKEN
from propel_assets.warehouse.audit import as_utc

Side = Literal["stored", "current"]
Kind = Literal["missing", "extra", "different"]
Key = tuple[str, ...]
"""The canonical values of the columns of a primary key."""
MEMORY_LIMIT = "256MB"
EXACT = Context(prec=MAX_PREC, Emax=MAX_EMAX, Emin=MIN_EMIN)  # no number in JSON is rounded


class KeyDifference(NamedTuple):
    """A key whose rows differ. ``columns``: those that differ. ``ids``: values of its identifiers.

    ``is_changed``: PropelAuth's row shows that it changed since the load. ``is_new``: the row, or where PropelAuth has
    none the stored one, is newer than the load.
    """

    key: Key
    kind: Kind
    columns: tuple[str, ...]
    ids: tuple[str, ...]
    is_changed: bool
    is_new: bool


class RowDigests:
    """The rows of one table on two sides: ids, and one 64-bit digest per column."""

    def __init__(
        self, folder: str, table: str, key: Sequence[str], kinds: Mapping[str, str], identifiers: Collection[str] = ()
    ) -> None:
        """Create an empty file in ``folder``.

        ``kinds``: the compared columns with dlt's names of their types. ``identifiers``: those that hold ids.
        """
        self._key, self._kinds = key, dict(kinds)
        self._identifiers = [number for number, name in enumerate(kinds) if name in identifiers]
        self._db = duckdb.connect(str(Path(folder) / f"{table}.digests"), config={"memory_limit": MEMORY_LIMIT})
        columns = "key VARCHAR, digests UBIGINT[], ids VARCHAR[], is_changed BOOLEAN, is_new BOOLEAN"
        for side in ("stored", "current"):
            self._db.execute(f"CREATE TABLE {side} ({columns})")

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def add(
        self,
        side: Side,
        columns: Mapping[str, Sequence[Any]],
        is_changed: Sequence[bool],
        is_new: Sequence[bool],
        only: Collection[Key] | None = None,
    ) -> None:
        """Add rows, given by column; those with the keys ``only``, if given. An absent column is null in each row."""
        number = len(is_changed)
        texts = {
            name: [canonical(value, kind) for value in columns[name]] if name in columns else [None] * number
            for name, kind in self._kinds.items()
        }
        keys = list(zip(*(texts[name] for name in self._key), strict=True))
        names = [f"c{position}" for position in range(len(texts))]
        arrays = [pa.array(values, pa.string()) for values in ([json.dumps(key) for key in keys], *texts.values())]
        flags = [pa.array(is_changed, pa.bool_()), pa.array(is_new, pa.bool_())]
        batch = pa.table([*arrays, *flags], ["key", *names, "is_changed", "is_new"])
        if only is not None:
            batch = batch.filter(pa.array([key in only for key in keys], pa.bool_()))
        hashes = ", ".join(f"hash({name})" for name in names)
        ids = ", ".join(names[number] for number in self._identifiers)
        self._db.register("batch", batch)
        self._db.execute(
            f"INSERT INTO {side} SELECT key, [{hashes}], [{ids}], is_changed, is_new FROM batch"  # noqa: S608 - our names
        )
        self._db.unregister("batch")

    def remove(self, side: Side, keys: Collection[Key]) -> None:
        """Remove the rows with these keys, so that they can be added again."""
        self._db.register("gone", pa.table({"key": pa.array([json.dumps(key) for key in keys], pa.string())}))
        self._db.execute(f"DELETE FROM {side} WHERE key IN (SELECT key FROM gone)")  # noqa: S608 - our names
        self._db.unregister("gone")

    def count(self, side: Side) -> int:
        """Return the number of rows."""
        [(number,)] = self._db.execute(f"SELECT count(*) FROM {side}").fetchall()  # noqa: S608 - our names
        return number

    def differences(self) -> Iterator[KeyDifference]:
        """Yield the keys whose rows differ, in the order of their keys. A key of two rows differs in its number."""
        flags = "bool_or(is_changed) AS is_changed, bool_or(is_new) AS is_new"
        columns = f"first(digests) AS digests, first(ids) AS ids, {flags}, count(*) AS n"
        by_key = f"(SELECT key, {columns} FROM {{}} GROUP BY key)"  # noqa: S608 - our names
        found = self._db.execute(
            "SELECT key, s.digests, c.digests, s.ids, c.ids, c.is_changed, "  # noqa: S608 - our names
            "CASE WHEN c.key IS NULL THEN s.is_new ELSE c.is_new END "
            f"FROM {by_key.format('stored')} AS s FULL JOIN {by_key.format('current')} AS c USING (key) "
            "WHERE s.digests IS DISTINCT FROM c.digests OR s.n <> c.n ORDER BY key"
        )
        names = list(self._kinds)
        while rows := found.fetchmany(1_000):
            for key, stored, current, *ids, is_changed, is_new in rows:
                kind: Kind = "missing" if stored is None else "extra" if current is None else "different"
                pairs = zip(names, stored or (), current or (), strict=False)
                columns = tuple(name for name, one, other in pairs if one != other)
                yield KeyDifference(
                    key=tuple(json.loads(key)),
                    kind=kind,
                    columns=columns if columns or kind != "different" else ("number of rows with this key",),
                    ids=tuple(id_ for found_ids in ids for id_ in found_ids or () if id_),
                    is_changed=bool(is_changed) or (kind == "missing" and bool(is_new)),
                    is_new=bool(is_new),
                )


def canonical(value: Any, kind: str) -> str | None:
    """Return a value as one text, whatever form the destination's driver returns it in. ``kind``: dlt's type."""
    if value is None:
        return None
    match kind:
        case "json":
            parsed = _parse(value) if isinstance(value, str | bytes) else value
            return None if parsed is None else _canonical_json(parsed)
        case "timestamp":
            return as_utc(value).isoformat(timespec="microseconds")
        case "date":
            return value.isoformat()[:10] if isinstance(value, date) else str(value)[:10]
        case "bool":
            return str(bool(value))
        case "double":
            return repr(float(value))
        case "bigint":
            return str(int(value))
    return str(value)


class _Token(str):
    """A part of the canonical text of a JSON value."""

    __slots__ = ()


def _canonical_json(value: Any) -> str:
    """Return a parsed JSON value as a text that is equal for equal values only.

    Names of objects are sorted, and a number is written by its value: 1.0, 1 and 1e0 are equal. Not recursive, because
    Python limits the depth of calls.
    """
    parts: list[str] = []
    waiting: list[Any] = [value]
    while waiting:
        match waiting.pop():
            case _Token() as token:
                parts.append(token)
            case dict() as found:
                parts.append("{")
                waiting.append(_Token("}"))
                for name in sorted(found, reverse=True):
                    waiting += [found[name], _Token(json.dumps(name))]
            case list() as found:
                parts.append("[")
                waiting += [_Token("]"), *reversed(found)]
            case bool() | str() | None as found:
                parts.append(json.dumps(found))
            case number:
                exact = EXACT.normalize(Decimal(repr(number) if isinstance(number, float) else number))
                parts.append(str(exact or 0))
    return " ".join(parts)


def _parse(source: str | bytes) -> Any:
    """Return what a JSON source text stands for, with exact numbers."""
    try:
        return json.loads(source, parse_float=_number, parse_int=_number)
    except RecursionError:
        return _parse_deep(source if isinstance(source, str) else source.decode())


def _parse_deep(source: str) -> Any:
    """Return what `_parse` returns, at any depth."""
    levels: list[list[Any]] = [[]]
    for part in JSON_TOKEN.findall(source):
        if part in {"[", "{"}:
            levels.append([])
        elif part in {"]", "}"}:
            inner = levels.pop()
            levels[-1].append(inner if part == "]" else dict(zip(inner[::2], inner[1::2], strict=True)))
        else:
            levels[-1].append(_parse(part))
    [[value]] = levels
    return value


def _number(text: str) -> Decimal | _Token:
    """Return a number of a JSON source text; its text, if its exponent is too large for any number."""
    try:
        return Decimal(text)
    except InvalidOperation:
        return _Token(text)
