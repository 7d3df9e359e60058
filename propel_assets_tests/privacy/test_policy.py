"""The privacy policy: what is stored of people, from every reader, on every way in."""

import json
import re
import subprocess
import sys
from datetime import UTC, datetime

import dlt
import pyarrow as pa
import pytest
from dlt.pipeline.exceptions import PipelineStepFailed

from propel_assets import propel_auth_source
from propel_assets.catalog import AUTH_EVENT, BY_NAME, TABLES
from propel_assets.errors import SettingsError
from propel_assets.privacy.erasure_list import ErasureList
from propel_assets.privacy.filter import PrivacyFilter
from propel_assets.privacy.policy import Policy, Rule
from propel_assets.privacy.policy_file import load_policy
from propel_assets.settings import PrivacySettings, load_settings
from propel_assets.source.decode import PageDecoder, RowType
from propel_assets.source.stream import ReadOptions
from propel_assets.warehouse.load import load_scan
from propel_assets.webhooks.store import StoredEvent

KEY = "a key for these tests only"
RECENT = ReadOptions(recent=True)
PEOPLE = ("email", "username", "picture_url")


@pytest.fixture
def policy(tmp_path, monkeypatch):
    """Write a policy file, and name it in the environment."""

    def write(text: str, key: str = KEY) -> None:
        (tmp_path / "privacy.toml").write_text(text)
        monkeypatch.setenv("PROPELAUTH_PRIVACY", "privacy.toml")
        monkeypatch.setenv("PROPELAUTH_PRIVACY_KEY", key)

    return write


@pytest.fixture
def strict(monkeypatch):
    monkeypatch.setenv("PROPELAUTH_PRIVACY", "strict")
    monkeypatch.setenv("PROPELAUTH_PRIVACY_KEY", KEY)


@pytest.fixture
def everything(query):
    """Return every row of every table as text."""

    def read() -> str:
        tables = query("SELECT table_schema, table_name FROM information_schema.tables")
        return "\n".join(row for schema, name in tables for (row,) in query(f'SELECT t::TEXT FROM {schema}."{name}" t'))

    return read


def known_of(store) -> set[str]:
    return {user.wire[name] for user in store.users.values() for name in PEOPLE if user.wire.get(name)}


def test_a_policy_that_is_no_longer_set_is_refused_before_any_request(strict, small, monkeypatch, query) -> None:
    load_scan("users", load_settings())
    stored, sent = query("SELECT email FROM user_query ORDER BY 1"), len(small.requests)
    monkeypatch.delenv("PROPELAUTH_PRIVACY")
    with pytest.raises(SettingsError, match="were loaded with a privacy policy, and PROPELAUTH_PRIVACY is not set"):
        load_scan("users", load_settings())
    assert len(small.requests) == sent
    assert query("SELECT email FROM user_query ORDER BY 1") == stored
    monkeypatch.setenv("PROPELAUTH_PRIVACY", "open")
    load_scan("users", load_settings())
    assert query("SELECT email FROM user_query ORDER BY 1") != stored


def test_a_policy_is_not_lost_by_a_dlt_pipeline_with_some_tables_of_a_scan(
    strict, small, monkeypatch, tmp_path
) -> None:
    def load() -> None:
        dlt.pipeline("plain", destination="duckdb", pipelines_dir=str(tmp_path)).run(
            propel_auth_source(tables=["user_query"])
        )

    load()
    monkeypatch.delenv("PROPELAUTH_PRIVACY")
    with pytest.raises(PipelineStepFailed, match="were loaded with a privacy policy"):
        load()


def test_a_policy_is_not_lost_by_a_load_of_events(strict, small, monkeypatch) -> None:
    load_scan("users", load_settings())
    payload, now = {"event_type": "user.updated", "user_id": min(small.store.users)}, datetime.now(UTC)
    event = StoredEvent("msg_1", payload["event_type"], now, now, json.dumps(payload))
    load_scan(AUTH_EVENT.scan, load_settings(), options=ReadOptions(events=[event]))
    monkeypatch.delenv("PROPELAUTH_PRIVACY")
    with pytest.raises(SettingsError, match="were loaded with a privacy policy"):
        load_scan(AUTH_EVENT.scan, load_settings(), options=ReadOptions(events=[event]))


