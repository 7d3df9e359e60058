"""Values that change their type, names that meet, values that are hard to store: through the real command."""

import json
from typing import Any

import pytest

BIG = 2**53 + 1
ONE_AFTER_THE_OTHER = {
    "number": [1, 1.5],
    "big_after_float": [0.5, BIG],
    "flag": [True, "text"],
    "count": [7, "text"],
    "words": ["text", {"a": 1}],
    "free": [{"a": 1}, "text"],
    "huge": [1, 2**70],
}


@pytest.fixture
def load(loaded, run_cli):
    """Run `propel-assets load user_query` in small pages and expect success; return what it printed."""

    def run(*options: str) -> str:
        ran = run_cli("load", "user_query", *options, PROPELAUTH_PAGE_SIZE="20")
        assert ran.returncode == 0, ran.stderr
        return ran.stdout + ran.stderr

    return run


@pytest.fixture
def stored(query):
    """Return the values of a column by user, as sent: those in its variant column too."""

    def read(column: str, table: str = "user_query") -> dict[str, Any]:
        columns = {name: kind for name, kind, *_ in query(f"DESCRIBE {table}")}
        variant = f'"{column}__v_text"' if f"{column}__v_text" in columns else "NULL"
        value = f'"{column}"' if column in columns else "NULL"
        rows = query(f"SELECT user_id, {value}, {variant} FROM {table}")
        return {user: restored(value, text, columns.get(column)) for user, value, text in rows}

    return read


def restored(value: Any, variant: str | None, kind: str | None) -> Any:
    """Return what was sent, from a column and its variant."""
    if variant is not None:
        assert value is None
        return json.loads(variant)
    return json.loads(value) if kind == "JSON" and value is not None else value


def sent(sandbox, field: str) -> dict[str, Any]:
    return {user.user_id: user.wire.get(field) for user in sandbox.store.users.values()}


# Points 2 and 3: types


@pytest.mark.slow
def test_a_field_that_changes_its_type_between_loads_keeps_every_value(loaded, load, stored, query) -> None:
    store, users = loaded.store, sorted(loaded.store.users)
    for place in range(2):
        store.update_user(users[place], **{name: values[place] for name, values in ONE_AFTER_THE_OTHER.items()})
        printed = load()
        assert "WARN user_query: schema: " in printed
        for name in ONE_AFTER_THE_OTHER:
            assert stored(name) == sent(loaded, name), name
    [(variants,)] = query(
        "SELECT variants FROM propel_scans WHERE table_name = 'user_query' ORDER BY load_id DESC LIMIT 1"
    )
    assert {row["column"]: row["values"] for row in json.loads(variants)} == {
        "number": 1,
        "big_after_float": 1,
        "flag": 1,
        "count": 1,
        "words": 1,
        "huge": 1,
    }
    assert "text" not in variants.replace("type", "")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["full", "recent"])
def test_a_field_with_many_types_in_one_load_keeps_every_value(mode, loaded, load, stored) -> None:
    store, users = loaded.store, sorted(loaded.store.users)
    values = [1, 1.5, True, "text", BIG, 2**64, 10**400, None, [1, "a"], {"a": None}, "", "null", 0, False, -1e-7]
    for user, value in zip(users, values * 4, strict=True):
        store.update_user(user, mixed=value)
        store.touch_user(user)
    load(*(["--recent"] if mode == "recent" else []))
    assert stored("mixed") == sent(loaded, "mixed")
    for user, value in zip(users, reversed(values * 4), strict=True):
        store.update_user(user, mixed=value)
        store.touch_user(user)
    load(*(["--recent"] if mode == "recent" else []))
    assert stored("mixed") == sent(loaded, "mixed")


def test_a_declared_column_of_another_type_at_the_destination_keeps_every_value(
    loaded, stored, run_cli, run_sql
) -> None:
    run_sql("ALTER TABLE propel_auth_data.user_query ALTER first_name TYPE BIGINT USING NULL")
    ran = run_cli("load", "user_query")
    assert ran.returncode == 3, ran.stderr
    assert "first_name" in ran.stderr
    assert stored("first_name") == sent(loaded, "first_name")


