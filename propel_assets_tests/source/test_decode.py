"""Bytes to rows to Arrow: no field is dropped, no value is altered, and unexpected fields and values are decoded."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from propel_assets.catalog import BY_NAME
from propel_assets.privacy.policy import UNEXPECTED_FIELD
from propel_assets.source.decode import PageDecoder, RowType, to_arrow
from propel_assets.source.values import decode_value
from propel_assets_tests.cases import cases

USERS, MEMBERS = BY_NAME["user_query"], BY_NAME["org_membership"]
USER = {
    "user_id": "11111111-1111-4111-8111-111111111111",
    "email": "private.person@example.org",
    "email_confirmed": True,
    "has_password": True,
    "locked": False,
    "enabled": True,
    "mfa_enabled": False,
    "can_create_orgs": False,
    "created_at": 1_700_000_000,
    "last_active_at": 1_700_000_100,
}
MEMBER = {
    "org_id": "22222222-2222-4222-8222-222222222222",
    "org_name": "Acme",
    "org_metadata": {},
    "url_safe_org_name": "acme",
    "user_role": "Owner",
    "inherited_user_roles_plus_current_role": ["Owner", "Member"],
    "user_permissions": [],
    "additional_roles": [],
}
BIG = 2**70


class Reading:
    """Users and their memberships, decoded page after page."""

    def __init__(self) -> None:
        self.member = RowType(MEMBERS, constant_columns=("user_id",))
        self.user = RowType(USERS, maps={"org_id_to_org_info": self.member})
        self.decoder = PageDecoder(self.user, "users", [("total_users", int), ("page_size", int | None)])

    def rows(self, *users: dict[str, Any]) -> list[Any]:
        return self.decoder(json.dumps({"users": users, "total_users": len(users)}).encode()).items

    def users(self, *users: dict[str, Any]) -> pa.Table:
        return self.user.to_arrow(self.rows(*users))

    def members(self, *members: dict[str, Any]) -> pa.Table:
        rows = self.rows(*[USER | {"org_id_to_org_info": {member["org_id"]: member}} for member in members])
        flat = [info for row in rows for info in row.f_org_id_to_org_info.values()]
        return self.member.to_arrow(flat, {"user_id": [row.f_user_id for row in rows]})


@pytest.fixture
def reading() -> Reading:
    return Reading()


def column(table: pa.Table, name: str) -> list[Any]:
    return table.column(name).to_pylist()


# Declared fields


def test_the_table_has_every_declared_column_in_its_type(reading) -> None:
    table = reading.users(USER)
    assert table.column_names == [c.name for c in USERS.columns]
    assert column(table, "created_at") == [datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)]
    assert column(table, "email_confirmed") == [True]
    assert column(table, "username") == [None]
    assert [name for name in table.column_names if name.endswith("__v_text")] == []


def test_free_form_values_keep_their_source_text(reading) -> None:
    text = '{"select":1,"a.b":[1,2.50],"big":' + str(BIG) + "}"
    body = json.dumps(USER)[:-1] + f', "properties": {text}}}'
    rows = reading.decoder(f'{{"users": [{body}], "total_users": 1}}'.encode()).items
    assert column(reading.user.to_arrow(rows), "properties") == [text]


@pytest.mark.parametrize("given", [{}, {"metadata": None, "username": None}])
def test_null_and_absent_are_both_null(given, reading) -> None:
    table = reading.users(USER | given)
    assert (column(table, "metadata"), column(table, "username")) == ([None], [None])
    assert [name for name in table.column_names if name.endswith("__v_text")] == []


def test_a_table_without_rows_has_every_declared_column(reading) -> None:
    assert reading.users().num_rows == 0
    assert reading.users().schema.names == [c.name for c in USERS.columns]


# Fields that the catalog does not declare


@pytest.mark.parametrize("value", ["text", 7, -(2**63), 1.5, True, {"a": 1}, [1, 2], BIG])
@pytest.mark.parametrize("of", ["users", "members"])
def test_an_unexpected_field_keeps_its_json_source_text(of, value, reading) -> None:
    row = USER if of == "users" else MEMBER
    table = getattr(reading, of)(row | {"shoe_size": value}, row)
    assert column(table, "shoe_size") == [json.dumps(value), None]
    assert table.schema.field("shoe_size").metadata == {UNEXPECTED_FIELD: b"shoe_size"}


@pytest.mark.parametrize(
    ("of", "name"),
    [("users", "email (unexpected)"), ("members", "user_id"), ("members", "org_name__v_text"), ("users", "")],
)
def test_an_unexpected_field_never_replaces_a_declared_column(of, name, reading) -> None:
    row = USER if of == "users" else MEMBER
    table = getattr(reading, of)(row | {name: "unexpected"})
    found = [f.name for f in table.schema if (f.metadata or {}).get(UNEXPECTED_FIELD) == name.encode()]
    assert [column(table, unique) for unique in found] == [['"unexpected"']]
    declared = [c.name for c in (USERS if of == "users" else MEMBERS).columns]
    assert table.column_names[: len(declared)] == declared
    assert column(table, "user_id") == [USER["user_id"]]


@pytest.mark.parametrize("of", ["users", "members"])
def test_a_field_of_a_later_page_does_not_affect_earlier_batches(of, reading) -> None:
    row = USER if of == "users" else MEMBER
    early = reading.rows(USER, USER)
    first = getattr(reading, of)(row)
    late = getattr(reading, of)(row | {"shoe_size": 42})
    assert "shoe_size" not in first.column_names
    assert column(late, "shoe_size") == ["42"]
    mixed = reading.user.to_arrow(early + reading.rows(USER | {"hat": "L"}) + early)
    assert column(mixed, "hat") == [None, None, '"L"', None, None]
    assert column(mixed, "user_id") == [USER["user_id"]] * 5


def test_an_unexpected_field_that_is_always_null_has_no_column(reading) -> None:
    table = reading.users(USER | {"shoe_size": None})
    assert "shoe_size" not in table.column_names
    assert column(reading.users(USER | {"shoe_size": 42}), "shoe_size") == ["42"]


@pytest.mark.parametrize(
    "name", ["a.b", "select", "class", "f_email", "u_0", "user id", "Ünïcode", "__v_text", "1st", ""]
)
@pytest.mark.parametrize("of", ["users", "members"])
def test_an_unexpected_field_can_have_any_name(name, of, reading) -> None:
    row = USER if of == "users" else MEMBER
    assert column(getattr(reading, of)(row | {name: "x"}), name) == ['"x"']


@pytest.mark.parametrize(
    ("in_json", "name"),
    [
        (r"a\"b", r"a\"b"),
        (r"a\\b", r"a\\b"),
        (r"a\u0000b", r"a\u0000b"),
        (r"a\nb", r"a\nb"),
        (r"\ud83e", r"\ud83e"),
        (r"\\ud83e", r"\\ud83e"),
        (r"\ud83e\udd86\"", '🦆\\"'),
    ],
)
def test_an_unexpected_field_with_control_characters_is_named_by_its_source_text(in_json, name, reading) -> None:
    body = json.dumps(USER)[:-1] + f', "{in_json}": 1}}'
    page = f'{{"users": [{body}, {json.dumps(USER)}], "total_users": 2}}'.encode()
    for _ in range(2):  # the second page is decoded with the extended struct
        table = reading.user.to_arrow(reading.decoder(page).items)
        assert column(table, name) == ["1", None]
        assert table.schema.field(name).metadata == {UNEXPECTED_FIELD: name.encode()}
        assert column(table, "email") == [USER["email"]] * 2


def test_a_struct_field_cannot_be_set_by_its_position(reading) -> None:
    reading.users(USER | {'a"b': 1, "u_0": 2})
    table = reading.users(USER | {'a"b': 3, "u_0": 4, "u_1": 5})
    assert [column(table, name) for name in (r"a\"b", "u_0", "u_1")] == [["3"], ["4"], ["5"]]


# Values that do not have the declared type


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("locked", "no", '"no"'),
        ("locked", 1, "1"),
        ("first_name", 7, "7"),
        ("first_name", {"a": 1}, '{"a": 1}'),
        ("last_active_at", "yesterday", '"yesterday"'),
        ("last_active_at", 1700000000.5, "1700000000.5"),
        ("last_active_at", BIG, str(BIG)),
        ("last_active_at", 2**63 - 1, str(2**63 - 1)),
        ("last_active_at", 10**15, str(10**15)),
    ],
)
def test_a_value_of_another_type_is_kept_in_the_variant(name, value, text, reading) -> None:
    table = reading.users(USER, USER | {name: value})
    assert column(table, name)[1] is None
    assert column(table, name)[0] == column(reading.users(USER), name)[0]
    assert column(table, f"{name}__v_text") == [None, text]
    assert [column for column in table.column_names if column.endswith("__v_text")] == [f"{name}__v_text"]


def test_a_membership_with_a_value_of_another_type(reading) -> None:
    table = reading.members(MEMBER, MEMBER | {"user_role": ["Owner"]})
    assert column(table, "user_role") == ["Owner", None]
    assert column(table, "user_role__v_text") == [None, '["Owner"]']


def test_a_later_value_of_another_type_does_not_affect_earlier_rows(reading) -> None:
    early = reading.rows(USER)
    late = reading.rows(USER | {"locked": "no"})
    table = reading.user.to_arrow(early + late + early)
    assert column(table, "locked") == [False, None, False]
    assert column(table, "locked__v_text") == [None, '"no"', None]


def test_only_the_row_with_another_type_keeps_its_source_text(reading) -> None:
    rows = reading.rows(USER | {"created_at": "soon"}, USER) + reading.rows(USER, USER | {"created_at": None})
    assert [bytes(rows[0].f_created_at), *(row.f_created_at for row in rows[1:])] == [
        b'"soon"',
        USER["created_at"],
        USER["created_at"],
        None,
    ]


def test_a_variant_is_ascii(reading) -> None:
    rows = reading.decoder('{"users": [{"user_id": "u", "locked": "é🦆"}], "total_users": 1}'.encode()).items
    assert column(reading.user.to_arrow(rows), "locked__v_text") == [r'"\u00e9\ud83e\udd86"']


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ('"email": "first", "email": "last"', {"email": "last"}),
        ('"email": 1, "email": "last"', {"email": "last"}),
        ('"email": "first", "email": 1', {"email": None, "email__v_text": "1"}),
        ('"email": "first", "email": null', {"email": None}),
        ('"user_id": 7, "user_id": "v"', {"user_id": "v"}),
        (r'"email": "first", "\u0065mail": "last"', {"email": "last"}),
        ('"properties": {"a": 1, "a": 2}', {"properties": '{"a": 1, "a": 2}'}),
        ('"new": 1, "new": 2', {"new": "2"}),
    ],
)
def test_of_a_duplicate_key_the_last_value_counts(pairs, expected, reading) -> None:
    rows = reading.decoder(f'{{"users": [{{"user_id": "u", {pairs}}}], "total_users": 1}}'.encode()).items
    table = reading.user.to_arrow(rows)
    assert {name: column(table, name)[0] for name in expected} == expected


LONE = r"\ud83e"
AS_SENT = r'"half of \ud83e\udd86 is \ud83e, and \\ud83e is none"'


def test_a_lone_surrogate_keeps_its_json_source_text(reading) -> None:
    text = f'{{"a": [{AS_SENT}, "\\udc00"]}}'
    body = json.dumps(USER)[:-1] + f', "first_name": {AS_SENT}, "properties": {text}, "nick": {AS_SENT}}}'
    plain = json.dumps(USER | {"first_name": "\ud83e\udd86", "properties": {"a": "\\ud83e"}})
    rows = reading.decoder(f'{{"users": [{body}, {plain}], "total_users": 2}}'.encode()).items
    table = reading.user.to_arrow(rows)
    assert column(table, "first_name") == [None, "🦆"]
    assert column(table, "first_name__v_text") == [AS_SENT, None]
    assert column(table, "properties")[0] is None
    assert json.loads(column(table, "properties")[1]) == {"a": "\\ud83e"}
    assert column(table, "properties__v_text") == [text, None]
    assert column(table, "nick") == [AS_SENT, None]


def test_a_lone_surrogate_in_a_membership_keeps_its_json_source_text(reading) -> None:
    member = json.dumps(MEMBER)[:-1] + f', "url_safe_org_name": "{LONE}"}}'
    body = json.dumps(USER)[:-1] + f', "org_id_to_org_info": {{"o": {member}}}}}'
    rows = reading.decoder(f'{{"users": [{body}], "total_users": 1}}'.encode()).items
    table = reading.member.to_arrow(list(rows[0].f_org_id_to_org_info.values()), {"user_id": ["u"]})
    assert column(table, "url_safe_org_name__v_text") == [f'"{LONE}"']


@pytest.mark.parametrize("field", [f'"user_id": "{LONE}"', f'"org_id_to_org_info": {{"o": {{"org_id": "{LONE}"}}}}'])
def test_a_lone_surrogate_in_a_key_is_refused(field, reading) -> None:
    body = json.dumps(USER)[:-1] + f", {field}}}"
    with pytest.raises(msgspec.ValidationError, match="lone surrogate") as caught:
        reading.decoder(f'{{"users": [{body}], "total_users": 1}}'.encode())
    assert USER["email"] not in str(caught.value)


@pytest.mark.parametrize("day", ["2026-02-31", "no day", 7])
def test_a_date_that_does_not_exist_is_refused_in_a_key(day) -> None:
    row_type = RowType(BY_NAME["chart_metrics"], constant_columns=("metric", "cadence", "chart_type"))
    with pytest.raises(msgspec.ValidationError) as caught:
        PageDecoder(row_type)(json.dumps({"date": day, "result": 1, "cadence_completed": True}).encode())
    assert str(day) not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "kind", "value"),
    [
        ("0.1", "double", 0.1),
        ("1.50", "double", 1.5),
        ("1E2", "double", 100.0),
        (str(2**53), "double", 2.0**53),
        (str(2**53 + 1), "double", None),
        ("0.12345678901234567890", "double", None),
        ("1e400", "double", None),
        ("1e-400", "double", None),
        ("1e-99999999999999999999", "double", None),
        ("-9223372036854775808", "bigint", -(2**63)),
        ("9223372036854775808", "bigint", None),
        ("1.5", "bigint", None),
        ("true", "bigint", None),
        ("1", "bool", None),
        ('"1"', "bigint", None),
        ("1", "text", None),
        ("null", "text", None),
    ],
)
def test_a_value_is_decoded_without_loss_or_not_at_all(source, kind, value) -> None:
    decoded = decode_value(msgspec.Raw(source.encode()), kind)
    assert (decoded, type(decoded)) == (value, type(value))


def test_a_whole_float_is_a_timestamp(reading) -> None:
    table = reading.users(USER | {"created_at": 1700000000.0})
    assert column(table, "created_at") == [datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)]
    assert [name for name in table.column_names if name.endswith("__v_text")] == []


# Pages that are refused


@pytest.mark.parametrize("of", ["users", "members"])
@pytest.mark.parametrize("value", ["absent", None, 4711])
def test_a_row_without_its_key_is_an_error_that_names_the_field(of, value, reading) -> None:
    row, key = (USER, "user_id") if of == "users" else (MEMBER, "org_id")
    broken = {k: v for k, v in row.items() if k != key} | ({} if value == "absent" else {key: value})
    users = broken if of == "users" else USER | {"org_id_to_org_info": {"somewhere": broken}}
    with pytest.raises(msgspec.ValidationError) as caught:
        reading.rows(users)
    assert key in str(caught.value)
    for secret in (USER["email"], USER["user_id"], "Acme", "4711"):
        assert secret not in str(caught.value)


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"users": [', b"\xff\xfe"])
def test_a_body_that_is_not_json_is_a_decode_error(body, reading) -> None:
    with pytest.raises(msgspec.DecodeError) as caught:
        reading.decoder(body)
    assert not isinstance(caught.value, msgspec.ValidationError)


@pytest.mark.parametrize("body", [b"[]", b"null", b"{}", b'{"users": {}}', b'{"users": [1]}', b'{"users": []}'])
def test_an_unexpected_json_shape_is_a_validation_error(body, reading) -> None:
    with pytest.raises(msgspec.ValidationError):
        reading.decoder(body)


def test_rows_without_a_response_have_the_declared_columns() -> None:
    table = to_arrow(MEMBERS, [{"user_id": "u", "org_id": "o", "org_metadata": {"a": [1]}}])
    assert table.column_names == [c.name for c in MEMBERS.columns]
    assert column(table, "org_metadata") == ['{"a":[1]}']


def test_decoders_of_one_row_type_share_its_unexpected_fields() -> None:
    row_type = RowType(BY_NAME["scim_groups"], constant_columns=("org_id",))
    body = msgspec.json.encode({"groups": [{"group_id": "g", "display_name": "d", "brand_new": 1}]})
    first, second = PageDecoder(row_type, "groups"), PageDecoder(row_type, "groups")
    rows = [first(body).items[0], second(body).items[0]]
    assert row_type.to_arrow(rows, {"org_id": "o"}).column("brand_new").to_pylist() == ["1", "1"]


def test_threads_can_extend_and_use_a_row_type_together() -> None:
    row_type = RowType(BY_NAME["org_query"])
    decode = PageDecoder(row_type, "orgs")
    rows = cases(200)

    def load(number: int) -> list:
        org = {"org_id": str(number), "name": "n", "is_saml_configured": True, f"new_{number}": number}
        return row_type.to_arrow(decode(msgspec.json.encode({"orgs": [org]})).items).column(f"new_{number}").to_pylist()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(load, range(rows))) == [[str(number)] for number in range(rows)]


def test_a_batch_can_be_converted_while_another_thread_extends_the_row_type() -> None:
    """The other thread has published the new field, and not yet the struct with it."""
    body = {"org_id": "o", "name": "n", "is_saml_configured": True, "first": 1}
    converted = []

    class Extended(RowType):
        def _make_struct(self) -> type[msgspec.Struct]:
            if len(self.unexpected) == 2:
                converted.append(self.to_arrow(rows))
            return super()._make_struct()

    row_type = Extended(BY_NAME["org_query"])
    decode = PageDecoder(row_type, "orgs")
    rows = decode(msgspec.json.encode({"orgs": [body]})).items
    decode(msgspec.json.encode({"orgs": [body | {"second": 2}]}))
    [table] = converted
    assert column(table, "first") == ["1"]
    assert "second" not in table.column_names