@pytest.mark.parametrize("variable", ["PROPELAUTH_PRIVACY_POLICY", "STAGING__PROPELAUTH_PRIVACYKEY"])
def test_a_misspelled_privacy_setting_is_refused(monkeypatch, variable) -> None:
    monkeypatch.setenv(variable, " ")
    load_settings()
    monkeypatch.setenv(variable, "strict")
    with pytest.raises(SettingsError, match=f"{variable} is not a setting. Those of privacy are"):
        load_settings()


def test_open_lets_rows_go_on_as_they_are() -> None:
    rows = pa.table({"user_id": ["1"], "email": ["a@example.com"], "new_field": ["x"]})
    assert PrivacyFilter(PrivacySettings()).apply("user_query", rows) is rows


def test_strict_hashes_and_drops_exactly_these_columns(strict) -> None:
    policy = load_policy(load_settings().privacy_settings)
    columns = {action: {name for t in TABLES for name in policy.columns(t, action)} for action in ("hash", "drop")}
    assert columns["hash"] == {"email", "invitee_email", "inviter_email", "legacy_user_id", "looked_up", "username"}
    assert columns["drop"] == {
        "display_name",
        "first_name",
        "last_name",
        "metadata",
        "mfa_setup",
        "org_id_to_org_info",
        "org_metadata",
        "payload",
        "picture_url",
        "properties",
        "user_signup_query_parameters",
    }
    assert str(policy.rules["oauth_userinfo"]["org_id_to_org_info"]) == "keep, * keep, *.org_metadata drop"


def test_strict_treats_every_column_that_is_marked_personal(strict) -> None:
    rules = load_policy(load_settings().privacy_settings).rules
    kept = [(t.name, c.name) for t in TABLES for c in t.columns if c.personal and rules[t.name][c.name].keeps_all]
    assert kept == []


def test_strict_stores_no_name_and_passes_every_check(small, strict, everything, query, run_cli) -> None:
    person = next(user.wire for user in small.store.users.values() if "username" in user.wire)
    words = [
        f"--{kind}={person[of]}" for kind, of in (("user-id", "user_id"), ("email", "email"), ("username", "username"))
    ]
    tables = [table.name for table in TABLES if any(column.personal for column in table.columns)]
    ran = run_cli("load", *tables, *words, PROPELAUTH_OAUTH_TOKEN=small.user_token)
    assert ran.returncode == 0, ran.stderr
    stored = everything()
    assert person["user_id"] in stored
    assert [text for text in known_of(small.store) if text in stored] == []
    assert query("SELECT count(first_name), count(last_name) FROM user_query") == [(0, 0)]
    assert [invite["invitee_email"] for invite in small.store.invites if invite["invitee_email"] in stored] == []
    assert KEY not in stored + ran.stdout + ran.stderr
    joined = "SELECT count(*) FROM pending_org_invites i JOIN user_query u ON u.email = i.inviter_email"
    assert query(joined) == query("SELECT count(inviter_user_id) FROM pending_org_invites") != [(0,)]


def test_without_dagster_and_our_pipeline_it_holds_too(small, strict, tmp_path) -> None:
    script = "import dlt\nfrom propel_assets.source import propel_auth_source\n"
    script += "p = dlt.pipeline('mine', destination='duckdb', dataset_name='d')\n"
    script += "p.run(propel_auth_source(tables=['user_query', 'org_membership']))\n"
    script += "print(p.dataset().user_query.df().to_json())\n"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert min(small.store.users) in ran.stdout
    assert [text for text in known_of(small.store) if text in ran.stdout] == []


