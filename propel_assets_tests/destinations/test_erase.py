"""A person is erased from every schema, once and for all; everybody else stays as they were."""

from pathlib import Path

import pytest

from propel_assets.warehouse.query import opened

KEY = "a key for these tests only"
LOADED = ["user_query", "org_query", "pending_org_invites", "end_user_api_keys"]
SQL = pytest.mark.parametrize("destination", ["duckdb", "postgres"], indirect=True)


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("PROPELAUTH_PRIVACY_KEY", KEY)


@pytest.fixture
def ask(settings):
    """Run statements in the warehouse; return the rows of the last."""

    def rows(*statements: str):
        with opened(settings) as warehouse:
            *first, last = statements
            for statement in first:
                warehouse._client.sql_client.execute_sql(statement)
            return warehouse.rows(last)

    return rows


@pytest.fixture
def everything(ask):
    """Return every row of every table of every schema, as text."""

    def read() -> list[str]:
        found = ask(
            "SELECT table_schema, table_name FROM information_schema.tables WHERE table_type = 'BASE TABLE' "
            "AND table_schema NOT IN ('pg_catalog', 'information_schema') ORDER BY 1, 2"
        )
        return [
            f"{schema}.{name} {row}"
            for schema, name in found
            if not name.startswith(("_dlt", "propel_"))
            for (row,) in ask(f'SELECT CAST(t AS TEXT) FROM {schema}."{name}" t ORDER BY 1')
        ]

    return read


@pytest.fixture
def person(sandbox):
    """Somebody with orgs, a key and a report, who has invited others and was invited once more."""
    store = sandbox.store
    inviters = [i["inviter_user_id"] for i in store.invites if i.get("inviter_user_id")]
    user_id = next(user for user in inviters if store.of_user.get(user))
    store.invites[-1]["invitee_email"] = store.users[user_id].wire["email"]
    return store.users[user_id].wire


@SQL
def test_nothing_of_a_person_is_left_and_nobody_else_is_touched(
    destination, person, sandbox, run, ask, everything, tmp_path
) -> None:
    user_id, email = person["user_id"], person["email"]
    assert run("load", *LOADED).returncode == 0
    assert run("load", "user_by_email", "--email", email).returncode == 0
    other = next(user for user in sandbox.store.users if user != user_id)
    ask(
        "CREATE SCHEMA propel_auth_history",
        "CREATE TABLE propel_auth_history.users_history (user_id TEXT, email TEXT, version INT)",
        f"INSERT INTO propel_auth_history.users_history VALUES ('{user_id}', '{email}', 1), ('{other}', 'o@x.com', 1)",
        "CREATE TABLE propel_auth_history.notes (author TEXT, note TEXT)",
        f"INSERT INTO propel_auth_history.notes VALUES ('{other}', 'call {email}, not x{email}')",
        "CREATE VIEW propel_auth_history.people AS SELECT user_id FROM propel_auth_history.users_history",
        "SELECT 1",
    )
    before = everything()
    theirs = [row for row in before if user_id in row or email in row]
    assert {row.split(" ")[0].split(".")[1] for row in theirs} >= {
        "user_query",
        "org_membership",
        "pending_org_invites",
        "user_by_email",
        "users_history",
        "notes",
    }

    shown = run("erase", user_id, "--dry-run")
    assert shown.returncode == 0, shown.stderr
    assert everything() == before
    done = run("erase", user_id)
    assert done.returncode == 0, done.stderr
    assert done.stdout == shown.stdout
    assert "propel_auth_history.users_history" in done.stdout
    assert email not in done.stdout + done.stderr
    assert KEY not in done.stdout + done.stderr

    after = everything()
    assert [row for row in after if user_id in row or email in row.replace(f"x{email}", "")] == []
    assert [row for row in before if row not in theirs and row not in after] == []
    assert ask("SELECT note FROM propel_auth_history.notes") == [(f"call erased, not x{email}",)]
    assert ask("SELECT user_id FROM propel_auth_history.people") == [(other,)]
    invited = ask("SELECT count(*) FROM propel_auth_data.pending_org_invites")[0][0]
    assert invited == len([i for i in sandbox.store.invites if i["invitee_email"] != email])

    again = run("erase", user_id)
    assert again.returncode == 0, again.stderr
    assert "Nothing about this person was found." in again.stdout


