"""The erasure list leaves erased people out of rows, and their identifiers out of other people's rows."""

import json

import pyarrow as pa
import pytest

from propel_assets.catalog import BY_NAME
from propel_assets.errors import SettingsError
from propel_assets.privacy import erasure_list as module
from propel_assets.privacy.erasure_list import ErasureList
from propel_assets.privacy.filter import PrivacyFilter
from propel_assets.privacy.policy import Policy
from propel_assets.settings import PrivacySettings

KEY = "a key for these tests only"
ID, EMAIL, USERNAME = "5b1f0c1e-9f0d-4c64-8e0f-5f1c6c2d7a10", "bob@x.test", "Admin"
OTHER = "00000000-0000-4000-8000-000000000000"
USERS = BY_NAME["user_query"]


@pytest.fixture
def erasure_list() -> dict:
    policy = Policy("open", {}, "keep", KEY.encode())
    return ErasureList(None, policy).with_people({policy.digest(v.lower()) for v in (ID, EMAIL, USERNAME)})


@pytest.fixture
def privacy(erasure_list) -> PrivacyFilter:
    return PrivacyFilter(PrivacySettings(key=KEY), erasure_list)


def user(**values) -> pa.Table:
    row = {"user_id": OTHER, "email": "alice@x.test", **values}
    return pa.table({name: pa.array([value], pa.string()) for name, value in row.items()})


def test_rows_about_erased_people_are_left_out_and_counted(privacy) -> None:
    rows = pa.concat_tables([user(user_id=ID.upper()), user()])
    assert privacy.apply("user_query", rows)["user_id"].to_pylist() == [OTHER]
    assert privacy.rows_left_out == {"user_query": 1}


@pytest.mark.parametrize(
    ("column", "value", "stored"),
    [
        ("impersonator_user_id", ID, None),
        ("first_name", "call bob%40x.test", "call erased"),
        ("picture_url", f"https://cdn.test/{ID}.png", "https://cdn.test/erased.png"),
        ("properties", '{"bob@x.test": [1.50, "admin"]}', '{"erased": [1.50, "erased"]}'),
        ("properties__v_text", f'"{ID}"', '"erased"'),
        ("a_new_field", "ADMIN", "erased"),
    ],
)
def test_an_identifier_in_another_persons_row_is_removed(column, value, stored, privacy) -> None:
    assert privacy.apply("user_query", user(**{column: value}))[column].to_pylist() == [stored]
    assert privacy.values_replaced == {"user_query": 1}


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("email", EMAIL),  # another user's own address, in an isolated org
        ("email", f"{EMAIL}.uk"),
        ("email", "x'bob@x.test"),
        ("first_name", USERNAME),  # a username can be an ordinary name
        ("properties", '{"admin": "administrator"}'),
    ],
)
def test_other_values_are_unchanged(column, value, privacy) -> None:
    rows = user(**{column: value})
    assert privacy.apply("user_query", rows).equals(rows)


def test_a_username_never_changes_a_role(privacy) -> None:
    table = BY_NAME["org_membership"]
    rows = pa.table({"user_id": [OTHER], "user_role": ["Admin"], "additional_roles": ['["Admin"]']})
    assert privacy.apply(table.name, rows).equals(rows)


def test_an_empty_list_looks_at_no_row(monkeypatch) -> None:
    monkeypatch.setattr(module, "replace_identifiers", None)
    monkeypatch.setattr(ErasureList, "remove_rows", None)
    rows = user(properties=json.dumps({EMAIL: ID}))
    assert PrivacyFilter(PrivacySettings()).apply("user_query", rows) is rows


def test_text_with_a_lone_surrogate_is_searched_too(privacy) -> None:
    rows = user(properties=r'{"a": "\ud800 \ud800@x.test bob@x.test"}')
    assert privacy.apply("user_query", rows)["properties"].to_pylist() == [r'{"a": "\ud800 \ud800@x.test erased"}']


def test_a_list_made_with_another_key_is_refused(erasure_list) -> None:
    with pytest.raises(SettingsError, match="is not the key that the erasure list was made with"):
        PrivacyFilter(PrivacySettings(key="another key, long enough"), erasure_list)
    with pytest.raises(SettingsError, match="PROPELAUTH_PRIVACY_KEY is not set"):
        PrivacyFilter(PrivacySettings(), erasure_list)