# Point 4: names


MEETING = ["userId", "Email", "createdAt", "fooBar", "foo_bar", "FooBar", "", "_dlt_id", "_dlt_load_id", "x" * 300]
MEETING += ["email__v_text", "a b", "a-b", "User_Id", 'a"b', "a\\b", "a\tb"]


def test_fields_whose_names_meet_get_columns_of_their_own(loaded, load, query) -> None:
    store, users = loaded.store, sorted(loaded.store.users)
    emails = sent(loaded, "email")
    store.update_user(users[0], **{name: f"value of {name}" for name in MEETING})
    printed = load()
    columns = columns_of(query, users[0])
    assert columns == {f"value of {name}": columns[f"value of {name}"] for name in MEETING}
    assert len(set(columns.values())) == len(MEETING)
    assert dict(query("SELECT user_id, email FROM user_query")) == emails
    [warning] = [line for line in printed.splitlines() if line.startswith("WARN user_query: schema: ")]
    for one, other in [("userId", "user_id"), ("Email", "email"), ("createdAt", "created_at"), ("fooBar", "foo_bar")]:
        assert f"`{one}`" in warning
        assert f"`{other}`" in warning
    # In another order, and without some of the others: the same columns.
    for name in MEETING:
        del store.users[users[0]].wire[name]
    store.update_user(users[1], **{name: f"value of {name}" for name in reversed(MEETING[3:])})
    load()
    assert columns_of(query, users[1]) == {f"value of {name}": columns[f"value of {name}"] for name in MEETING[3:]}


def columns_of(query, user: str) -> dict[str, str]:
    """Return the column of each value that this user's row has only in an unexpected field."""
    names = [name for name, *_ in query("DESCRIBE user_query")]
    [row] = query(f"SELECT * FROM user_query WHERE user_id = '{user}'")
    return {value: name for name, value in zip(names, row, strict=True) if str(value).startswith("value of ")}


# Point 5: values that are hard to store


HARD = ["\0", "a\0b", "\ud83e", "\udd86\ud83e", "\ufffe\uffff", "\\u0000", '"', "\u2028"]


def test_text_that_is_hard_to_store_is_kept_and_the_rest_is_loaded(loaded, load, stored, query) -> None:
    store, users = loaded.store, sorted(loaded.store.users)
    for user, text in zip(users, HARD, strict=False):
        store.update_user(user, first_name=text, properties={"text": [text], text: 1}, unexpected=text)
    printed = load()
    assert stored("first_name") == sent(loaded, "first_name")
    assert stored("properties") == sent(loaded, "properties")
    assert stored("unexpected") == sent(loaded, "unexpected")
    [warning] = [line for line in printed.splitlines() if line.startswith("WARN user_query: schema: ")]
    assert "`first_name`" in warning
    assert "lone surrogate" in warning


# After a load


def test_values_that_are_missing_after_a_load_are_an_error(loaded, run_sql, run_cli) -> None:
    assert run_cli("check", "user_query").returncode == 0
    run_sql(
        "UPDATE propel_auth_data.user_query SET email = NULL WHERE user_id = (SELECT min(user_id) FROM "
        "propel_auth_data.user_query)"
    )
    ran = run_cli("check", "user_query")
    assert ran.returncode == 3, ran.stderr
    assert "Values were lost: `email` has 59 values, expected 60. Load the table again." in ran.stdout


@pytest.mark.slow
def test_values_in_a_variant_count_as_stored(loaded, load, run_sql, run_cli) -> None:
    loaded.store.update_user(min(loaded.store.users), score=1)
    load()
    loaded.store.update_user(max(loaded.store.users), score="text")
    load()
    assert run_cli("check", "user_query").returncode == 0
    run_sql("UPDATE propel_auth_data.user_query SET score__v_text = NULL")
    ran = run_cli("check", "user_query")
    assert ran.returncode == 3
    assert "`score` has 1 values, expected 2" in ran.stdout