def test_parts_of_json_have_rules_of_their_own(policy, settings, sandbox, query) -> None:
    user_id, user = next(iter(sandbox.store.users.items()))
    user.wire["properties"] = {"metadata": {"plan": "pro", "company": "Acme", "phone": "123"}, "notes": ["x"]}
    policy(
        '[user_query]\nproperties = "drop"\n"properties.metadata.plan" = "keep"\n"properties.metadata.company" = "hash"'
    )
    settings = load_settings()
    load_scan("users", settings)
    ((stored,),) = query(f"SELECT properties FROM user_query WHERE user_id = '{user_id}'")
    assert json.loads(stored) == {
        "metadata": {"plan": "pro", "company": load_policy(settings.privacy_settings).digest("Acme")}
    }


def test_hashed_keys_merge_and_refer_as_the_plain_ones_do(policy, small, query, run_cli) -> None:
    tables = [t.name for t in TABLES if any(c.name == "user_id" for c in t.columns)]
    people = "\n".join(f'[{name}]\nuser_id = "hash"' for name in tables if name != "pending_org_invites")
    policy(people)
    assert run_cli("load", "user_query", "end_user_api_keys", "user_report", "scim_groups").returncode == 0
    before = query("SELECT user_id FROM user_query")
    leaver = next(user for user, orgs in small.store.of_user.items() if len(orgs) == 1)
    small.store.remove_membership(leaver, next(iter(small.store.of_user[leaver])))
    small.store.touch_user(leaver)
    small.store.touch_user(small.store.add_user())
    merged = run_cli("load", "user_query", "--recent")
    assert merged.returncode == 0, merged.stderr
    rows = query("SELECT user_id FROM user_query ORDER BY 1")
    members = query("SELECT user_id, org_id FROM org_membership ORDER BY ALL")
    assert run_cli("load", "user_query").returncode == 0
    assert rows == query("SELECT user_id FROM user_query ORDER BY 1")
    assert members == query("SELECT user_id, org_id FROM org_membership ORDER BY ALL")
    assert len(rows) == len(before) + 1
    assert leaver not in {user_id for (user_id,) in rows}


def test_an_unexpected_field_is_not_stored_and_fails_the_check(strict, small, query, run_cli) -> None:
    small.faults.set("unknown_field", ["orgs"])
    ran = run_cli("load", "org_query")
    assert ran.returncode == 3, ran.stderr
    assert "ERROR org_query: schema: Fields that the privacy policy does not classify were not stored: " in ran.stderr
    field = ran.stderr.split("not stored: ")[1].split(".")[0].split(",")[0]
    assert field not in {row[0] for row in query("SELECT column_name FROM (DESCRIBE org_query)")}


def test_rules_for_new_fields_store_or_drop_them_and_the_check_passes(policy, small, query, run_cli) -> None:
    small.faults.set("unknown_field", ["orgs"])
    rules = 'preset = "strict"\n[new_fields.org_query]\nnew_scalar = "keep"\nnew_object = "drop"\nname = "drop"'
    policy(rules)
    ran = run_cli("load", "org_query")
    assert ran.returncode == 0, ran.stderr
    columns = {row[0] for row in query("SELECT column_name FROM (DESCRIBE org_query)")}
    assert columns & {"new_scalar", "new_object"} == {"new_scalar"}
    assert query("SELECT count(name) FROM org_query") == [(0,)], "a rule for a field that the catalog declares by now"
    shown = run_cli("privacy", "org_query").stdout
    assert re.search(r"org_query +new_scalar +keep", shown)
    policy('[new_fields.user_qeury]\nnickname = "drop"')
    with pytest.raises(SettingsError, match=r"new_fields\.user_qeury is not a table"):
        load_policy(load_settings().privacy_settings)


def test_an_unexpected_field_named_like_a_variant_is_not_stored(strict, small, query, run_cli) -> None:
    user = small.store.users[min(small.store.users)]
    user.wire["enabled__v_text"] = f"{user.wire['first_name']}, {user.wire['email']}"
    ran = run_cli("load", "user_query")
    assert ran.returncode == 3
    assert "does not classify were not stored: enabled__v_text." in ran.stderr
    assert [name for name, *_ in query("DESCRIBE user_query") if "v_text" in name] == []


