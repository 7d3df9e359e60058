"""Values and names that are hard to store: kept as sent on each kind of destination, and the rest is loaded."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from propel_assets.catalog import BY_NAME
from propel_assets.privacy.policy_file import load_policy
from propel_assets.warehouse.checks import CheckResult, examine
from propel_assets.warehouse.load import load_scan
from propel_assets.warehouse.query import open_warehouse

TEXTS = [
    "\0",
    "a\0b",
    "\ud83e",
    "\udd86\ud83e",
    "\ufffe\uffff",
    r"\u0000",
    "'\"\\;\t\r\n",
    "",
    "null",
    "\u2028 ヤマダ 🦆",
]
NUMBERS = [0, -1, 1.5, 2**53 + 1, 2**63 - 1, 2**63, 2**70, 10**400, 1e300, 5e-324, True, False, None]
NESTED: list[Any] = [{"\0": ["\ud83e"]}, {"n": 2**70}, {"n": [10**400, -0.5]}, {"\0": 0.1}, [], {}, [None], "text"]
NAMES = ["userId", "Email", "fooBar", "foo_bar", "", "_dlt_id", "x" * 300, "a b", "email__v_text", "select"]
VALUES = [*NUMBERS, *TEXTS, *NESTED]
LOCAL = pytest.mark.parametrize("destination", ["duckdb", "postgres", "files", "plain_files"], indirect=True)
Read = Callable[[], tuple[list[dict[str, Any]], list[CheckResult]]]


@pytest.fixture
def stored(settings, destination) -> Read:
    """Return all columns of all users at the destination, as they were sent, and what the checks find."""

    def read() -> tuple[list[dict[str, Any]], list[CheckResult]]:
        with open_warehouse(settings.target, load_policy(settings.privacy_settings)) as warehouse:
            findings = examine(warehouse, BY_NAME["user_query"])
            columns = warehouse.columns_of("user_query")
            listed = ", ".join(map(warehouse.column, columns))
            rows = warehouse.rows(f"SELECT {listed} FROM {warehouse.table('user_query')}")
        json_columns = {"properties", *(name for name, kind in columns.items() if kind == "json")}
        if destination == "postgres":  # psycopg2 decodes JSON
            json_columns = set()
        return [restored(dict(zip(columns, row, strict=True)), json_columns) for row in rows], findings

    return read


def restored(row: dict[str, Any], json_columns: set[str]) -> dict[str, Any]:
    """Return a row with each value as it was sent, from its column or its variant."""
    found = {}
    for name, value in row.items():
        variant = row.get(f"{name}__v_text")
        if variant is not None:
            assert value is None
            assert variant.isascii()
            value = json.loads(variant)
        elif name in json_columns and value is not None:
            value = json.loads(value)
        found[name] = value
    return found


def set_values(sandbox, values: list[Any]) -> dict[str, dict[str, Any]]:
    """Give each user other values, and return what PropelAuth sends of them."""
    store = sandbox.store
    for place, user in enumerate(sorted(store.users)):
        text, nested = TEXTS[place % len(TEXTS)], NESTED[place % len(NESTED)]
        value = values[place % len(values)]
        store.update_user(user, first_name=text, properties=nested, mixed=value, nested=nested, words=text)
    return {user.user_id: user.wire for user in store.users.values()}


@LOCAL
def test_values_that_are_hard_to_store_are_kept_as_sent(settings, sandbox, destination, stored) -> None:
    for values in (VALUES, VALUES[::-1], [*TEXTS, *VALUES]):
        sent = set_values(sandbox, values)
        load_scan("users", settings)
        rows, findings = stored()
        assert len(rows) == len(sent)
        for row in rows:
            for name in ("email", "first_name", "properties", "mixed", "words"):
                assert row.get(name) == sent[row["user_id"]].get(name), (name, row["user_id"])
            nested, expected = row["nested"], sent[row["user_id"]]["nested"]
            in_text = destination in {"files", "plain_files"}  # the type of their JSON columns
            assert nested == expected or (in_text and json.loads(nested) == expected)
        failed = {finding.check: finding for finding in findings if not finding.passed}
        assert [finding.severity for finding in failed.values()] == ["WARN"]
        schema = failed["schema"]
        reason = "NUL character" if destination == "postgres" else "lone surrogate"
        assert "`first_name` in `first_name__v_text`" in schema.summary
        assert reason in schema.summary
        assert {*schema.evidence["variants"]["first_name"]} <= {f"user_id={user_id}" for user_id in sent}
        assert not any(text in schema.summary for text in TEXTS if text.strip() and len(text) > 3)


@LOCAL
def test_fields_whose_names_meet_are_kept_apart(settings, sandbox, stored) -> None:
    columns = []
    for names in (NAMES, NAMES[::-1], NAMES[3:]):
        user = min(sandbox.store.users)
        for name in NAMES:
            sandbox.store.users[user].wire.pop(name, None)
        sandbox.store.update_user(user, **{name: f"value of {name}" for name in names})
        load_scan("users", settings)
        rows, findings = stored()
        [row] = [row for row in rows if row["user_id"] == user]
        found = {value: name for name, value in row.items() if str(value).startswith("value of ")}
        assert set(found) == {f"value of {name}" for name in names}
        assert {row["user_id"]: row["email"] for row in rows} == {
            user.user_id: user.wire["email"] for user in sandbox.store.users.values()
        }
        columns.append(found)
        assert [finding.severity for finding in findings if not finding.passed] == ["WARN"]
    assert columns[0] == columns[1]
    assert columns[2].items() <= columns[0].items()
