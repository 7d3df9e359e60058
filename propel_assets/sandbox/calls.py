"""Common parts of the endpoints: the request, pages, and the faults of fields."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from propel_assets.sandbox.faults import ActiveFaults
from propel_assets.sandbox.pages import Paging
from propel_assets.sandbox.parameters import Refusal
from propel_assets.sandbox.people import Org
from propel_assets.sandbox.store import Store

NOT_FOUND = 404


@dataclass(frozen=True, slots=True)
class Call:
    """One request."""

    path: Mapping[str, str]
    query: Mapping[str, Any]
    """The query string, and the keys of a JSON body."""
    body: Mapping[str, Any]
    base_url: str
    active: ActiveFaults

    def paging(self) -> Paging:
        """Return the requested page."""
        return Paging.read(self.query, self.active)


def find_org(store: Store, call: Call) -> Org:
    """Return the org of the path.

    Raises:
        Refusal: 404, the org does not exist, or orgs are not enabled.
    """
    org = store.orgs.get(call.path["org_id"])
    if org is None or "orgs_off" in call.active:
        raise Refusal(NOT_FOUND)
    return org


def page(call: Call, name: str, rows: Sequence[dict[str, Any]], *, total_name: str) -> dict[str, Any]:
    """Return the requested page of ``rows`` under ``name``, in its envelope."""
    paging = call.paging()
    shown = [shape(name, dict(row), call.active) for row in paging.cut(rows)]
    return {name: shown, **paging.envelope(total_name, len(rows))}


def shuffle_ties(rng: Random, items: Sequence[Any], order: tuple[Callable[[Any], Any], bool]) -> list[Any]:
    """Return ``items`` in the same order, with items of equal sort keys shuffled."""
    key, descending = order
    return sorted(rng.sample(items, len(items)), key=key, reverse=descending)


def shape(kind: str, row: dict[str, Any], active: ActiveFaults) -> dict[str, Any]:
    """Apply the faults of fields to ``row``, in place."""
    if kind in _names(active.get("unknown_field")):
        row["new_scalar"] = "not seen before"
        row["new_object"] = {"since": 2026, "tags": ["new", None]}
    for name in _names(active.get("missing_field")):
        if name.startswith(f"{kind}."):
            row.pop(name.removeprefix(f"{kind}."), None)
    for name in _names(active.get("retyped_field")):
        field = name.removeprefix(f"{kind}.")
        if name.startswith(f"{kind}.") and field in row:
            row[field] = {"value": row[field]} if isinstance(row[field], str) else str(row[field])
    return row


def _names(value: str | Iterable[str] | None) -> Iterable[str]:
    return [value] if isinstance(value, str) else value or ()
