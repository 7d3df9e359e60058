"""The readers of the catalog's shapes, against the sandbox: what they return, and what their results say."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import NAMESPACE_OID, uuid5

import pytest

from propel_assets.catalog import ORG_BY_ID, USER_QUERY, tables_of
from propel_assets.catalog.users import USERS_IN_ORG
from propel_assets.errors import LossRefused, PermanentApiError, SettingsError, UnprovedScan
from propel_assets.sandbox import insights
from propel_assets.source import lists
from propel_assets.source.changes import find_changes
from propel_assets.source.client import Client
from propel_assets.source.readers import ScanContext, per_parent, read_scan
from propel_assets.source.readers import insights as insight_readers
from propel_assets.source.stream import ReadOptions, ResumeState, Rows, ScanResult

ORG = "/api/backend/v1/org"


@pytest.fixture
def read(settings):
    """Return a function that reads a scan, and returns the rows and the result of each table."""

    def scan(
        name: str, page_size: int = 100, *, allow_loss: bool = False, **context
    ) -> dict[str, tuple[list[dict], ScanResult]]:
        client = Client(replace(settings.tenant, page_size=page_size, allow_loss=allow_loss))
        items = list(read_scan(name, ScanContext(client=client, **context)))
        rows = {table.name: [] for table in tables_of(name)}
        for item in items:
            if isinstance(item, Rows):
                rows[item.table] += item.data.to_pylist()
        return {item.table_name: (rows[item.table_name], item) for item in items if isinstance(item, ScanResult)}

    return scan


def test_a_listed_org_that_returns_404_is_requested_again(read, sandbox) -> None:
    org_id = min(sandbox.store.orgs)
    sandbox.faults.parse(f"server_error=404,path={ORG}/{org_id},requests=1")
    rows, result = read("org_details")["org_by_id"]
    assert {row["org_id"] for row in rows} == set(sandbox.store.orgs)
    assert (result.verdict, result.reason) == ("proved", "")


def test_a_listed_org_that_keeps_returning_404_is_not_proved(read, sandbox) -> None:
    org_id = min(sandbox.store.orgs)
    sandbox.faults.parse(f"server_error=404,path={ORG}/{org_id}")
    rows, result = read("org_details")["org_by_id"]
    assert {row["org_id"] for row in rows} == set(sandbox.store.orgs) - {org_id}
    assert result.verdict == "counted"
    assert result.reason == "Rows that org_query lists and that returned 404 twice: 1"


def test_an_org_that_is_deleted_after_it_was_listed_leaves_the_scan_proved(read, sandbox, monkeypatch) -> None:
    deleted = min(sandbox.store.orgs)
    sorted_orgs = sandbox.store.sorted_orgs

    def list_then_delete(order_by: str):
        orgs = sorted_orgs(order_by)
        if deleted in sandbox.store.orgs:
            sandbox.store.delete_org(deleted)
        return orgs

    monkeypatch.setattr(sandbox.store, "sorted_orgs", list_then_delete)
    rows, result = read("org_details")["org_by_id"]
    assert {row["org_id"] for row in rows} == set(sandbox.store.orgs)
    assert (result.verdict, result.rows_read) == ("proved", len(rows))


def test_members_of_isolated_orgs_that_the_list_of_users_lacks_are_reported(read, sandbox, monkeypatch) -> None:
    isolated = max(sandbox.store.orgs, key=lambda org: sum(org in orgs for orgs in sandbox.store.of_user.values()))
    sandbox.store.update_org(isolated, isolated=True)
    _, details = read("org_details")["org_by_id"]
    assert details.reason == "new isolated orgs: 1. The next full load of user_query compares their numbers of members"
    known = {"resume_state_of": {ORG_BY_ID.scan: details.resume_state}.__getitem__}

    compared = read("users", **known)
    assert [(result.verdict, result.reason) for _, result in compared.values()] == [("proved", "")] * 2

    members = {user for user, orgs in sandbox.store.of_user.items() if isolated in orgs}
    sorted_users = sandbox.store.sorted_users
    monkeypatch.setattr(
        sandbox.store,
        "sorted_users",
        lambda order_by: [user for user in sorted_users(order_by) if user.user_id not in members],
    )
    for _, result in read("users", **known).values():
        assert result.verdict == "counted"
        assert result.reason.endswith(f"that the list of all users does not have: {len(members)}, in 1 orgs")

    again = read("org_details", resume_state=details.resume_state)["org_by_id"][1]
    assert again.reason == ""


@pytest.mark.parametrize(("status", "answer"), [(403, "status 403"), (500, "errors")])
def test_isolated_orgs_that_cannot_be_compared_fail_no_load(status, answer, read, sandbox) -> None:
    sandbox.store.update_org(min(sandbox.store.orgs), isolated=True)
    _, details = read("org_details")["org_by_id"]
    sandbox.faults.set("server_error", status, path="/api/backend/v1/user/org/")
    for _, result in read("users", resume_state_of=lambda _: details.resume_state).values():
        assert result.verdict == "counted"
        assert result.reason.endswith(f"isolated orgs were not compared: GET {USERS_IN_ORG} returned {answer}")


def test_the_id_of_an_employee_is_one_segment_of_the_path(read, sandbox) -> None:
    sandbox.store.update_user(min(sandbox.store.users), impersonator_user_id="../org/query")
    rows, result = read("employees")["employee"]
    assert next(row for row in rows if row["employee_id"] == "../org/query")["found"] is False
    assert result.rows_read == len(rows)
    assert f"{ORG}/query" not in {request.path for request in sandbox.requests}


def test_the_usage_per_key_is_only_read_on_request(read) -> None:
    rows, result = read("api_key_usage")["end_user_api_key_usage"]
    assert (len(rows), result.reason) == (0, "usage per API key was not requested (`--usage-per-key`)")


def test_the_usage_of_a_key_that_was_deleted_after_it_was_listed_has_no_invented_count(read, sandbox) -> None:
    sandbox.faults.parse("server_error=404,path=/api/backend/v1/end_user_api_keys/usage,after=31,requests=1")
    tables = read("api_key_usage", options=ReadOptions(usage_per_key=True))
    rows, result = tables["end_user_api_key_usage"]
    totals, of_all = tables["end_user_api_key_usage_total"]
    assert (of_all.verdict, of_all.reason, len(totals)) == ("proved", "", of_all.pages)
    assert result.verdict == "counted"
    assert result.reason.startswith("404 for 1 of ")
    assert len(rows) == result.rows_read == result.pages - 1
    assert result.resume_state.cursor["total"] == (datetime.now(UTC).date() - timedelta(days=1)).isoformat()
    unfinished = [key for key in {row["api_key_id"] for row in rows} if key not in result.resume_state.cursor]
    assert len(unfinished) == 1


def test_a_scan_result_is_frozen_and_has_the_resume_state_of_its_scan(read) -> None:
    results = [result for _, result in read("users").values()]
    with pytest.raises(AttributeError):
        results[0].verdict = "skipped"
    state = results[0].resume_state
    assert results[1].resume_state == state
    assert state.rows == {result.table_name: result.rows_read for result in results}
    assert ResumeState.from_json(state.to_json()) == state


@pytest.fixture
def large_group(sandbox) -> tuple[str, str]:
    """Return the org and the id of a SCIM group with 60 members, in an org with 60 groups."""
    store = sandbox.store
    org_id = next(iter(store.groups.values())).org_id
    groups = [store.add_scim_group(org_id, f"Group {number}") for number in range(60)]
    of_org = [group for group, found in store.groups.items() if found.org_id == org_id]
    for group_id in of_org[: len(of_org) - 60]:
        store.delete_scim_group(group_id)
    for user_id in [*store.users][:60]:
        store.add_to_scim_group(user_id, groups[30])
    return org_id, groups[30]


def _scim_of(sandbox) -> tuple[set[str], set[tuple[str, str]]]:
    """Return the groups and the members of the sandbox."""
    groups = sandbox.store.groups
    return set(groups), {(group_id, user_id) for group_id, group in groups.items() for user_id in group.member_ids}


def _scim_read(tables) -> tuple[set[str], set[tuple[str, str]]]:
    """Return the groups and the members that were read."""
    groups, members = tables["scim_groups"][0], tables["scim_group_members"][0]
    return {row["group_id"] for row in groups}, {(row["group_id"], row["user_id"]) for row in members}


@pytest.mark.parametrize(
    ("requested", "cap", "refused"), [(5, 100, False), (100, 7, False), (100, 50, True)], ids=["5", "7", "refused"]
)
def test_scim_is_read_to_its_end_with_any_page_size(requested, cap, refused, read, sandbox, large_group) -> None:
    sandbox.faults.update({"page_size_cap": cap, "page_size_refused": refused})
    assert _scim_read(read("scim", page_size=requested)) == _scim_of(sandbox)


@pytest.mark.parametrize("deleted", ["group", "member"])
def test_a_deletion_between_two_pages_of_scim_loses_no_row(deleted, read, sandbox, large_group, monkeypatch) -> None:
    org_id, group_id = large_group
    path = f"/api/backend/v1/scim/{org_id}/groups" + (f"/{group_id}" if deleted == "member" else "")
    get = Client.get

    def get_then_delete(client, requested, decode, params=None, **options):
        answer = get(client, requested, decode, params, **options)
        if requested == path and len(requests) < 2:
            requests.append(requested)
            if deleted == "group":
                of_org = (group for group, found in sandbox.store.groups.items() if found.org_id == org_id)
                sandbox.store.delete_scim_group(next(of_org))
            else:
                sandbox.store.remove_from_scim_group(sandbox.store.groups[group_id].member_ids[3], group_id)
        return answer

    requests: list[str] = []
    monkeypatch.setattr(Client, "get", get_then_delete)
    tables = read("scim", page_size=20)
    assert len(requests) == 2
    for found, expected in zip(_scim_read(tables), _scim_of(sandbox), strict=True):
        assert found >= expected


def test_groups_that_contradict_their_total_are_refused(read, sandbox, large_group) -> None:
    org_id, _ = large_group
    sandbox.faults.parse(f"repeated_page=0,path=/api/backend/v1/scim/{org_id}/groups")
    with pytest.raises(UnprovedScan, match="another number of groups than its total"):
        read("scim", page_size=20)


SCIM = "/api/backend/v1/scim"


@pytest.mark.parametrize("status", [402, 403, 404, 426])
def test_groups_are_not_removed_because_scim_is_not_available_for_their_org(status, read, sandbox, large_group) -> None:
    org_id, _ = large_group
    _, before = read("scim")["scim_groups"]
    sandbox.faults.parse(f"server_error={status},path={SCIM}/{org_id}/groups")
    with pytest.raises(LossRefused, match=f"had groups of 1 orgs for which .* now returns {status}"):
        read("scim", resume_state=before.resume_state)
    rows, result = read("scim", resume_state=before.resume_state, allow_loss=True)["scim_groups"]
    assert org_id not in {row["org_id"] for row in rows}
    assert f"1 of {len(sandbox.store.orgs)} orgs have no SCIM (status {status})" in result.reason
    sandbox.store.delete_org(org_id)
    assert read("scim", resume_state=before.resume_state)["scim_groups"][1].verdict == "counted"


def test_members_are_not_removed_because_their_group_returns_404_while_it_is_listed(
    read, sandbox, large_group, monkeypatch
) -> None:
    org_id, group_id = large_group
    sandbox.faults.parse(f"server_error=404,path={SCIM}/{org_id}/groups/{group_id}")
    with pytest.raises(UnprovedScan, match="returned 404 for a group that is listed"):
        read("scim")


@pytest.mark.parametrize("is_listed", [False, True])
def test_an_org_whose_groups_are_gone_while_their_members_are_read(
    is_listed, read, sandbox, large_group, monkeypatch
) -> None:
    org_id, group_id = large_group
    get, path = Client.get, f"{SCIM}/{org_id}/groups/{group_id}"

    def delete_then_get(client, requested, decode, params=None, **options):
        if requested == path and not is_deleted:
            is_deleted.append(True)
            if is_listed:
                sandbox.faults.parse(f"server_error=404,path={SCIM}/{org_id}/groups")
            else:
                sandbox.store.delete_org(org_id)
        return get(client, requested, decode, params, **options)

    is_deleted: list[bool] = []
    monkeypatch.setattr(Client, "get", delete_then_get)
    if is_listed:
        with pytest.raises(UnprovedScan, match=r"returned 404 for 1 orgs whose groups .* Run again\."):
            read("scim")
    else:
        assert {row["org_id"] for rows, _ in read("scim").values() for row in rows}.isdisjoint({org_id})


def test_members_that_the_key_may_not_read_skip_both_tables(read, sandbox, large_group) -> None:
    org_id, group_id = large_group
    sandbox.faults.parse(f"server_error=403,path={SCIM}/{org_id}/groups/{group_id}")
    assert {result.verdict for _, result in read("scim").values()} == {"skipped"}


def test_unexpected_fields_of_scim_members_are_kept(read, monkeypatch) -> None:
    get = Client.get

    def with_role(client, path, decode, params=None, **options):
        if "/groups/" not in path:
            return get(client, path, decode, params, **options)
        return decode(b'{"group_id": "g", "display_name": "G", "members": [{"user_id": "u", "role": "owner"}]}')

    monkeypatch.setattr(Client, "get", with_role)
    rows, _ = read("scim")["scim_group_members"]
    assert {row["role"] for row in rows} == {'"owner"'}


def test_a_look_up_that_finds_nothing_at_a_wrong_url_is_an_error(read, sandbox) -> None:
    options = ReadOptions(lookups={"user_by_email": ["nobody@example.com"]})
    assert read("user_by_email", options=options)["user_by_email"][0][0]["found"] is False
    sandbox.faults.parse("server_error=404")
    with pytest.raises(PermanentApiError, match="is not the auth URL of this environment"):
        read("user_by_email", options=options)


def test_a_value_to_look_up_that_is_not_utf_8_is_refused_before_any_request(read, sandbox) -> None:
    with pytest.raises(SettingsError, match=r"user_by_email: not valid UTF-8: value number 2\."):
        read("user_by_email", options=ReadOptions(lookups={"user_by_email": ["a@example.com", "\udcff@example.com"]}))


@pytest.mark.parametrize("created_at", ['"yesterday"', "1.5", "10000000000000", "null", "-5"])
def test_the_time_of_the_oldest_user_can_have_any_value(created_at, read, sandbox, monkeypatch) -> None:
    get = Client.get

    def changed(client, path, decode, params=None, **options):
        if path != USER_QUERY.path:
            return get(client, path, decode, params, **options)
        user = f'{{"user_id": "u", "created_at": {created_at}}}'
        return decode(f'{{"users": [{user}], "total_users": 1, "has_more_results": false}}'.encode())

    monkeypatch.setattr(insight_readers, "METRIC_DAYS_READ_AGAIN", 1)
    monkeypatch.setattr(Client, "get", changed)
    assert read("chart_metrics")["chart_metrics"][1].verdict == "proved"


def test_an_impersonator_of_another_type_is_left_out(read, sandbox) -> None:
    for user_id in sandbox.store.users:
        sandbox.store.update_user(user_id, impersonator_user_id=5)
    assert read("employees")["employee"][1].rows_read == 0


def test_the_usage_per_key_is_proved_only_if_the_list_of_keys_is(read, sandbox) -> None:
    options = ReadOptions(usage_per_key=True)
    tables = read("api_key_usage", page_size=10, options=options)
    assert tables["end_user_api_key_usage_total"][1].verdict == "proved"
    assert tables["end_user_api_key_usage"][1].verdict == "counted"


def test_the_cursor_of_recent_loads_needs_both_tables(read) -> None:
    both, one = (read("users", wanted=wanted) for wanted in (None, {"org_membership"}))
    assert both["user_query"][1].resume_state.cursor
    assert not one["org_membership"][1].resume_state.cursor


@pytest.mark.parametrize("time", ["null", '"today"', "1.5"])
def test_changes_are_found_with_times_of_any_type_and_without_the_invites(time, sandbox, settings, monkeypatch) -> None:
    sandbox.faults.parse("server_error=403,path=/api/backend/v1/pending_org_invites")
    get = Client.get

    def changed(client, path, decode, params=None, **options):
        if path != USER_QUERY.path:
            return get(client, path, decode, params, **options)
        return decode(f'{{"users": [{{"created_at": {time}, "last_active_at": 7}}], "total_users": 9}}'.encode())

    monkeypatch.setattr(Client, "get", changed)
    found = find_changes(Client(settings.tenant))
    assert (found.totals["users"], found.totals["invites"]) == (9, -1)
    assert found.newest == {"sign_up": 0, "activity": 7}


REPORT = "/api/backend/v1/user_report"


def test_a_report_that_is_not_available_is_named_and_the_others_are_counted(read, sandbox) -> None:
    sandbox.faults.parse(f"server_error=404,path={REPORT}/champion")
    rows, result = read("user_reports")["user_report"]
    assert {row["type"] for row in rows} == {"reengagement", "churn", "top_inviter"}
    assert (result.verdict, result.rows_read) == ("counted", len(rows))
    assert result.reason.startswith("Not available: champion 30: ")


def test_the_rows_of_a_report_are_not_replaced_by_none_because_it_is_not_available(read, sandbox) -> None:
    _, loaded = read("user_reports")["user_report"]
    sandbox.faults.parse(f"server_error=404,path={REPORT}/champion")
    with pytest.raises(LossRefused, match=r"rows of champion 30, .* returns 404 .*PROPELAUTH_ALLOW_LOSS=true"):
        read("user_reports", resume_state=loaded.resume_state)
    _, allowed = read("user_reports", resume_state=loaded.resume_state, allow_loss=True)["user_report"]
    assert {*allowed.resume_state.cursor["reports"]} < {*loaded.resume_state.cursor["reports"]}


@pytest.fixture
def recomputed(monkeypatch) -> None:
    """Each change of a user computes the reports of the sandbox again."""
    monkeypatch.setattr(insights, "_report_id", lambda store, name: str(uuid5(NAMESPACE_OID, f"{name} {store.now}")))


def test_a_report_that_is_computed_again_while_it_is_read_is_read_again(read, sandbox, recomputed, monkeypatch) -> None:
    get, requests = Client.get, []

    def get_then_compute(client, path, decode, params=None, **options):
        answer = get(client, path, decode, params, **options)
        if path == f"{REPORT}/churn":
            requests.append(path)
            if len(requests) == 5:
                sandbox.store.add_user()
        return answer

    monkeypatch.setattr(Client, "get", get_then_compute)
    rows, result = read("user_reports", page_size=20)["user_report"]
    assert len({row["report_id"] for row in rows if (row["type"], row["interval"]) == ("churn", "7")}) == 1
    assert result.rows_read == len(rows)


def test_a_report_that_is_computed_again_after_rows_were_returned_is_refused(
    settings, sandbox, recomputed, monkeypatch
) -> None:
    monkeypatch.setattr(lists, "BATCH_ROWS", 20)
    monkeypatch.setattr(lists, "PAGES_AHEAD", 1)
    client = Client(replace(settings.tenant, page_size=20, max_concurrency=1))

    def read_and_compute() -> None:
        for item in read_scan("user_reports", ScanContext(client=client)):
            if isinstance(item, Rows) and item.data["type"][0].as_py() == "churn":
                sandbox.store.add_user()

    with pytest.raises(UnprovedScan, match="computed the report churn 7 again while it was read"):
        read_and_compute()


@pytest.mark.parametrize("scan", ["mfa", "signup_query_parameters", "saml"])
def test_a_table_is_not_emptied_because_each_of_its_requests_returns_404(scan, read, monkeypatch) -> None:
    ((_, loaded),) = read(scan).values()
    monkeypatch.setattr(per_parent, "get_or_none", lambda *_: None)
    with pytest.raises(LossRefused, match=f"had {loaded.rows_read} rows .* now returns 0"):
        read(scan, resume_state=loaded.resume_state)