@SQL
def test_no_load_brings_an_erased_person_back_and_every_check_passes(person, sandbox, run, rows, everything) -> None:
    user_id, email = person["user_id"], person["email"]
    assert run("load", *LOADED).returncode == 0
    erased = run("erase", user_id)
    assert erased.returncode == 0, erased.stderr
    sandbox.store.touch_user(user_id)
    for words in (["--recent"], []):
        loaded = run("load", *LOADED, *words)
        assert loaded.returncode == 0, loaded.stderr
        assert "WARN" not in loaded.stderr
        assert "ERROR" not in loaded.stderr
        assert len(rows("user_query")) == len(sandbox.store.users) - 1
        assert [row for row in everything() if user_id in row or email in row] == []


@pytest.mark.parametrize("destination", ["duckdb"], indirect=True)
def test_the_bytes_are_gone_from_the_duckdb_file(person, run, tmp_path) -> None:
    def bytes_on_disk() -> bytes:
        return b"".join(file.read_bytes() for file in tmp_path.glob("*.duckdb*") if file.is_file())

    assert run("load", "user_query", "pending_org_invites").returncode == 0
    traces = [person["user_id"].encode(), person["email"].encode()]
    assert [trace in bytes_on_disk() for trace in traces] == [True, True]
    done = run("erase", person["user_id"])
    assert done.returncode == 0, done.stderr
    assert [trace in bytes_on_disk() for trace in traces] == [False, False]
    assert {file.name for file in Path(tmp_path).glob("*.duckdb*")} == {
        "propel_auth_pipeline.duckdb",
        "propel_auth_pipeline.duckdb.lock",
    }
    assert run("check").returncode == 0


@pytest.mark.parametrize("destination", ["duckdb"], indirect=True)
def test_a_person_who_is_stored_hashed_is_erased_too(person, sandbox, run, rows, monkeypatch) -> None:
    monkeypatch.setenv("PROPELAUTH_PRIVACY", "strict")
    assert run("load", *LOADED).returncode == 0
    before = len(rows("pending_org_invites"))
    assert run("erase", person["user_id"]).returncode == 0
    assert len(rows("user_query")) == len(sandbox.store.users) - 1
    assert len(rows("pending_org_invites")) == before - 1
    loaded = run("load", *LOADED)
    assert loaded.returncode == 0, loaded.stderr
    assert len(rows("pending_org_invites")) == before - 1


@pytest.mark.parametrize("destination", ["duckdb"], indirect=True)
def test_a_load_with_another_key_would_bring_them_back_and_is_refused(person, sandbox, run, monkeypatch) -> None:
    assert run("load", "user_query").returncode == 0
    assert run("erase", person["user_id"]).returncode == 0
    asked = len(sandbox.requests)
    for key, why in (("", "PROPELAUTH_PRIVACY_KEY is not set"), ("not the key of that time", "is not the key of then")):
        monkeypatch.setenv("PROPELAUTH_PRIVACY_KEY", key)
        refused = run("load", "user_query")
        assert refused.returncode == 1
        assert why in refused.stderr
    assert len(sandbox.requests) == asked


@pytest.mark.parametrize(
    ("destination", "key", "why"),
    [
        ("duckdb", "", "PROPELAUTH_PRIVACY_KEY is not set"),
        ("duckdb", KEY, "There is no "),
        ("files", KEY, "Nothing was erased: the tables of filesystem are files"),
    ],
    indirect=["destination"],
)
def test_what_cannot_be_done_is_said(destination, key, why, run, monkeypatch) -> None:
    if destination == "files":
        assert run("load", "user_query").returncode == 0
    monkeypatch.setenv("PROPELAUTH_PRIVACY_KEY", key)
    refused = run("erase", "3d5c0d5e-0000-4000-8000-000000000000")
    assert refused.returncode == 1
    assert why in refused.stderr
    assert "Traceback" not in refused.stderr
