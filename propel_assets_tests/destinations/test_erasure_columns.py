"""An erasure searches columns of every type, in every schema, and reports what it cannot search or change."""

import os
from typing import Any
from urllib.parse import urlsplit

import duckdb
import pytest
from dlt.destinations.exceptions import DatabaseTerminalException

from propel_assets.privacy.policy_file import load_policy
from propel_assets.warehouse.erasure import ErasureReceipt, erase
from propel_assets.warehouse.erasure.database_catalog import Catalog
from propel_assets.warehouse.erasure.duckdb_catalog import column_kind
from propel_assets.warehouse.load import load_scan
from propel_assets.warehouse.query import open_warehouse

KEY = "a key for these tests only"
BOB = "bob.o'hara@x.test"
QUOTED = BOB.replace("'", "''")
ENCODED = "bob.o%27hara%40x.test"
DUCKDB = f"""
CREATE SCHEMA analysts;
CREATE TYPE analysts.contact AS ENUM ('{QUOTED}', 'erased', 'x@y.test');
CREATE TABLE analysts.t (
  n INTEGER, l TEXT[], ll TEXT[][], s STRUCT(a TEXT, b INTEGER), m MAP(TEXT, INTEGER), u UNION(n INTEGER, t TEXT),
  b BLOB, bb STRUCT(x BLOB)[], e analysts.contact, ee ENUM('a', '{QUOTED}'), i UUID, j JSON, k TEXT, email TEXT,
  numbers INTEGER[]
);
INSERT INTO analysts.t VALUES (
  1, ['a, b', '{QUOTED}'], [['{QUOTED}', 'c']], {{a: 'to {QUOTED}', b: 2}}, MAP {{'{QUOTED}': 1, 'c': 2}}, '{QUOTED}',
  '\\x00{QUOTED}\\xFF'::BLOB, [{{x: '{QUOTED}'::BLOB}}], '{QUOTED}', '{QUOTED}', 'USER_ID', '{{"{QUOTED}": [1.50]}}',
  '{QUOTED}', 'mailto:{ENCODED}', [1]
);
INSERT INTO analysts.t VALUES (
  2, ['a, b'], [['c']], {{a: 'to', b: 2}}, MAP {{'c': 2}}, 3, '\\x00'::BLOB, [{{x: 'x'::BLOB}}], 'x@y.test', 'a', NULL,
  '{{"k": [1.50]}}', 'other', 'other@x.test', [1]
);
CREATE TABLE analysts.keys (k TEXT UNIQUE);
INSERT INTO analysts.keys VALUES ('{QUOTED}'), ('USER_ID');
"""
POSTGRES = f"""
CREATE SCHEMA analysts;
CREATE TYPE analysts.contact AS ENUM ('{QUOTED}', 'erased', 'x@y.test');
CREATE TYPE analysts.pair AS (a TEXT, b INTEGER);
CREATE DOMAIN analysts.address AS TEXT CHECK (VALUE <> '');
CREATE TABLE analysts.t (
  n INTEGER, l TEXT[], ll TEXT[][], s analysts.pair, ss analysts.pair[], b BYTEA, bb BYTEA[], e analysts.contact,
  ee analysts.contact[], i UUID, j JSON, jb JSONB, ts TSVECTOR, d analysts.address, k TEXT, email TEXT,
  numbers INTEGER[]
) PARTITION BY RANGE (n);
CREATE TABLE analysts.t1 PARTITION OF analysts.t FOR VALUES FROM (0) TO (9);
INSERT INTO analysts.t VALUES (
  1, ARRAY['a, b', '{QUOTED}'], ARRAY[ARRAY['{QUOTED}', 'c']], ROW('to {QUOTED}', 2),
  ARRAY[ROW('{QUOTED}', 1)::analysts.pair], '\\000{QUOTED}\\377'::BYTEA, ARRAY['{QUOTED}'::BYTEA], '{QUOTED}',
  ARRAY['{QUOTED}']::analysts.contact[], 'USER_ID', '{{"{QUOTED}": [1.50]}}', '{{"{QUOTED}": [1.50]}}',
  to_tsvector('simple', 'USER_ID b'), '{QUOTED}', '{QUOTED}', 'mailto:{ENCODED}', ARRAY[1]
);
INSERT INTO analysts.t VALUES (
  2, ARRAY['a, b'], ARRAY[ARRAY['c']], ROW('to', 2), NULL, '\\000'::BYTEA, ARRAY['x'::BYTEA], 'x@y.test', NULL, NULL,
  '{{"k": [1.50]}}', '{{"k": [1.50]}}', to_tsvector('simple', 'b'), 'x@y.test', 'other', 'other@x.test', ARRAY[1]
);
CREATE TABLE analysts.keys (k TEXT UNIQUE);
INSERT INTO analysts.keys VALUES ('{QUOTED}'), ('USER_ID');
CREATE MATERIALIZED VIEW analysts.m AS SELECT user_id, email FROM propel_auth_data.user_query;
CREATE MATERIALIZED VIEW analysts.a_view_of_m AS SELECT email FROM analysts.m;
CREATE MATERIALIZED VIEW analysts.empty AS SELECT email FROM analysts.m WITH NO DATA;
ANALYZE;
"""
NO_TEXT = {
    *("BIGINT", "BIT", "BOOLEAN", "DATE", "DECIMAL", "DOUBLE", "FLOAT", "HUGEINT", "INTEGER", "INTERVAL", "SMALLINT"),
    *("TIME", "TIME WITH TIME ZONE", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE", "TIMESTAMP_MS", "TIMESTAMP_NS"),
    *("TIMESTAMP_S", "TIME_NS", "TINYINT", "UBIGINT", "UHUGEINT", "UINTEGER", "USMALLINT", "UTINYINT"),
}
SETUP = {"duckdb": DUCKDB, "postgres": POSTGRES}


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("PROPELAUTH_PRIVACY_KEY", KEY)


@pytest.fixture
def bob(sandbox) -> str:
    """The id of a user with the address `BOB`."""
    user_id = next(iter(sandbox.store.users))
    sandbox.store.update_user(user_id, email=BOB)
    return user_id


@pytest.fixture
def execute(settings):
    """Run statements in the warehouse, and return the rows of the last."""

    def rows(*statements: str) -> list[tuple]:
        with open_warehouse(settings.target, load_policy(settings.privacy_settings)) as warehouse:
            for statement in statements[:-1]:
                warehouse._client.sql_client.execute_sql(statement)
            return [tuple(row) for row in warehouse._client.sql_client.execute_sql(statements[-1]) or []]

    return rows


@pytest.fixture
def erase_bob(settings, bob):
    def run(**options) -> ErasureReceipt:
        return erase(settings.target, settings.privacy_settings, bob, **options)

    return run


@pytest.mark.parametrize("destination", ["duckdb", "postgres"], indirect=True)
def test_columns_of_every_type_are_searched_and_nothing_else_is_changed(
    destination, settings, bob, execute, erase_bob, tmp_path
) -> None:
    load_scan("users", settings)
    execute(*SETUP[destination].replace("USER_ID", bob).split(";\n")[:-1], "SELECT 1")
    others = execute("SELECT CAST(t AS TEXT) FROM analysts.t t WHERE n = 2")
    shown = erase_bob(dry_run=True)
    receipt = erase_bob()
    assert receipt.is_complete, receipt
    assert list(receipt.records) == list(shown.records)
    table = "analysts.t1" if destination == "postgres" else "analysts.t"
    actions = {r.what for r in receipt.records if r.where == table}
    for column in ("l", "ll", "s", "j", "k", "email"):
        assert f"{column}: identifiers replaced" in actions
    for column in ("b", "i"):
        assert f"{column}: set to null" in actions

    if destination == "duckdb":
        dump = (tmp_path / "propel_auth_pipeline.duckdb").read_bytes()
    else:
        relations = execute(
            "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace "
            "WHERE relkind IN ('r', 'm') AND relispopulated AND nspname <> 'information_schema' AND relname !~ '^_dlt'"
        )
        texts = [text for (name,) in relations for (text,) in execute(f"SELECT CAST(t AS TEXT) FROM {name} t")]
        dump = "\n".join(texts).encode()
    traces = [BOB, ENCODED, bob, bob.replace("-", ""), BOB.encode().hex(), "o''hara"]
    assert [trace for trace in traces if trace.encode() in dump] == []
    assert execute("SELECT CAST(t AS TEXT) FROM analysts.t t WHERE n = 2") == others
    assert execute(
        "SELECT l, CAST(s AS TEXT), CAST(j AS TEXT), CAST(e AS TEXT), email FROM analysts.t WHERE n = 1"
    ) == [
        (
            ["a, b", "erased"],
            "{'a': to erased, 'b': 2}" if destination == "duckdb" else '("to erased",2)',
            '{"erased": [1.50]}',
            "erased_2",
            "mailto:erased",
        )
    ]
    keys = execute("SELECT k FROM analysts.keys")
    assert len(set(keys)) == 2
    assert all(key.startswith("erased-") for (key,) in keys)


@pytest.mark.parametrize("destination", ["postgres"], indirect=True)
def test_what_the_connection_may_not_read_or_change_is_reported_with_exit_code_1(
    destination, started, settings, bob, run, monkeypatch
) -> None:
    server = started(destination)
    database = urlsplit(os.environ["DESTINATION__POSTGRES__CREDENTIALS"]).path.removeprefix("/")

    def admin(*statements: str) -> None:
        for statement in statements:
            server.ask(database, statement)

    admin(
        f"CREATE ROLE loader_{database} LOGIN PASSWORD 'x'",
        f"GRANT CREATE ON DATABASE {database} TO loader_{database}",
        "CREATE SCHEMA analysts",
        f"GRANT USAGE ON SCHEMA analysts TO loader_{database}",
        f"CREATE TABLE analysts.hidden AS SELECT '{QUOTED}' AS note",
        f"CREATE TABLE analysts.fixed AS SELECT 'to {QUOTED}' AS note",
        f"CREATE TABLE analysts.rls AS SELECT 'to {QUOTED}' AS note",
        "ALTER TABLE analysts.rls ENABLE ROW LEVEL SECURITY",
        "CREATE MATERIALIZED VIEW analysts.m AS SELECT note FROM analysts.fixed",
        f"CREATE TYPE analysts.contact AS ENUM ('{QUOTED}')",
        f"CREATE VIEW analysts.v AS SELECT 1 AS x WHERE '{QUOTED}' <> ''",
        "CREATE FOREIGN DATA WRAPPER away",
        "CREATE SERVER away FOREIGN DATA WRAPPER away",
        "CREATE FOREIGN TABLE analysts.elsewhere (note TEXT) SERVER away",
        f"GRANT SELECT ON analysts.fixed, analysts.rls, analysts.m, analysts.elsewhere TO loader_{database}",
    )
    monkeypatch.setenv(
        "DESTINATION__POSTGRES__CREDENTIALS",
        os.environ["DESTINATION__POSTGRES__CREDENTIALS"].replace("postgres:x@", f"loader_{database}:x@"),
    )
    loaded = run("load", "user_query")
    assert loaded.returncode == 0, loaded.stderr
    done = run("erase", bob)
    assert done.returncode == 1, done.stderr
    assert "The erasure is not complete" in done.stderr
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    for line in (
        "propel_auth_data.user_query rows deleted 1",
        "analysts.fixed table, not changed: InsufficientPrivilege (SQLSTATE 42501) 1",
        "analysts.m materialized view, not changed: InsufficientPrivilege (SQLSTATE 42501) 1",
        "analysts.contact enum labels, not changed: InsufficientPrivilege (SQLSTATE 42501) 1",
        "analysts.v definition of the view 1",
        "analysts.hidden.note text no permission to read it",
        "analysts.rls.note text row-level security hides rows",
    ):
        assert line in lines, done.stdout
    assert any(line.startswith("analysts.elsewhere foreign table ") for line in lines)
    assert "hara" not in done.stdout + done.stderr


@pytest.mark.parametrize("destination", ["duckdb"], indirect=True)
def test_a_view_whose_definition_names_the_person_is_reported(settings, execute, erase_bob) -> None:
    load_scan("users", settings)
    execute(f"CREATE VIEW propel_auth_data.v AS SELECT 1 AS x WHERE '{QUOTED}' <> ''", "SELECT 1")
    receipt = erase_bob()
    assert [(r.where, r.what) for r in receipt.remaining] == [("propel_auth_data.v", "definition of the view")]
    assert not receipt.is_complete


@pytest.mark.parametrize("destination", ["duckdb", "postgres", "files", "plain_files"], indirect=True)
def test_a_load_restores_no_trace_in_other_peoples_data(destination, sandbox, settings, bob, erase_bob, rows) -> None:
    load_scan("users", settings)
    erase_bob()
    other = next(user for user in sandbox.store.users if user != bob)
    sandbox.store.update_user(
        other,
        first_name=f"call {BOB}",
        picture_url=f"https://cdn.test/{BOB}.png?e={ENCODED}&id={bob.upper()}",
        properties={BOB: 1, ENCODED: [2], "notes": {"by": bob, "text": f"x{BOB}", "price": 1.5}},
        metadata={"inner": BOB},
    )
    load_scan("users", settings)
    users = rows("user_query")
    user = users[(other,)]
    assert (bob,) not in users
    assert user["first_name"] == "call erased"
    assert user["picture_url"] == "https://cdn.test/erased.png?e=erased&id=erased"
    assert user["properties"] == {
        "erased": 1,
        "erased_2": [2],
        "notes": {"by": "erased", "text": f"x{BOB}", "price": 1.5},
    }
    assert user["metadata"] == {"inner": "erased"}


@pytest.mark.parametrize("destination", ["duckdb", "postgres"], indirect=True)
@pytest.mark.parametrize("address", ["o'brien@x.test", "bob@exämple.test", "bob@[192.168.0.1]", "a/b=c%d&e?f@x.test"])
def test_another_user_with_the_same_address_or_a_longer_one_keeps_it(
    address, sandbox, settings, bob, erase_bob, rows
) -> None:
    same, longer = [user for user in sandbox.store.users if user != bob][:2]
    addresses = {(same,): address.title(), (longer,): f"x'{address}"}
    for (user,), email in {**addresses, (bob,): address}.items():
        sandbox.store.update_user(user, email=email)
    load_scan("users", settings)
    for step in (lambda: erase_bob().is_complete, lambda: load_scan("users", settings)):
        assert step()
        assert {key: rows("user_query")[key]["email"] for key in addresses} == addresses
        assert (bob,) not in rows("user_query")


@pytest.mark.parametrize("destination", ["duckdb", "postgres"], indirect=True)
def test_addresses_are_found_in_any_case_whatever_the_database_takes_for_lower_case(
    destination, settings, sandbox, bob, execute, erase_bob, tmp_path
) -> None:
    names = ["ΝΙΚΟΣ", "νικος", "İbo", "Ünal", "ünal", "ÜNAL", "BIB", "bib"]
    collation = 'COLLATE "C"' if destination == "postgres" else ""
    sandbox.store.invites[-1]["invitee_email"] = "ΝΙΚΟΣ@x.test"
    load_scan("users", settings)
    load_scan("invites", settings)
    places = {
        "lists": f"CREATE TABLE analysts.lists (email TEXT {collation})",
        "invites": f"CREATE TABLE analysts.invites (n INT, inviter_email TEXT {collation})",
        "notes": f"CREATE TABLE analysts.notes (note TEXT {collation})",
    }
    values = {"lists": "('{}')", "invites": "(1, '{}')", "notes": "('to {}')"}
    insert = [
        f"INSERT INTO analysts.{table} VALUES {value.format(f'{name}@x.test')}"
        for table, value in values.items()
        for name in [*names, "other"]
    ]
    execute("CREATE SCHEMA analysts", *places.values(), *insert, "SELECT 1")
    receipt = erase_bob(emails=["νικος@x.test", "İbo@x.test", "ÜNAL@x.test", "BIB@x.test"])
    assert receipt.is_complete, receipt
    assert execute("SELECT email FROM analysts.lists") == [("other@x.test",)]
    assert execute("SELECT DISTINCT inviter_email FROM analysts.invites ORDER BY 1 NULLS FIRST") == [
        (None,),
        ("other@x.test",),
    ]
    assert execute("SELECT DISTINCT note FROM analysts.notes ORDER BY 1") == [("to erased",), ("to other@x.test",)]
    invited = execute("SELECT count(*) FROM propel_auth_data.pending_org_invites WHERE invitee_email LIKE '%@x.test'")
    assert invited == [(0,)]
    if destination == "duckdb":
        content = (tmp_path / "propel_auth_pipeline.duckdb").read_bytes()
        assert [name for name in names if f"{name}@".encode() in content] == []


@pytest.mark.parametrize("destination", ["duckdb"], indirect=True)
def test_an_unknown_id_is_refused_and_never_put_on_the_list(sandbox, settings, run, monkeypatch) -> None:
    unknown = "3d5c0d5e-0000-4000-8000-000000000000"
    assert run("load", "user_query").returncode == 0
    assert run("load", "user_by_id", "--user-id", unknown).returncode == 0
    for words in (["--dry-run"], []):
        refused = run("erase", unknown, *words)
        assert refused.returncode == 1
        assert "No such user" in refused.stderr
        assert "PropelAuth has no such user" in refused.stderr
        assert refused.stdout == ""
    monkeypatch.delenv("PROPELAUTH_PRIVACY_KEY")
    assert run("load", "user_query").returncode == 0  # a list would need the key
    shown = run("erase", next(iter(sandbox.store.users)), "--dry-run")
    assert shown.returncode == 0, shown.stderr
    assert "propel_auth_data.user_query" in shown.stdout

    monkeypatch.setenv("PROPELAUTH_PRIVACY_KEY", KEY)
    newcomer = sandbox.store.add_user()
    assert run("erase", newcomer).returncode == 0  # PropelAuth has them
    assert run("erase", newcomer).returncode == 0  # the list has them
    assert run("erase", unknown, "--allow-unknown").returncode == 0
    monkeypatch.setenv("PROPELAUTH_AUTH_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("PROPELAUTH_RETRY_SECONDS", "0")
    refused = run("erase", unknown.replace("3d5c", "3d5d"))
    assert refused.returncode == 1
    assert "the request to PropelAuth failed" in refused.stderr


def test_the_types_of_duckdb_that_are_not_searched_have_no_text() -> None:
    with duckdb.connect() as database:
        types = database.execute("SELECT DISTINCT logical_type FROM duckdb_types() WHERE internal").fetchall()
    assert {name for (name,) in types if column_kind(name) is None} == NO_TEXT | {"MAP", "STRUCT"}
    assert column_kind("STRUCT(a INTEGER, b MAP(DATE, BOOLEAN))") is None
    assert column_kind("STRUCT(a INTEGER, b VARCHAR[])") == "typed"


@pytest.mark.parametrize("destination", ["duckdb"], indirect=True)
def test_a_database_without_a_catalog_has_its_audit_tables_searched_too(settings, sandbox, monkeypatch) -> None:
    load_scan("users", settings)

    def refuse(*_: Any) -> Any:
        raise DatabaseTerminalException(Exception("no information_schema"))

    with open_warehouse(settings.target, load_policy(settings.privacy_settings)) as warehouse:
        catalog = Catalog(warehouse._client)
        monkeypatch.setattr(catalog, "rows", refuse)
        found = {table.name: {column.name for column in table.columns} for table in catalog.contents().tables}
    assert found["user_query"] >= {"user_id", "email"}
    assert found["propel_changes"] >= {"user_id", "org_id"}
    assert found["propel_scan_state"] >= {"user_id", "org_id"}
    assert "resume_state" in found["propel_scans"]