def test_an_unexpected_field_named_like_a_variant_is_searched_for_usernames() -> None:
    key = PrivacySettings(key=KEY)
    policy = load_policy(key)
    erased = ErasureList(None, policy).with_people([policy.digest("jdoe")])
    row_type = RowType(BY_NAME["user_query"])
    page = PageDecoder(row_type, "users")(b'{"users": [{"user_id": "1", "enabled__v_text": "jdoe"}]}')
    rows = PrivacyFilter(key, erased).apply("user_query", row_type.to_arrow(page.items))
    assert rows.num_rows == 1
    assert "jdoe" not in str(rows["enabled__v_text"].to_pylist())


@pytest.mark.parametrize(
    ("rules", "stored"),
    [
        ({"m.*": "drop", "m.plan.tier": "keep"}, {"plan": {"tier": "gold"}}),
        ({"m.plan.tier": "keep", "m.*": "drop"}, {"plan": {"tier": "gold"}}),
        ({"m.plan.tier": "keep", "m.*.owner": "drop"}, {"phone": "1", "plan": {"tier": "gold", "seats": {"n": 5}}}),
        (
            {"m.plan": "keep", "m.*.seats.n": "drop"},
            {"phone": "1", "plan": {"tier": "gold", "owner": "jd", "seats": {}}},
        ),
        ({"m.*.tier": "keep", "m.*": "drop", "m.plan": "drop"}, {}),
        ({"m": "drop", "m.*.tier": "keep", "m.plan.seats": "keep"}, {"plan": {"tier": "gold", "seats": {"n": 5}}}),
    ],
)
def test_a_named_part_begins_with_the_rule_of_all_parts(rules, stored, policy) -> None:
    policy("[user_query]\n" + "\n".join(f'"properties.{path}" = "{action}"' for path, action in rules.items()))
    value = {"m": {"phone": "1", "plan": {"tier": "gold", "owner": "jd", "seats": {"n": 5}}}}
    rows = pa.table({"properties": [json.dumps(value)]})
    rows = PrivacyFilter(load_settings().privacy_settings).apply("user_query", rows)
    assert json.loads(rows["properties"][0].as_py()) == {"m": stored}


def test_a_recent_load_under_another_policy_reads_all_users_again(policy, settings, query) -> None:
    load_scan("users", settings)
    policy('[user_query]\nemail = "hash"')
    reports = load_scan("users", load_settings(), options=RECENT).results
    assert {report.mode for report in reports} == {"full"}
    assert query("SELECT count(*) FROM user_query WHERE email LIKE '%@%'") == [(0,)]
    assert {r.mode for r in load_scan("users", load_settings(), options=RECENT).results} == {"recent"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[user_qeury]\nemail = 'drop'", "user_qeury is neither a setting nor a table"),
        ("unclasified = 'drop'", "unclasified is neither a setting nor a table"),
        (
            "user_query = 'keep'",
            "user_query must be a TOML table. Write [user_query] and one rule per column below it.",
        ),
        (
            "[new_fields]\nuser_query = 'keep'",
            "new_fields.user_query must be a TOML table. Write [new_fields.user_query]",
        ),
        ("new_fields = 'keep'", "new_fields must have a TOML table for each table: [new_fields.user_query]"),
        ("[user_query]\nemial = 'drop'", "user_query has no column emial"),
        ("[user_query]\nemail = 'hide'", "user_query.email is 'hide'; choose keep, hash or drop"),
        ("[user_query]\nlocked = 'hash'", "user_query.locked is a bool and cannot be hashed: keep it, or drop it"),
        ("[user_query]\nuser_id = 'drop'", "user_query.user_id is in the table's key and cannot be dropped"),
        ("[user_query]\nuser_id = 'hash'", "could not be joined. Give both the same rule"),
        ("[user_query]\n'email.host' = 'keep'", "user_query.email is not JSON, so it has no part host"),
        ("preset = 'lax'", "preset is 'lax'; choose open or strict"),
        ("unclassified = 'hash'", "unclassified is 'hash'; choose keep or drop"),
        ("[user_query", "privacy.toml is not a TOML file: "),
    ],
)
def test_an_impossible_rule_is_refused_before_any_request(text, why, policy, small, run_cli) -> None:
    policy(text)
    ran = run_cli("load", "user_query")
    assert ran.returncode == 1
    assert why in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not small.requests


@pytest.mark.parametrize(
    ("value", "key", "why"),
    [
        ("strict", "", "hashes columns, and PROPELAUTH_PRIVACY_KEY is not set"),
        ("strict", "short", "PROPELAUTH_PRIVACY_KEY is shorter than 16 characters"),
        ("strcit", "", "PROPELAUTH_PRIVACY is 'strcit': choose open, strict, or a file that can be read"),
    ],
)
def test_a_policy_that_cannot_be_applied_is_refused(value, key, why, small, run_cli) -> None:
    ran = run_cli("load", "user_query", PROPELAUTH_PRIVACY=value, PROPELAUTH_PRIVACY_KEY=key)
    assert ran.returncode == 1
    assert why in ran.stderr
    assert "short." not in ran.stderr
    assert not small.requests


def test_a_value_of_another_type_follows_its_columns_rule(strict) -> None:
    rows = pa.table({"email": pa.nulls(1, pa.string()), "email__v_text": ['["a@example.com"]']})
    passed = PrivacyFilter(load_settings().privacy_settings).apply("user_query", rows)
    assert passed["email__v_text"].to_pylist() == [
        load_policy(load_settings().privacy_settings).digest('["a@example.com"]')
    ]


def test_the_policy_can_be_shown_without_a_key(run_cli) -> None:
    shown = run_cli("privacy", "user_query", PROPELAUTH_PRIVACY="strict")
    assert shown.returncode == 0, shown.stderr
    actions = {line.split()[1]: line.split()[2] for line in shown.stdout.splitlines()[1:] if "any other" not in line}
    assert (actions["user_id"], actions["email"], actions["first_name"]) == ("keep", "hash", "drop")


def test_the_key_is_not_in_the_settings_text(strict) -> None:
    assert KEY not in repr(load_settings())
    with pytest.raises(SettingsError) as caught:
        load_policy(PrivacySettings(policy="strict", key="too short"))
    assert "too short" not in str(caught.value)


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        ('{"a": 1.10000000000000000055, "b": 1}', '{"a":1.10000000000000000055}'),
        ('{"a": [1e400, 123456789012345678901234567890 ], "b": {}}', '{"a":[1e400, 123456789012345678901234567890 ]}'),
        (r'{"a": "\ud800x\u00e9", "\udc00": 1, "b": "\ud800"}', r'{"a":"\ud800x\u00e9"}'),
        ('{"c": [{"a": 1.0}, {"b": 1}]}', '{"c":[{"a":1.0}]}'),
        ('{"b": 1}', None),
    ],
)
def test_the_parts_of_json_that_are_kept_are_not_altered(sent, stored) -> None:
    rule = Rule("drop")
    rule.at(["a"]).action = "keep"
    rule.at(["c", "*", "a"]).action = "keep"
    policy = Policy("test", {"user_query": {"properties": rule}}, "keep")
    for column in ("properties", "properties__v_text"):
        rows, _ = policy.apply(BY_NAME["user_query"], pa.table({column: pa.array([sent], pa.string())}))
        assert rows[column].to_pylist() == [stored]


def test_a_part_of_json_is_hashed_whatever_its_value() -> None:
    rule = Rule("keep")
    rule.at(["h"]).action = "hash"
    policy = Policy("test", {"user_query": {"properties": rule}}, "keep", KEY.encode())
    long = "9" * 5000
    sent = [f'{{"h": {value}}}' for value in ('"x"', "1e400", long, r'"\ud800"', '{"b": 1, "a": 2}', "null", "true")]
    rows, _ = policy.apply(BY_NAME["user_query"], pa.table({"properties": sent}))
    stored = [json.loads(text)["h"] for text in rows["properties"].to_pylist()]
    texts = ["x", "1e400", long, "\ud800", '{"a": "2", "b": "1"}']
    assert stored == [*map(policy.digest, texts), None, policy.digest("true")]
