"""Problems to alerts: one for each cause, and what is kept between two evaluations."""

from propel_assets.reporting.alerts import (
    MAX_LINES,
    MAX_NAMES,
    MAX_PENDING,
    Alert,
    AlertState,
    Cause,
    Problem,
    messages,
    problem_of,
)
from propel_assets.reporting.delivery import WEBHOOK_CHARACTERS, AlertTarget
from propel_assets.settings import AlertSettings

OUTAGE = Cause("Run failed: PropelAuth cannot be reached")
OTHER = Cause("Run failed: a setting is missing or invalid")


def problem(name: str, cause: Cause = OUTAGE, *, is_shared: bool = True) -> Problem:
    return Problem(cause, name, f"reason of {name}", is_shared)


def test_a_shared_cause_is_reported_once_and_recovers_when_nothing_has_it_any_more() -> None:
    state = AlertState()
    (alert,), _ = state.update({"a": problem("a"), "b": problem("b")})
    assert alert == Alert(OUTAGE.title, f"{OUTAGE.title}: 2 affected: a, b: reason of a", OUTAGE.title)
    assert state.update({"c": problem("c")}) == ([], [])
    assert state.update({"a": None, "b": None}) == ([], [])
    _, (recovery,) = state.update({"c": None})
    title = f"Recovered: {OUTAGE.title}"
    assert recovery == Alert(title, f"{title}: c", alert.incident, is_resolved=True)


def test_a_cause_that_is_not_shared_is_reported_for_each_further_name() -> None:
    state = AlertState()
    state.update({"a": problem("a", is_shared=False)})
    (alert,), _ = state.update({"a": problem("a", is_shared=False), "b": problem("b", is_shared=False)})
    assert alert.text == f"{OUTAGE.title}: b: reason of b"


def test_a_problem_whose_cause_changes_is_reported_and_its_former_cause_ends_without_a_recovery() -> None:
    state = AlertState()
    state.update({"a": problem("a")})
    (alert,), (ended,) = state.update({"a": problem("a", OTHER)})
    assert alert.title == OTHER.title
    assert ended.text == f"Replaced by another cause: {OUTAGE.title}: a"
    assert (ended.incident, ended.is_resolved) == (OUTAGE.incident, True)


def cause_of(text: str) -> Cause:
    return problem_of("Run failed", "refused", "a", text, "run-1", group_by=text).cause


def test_causes_with_the_same_title_are_incidents_of_their_own() -> None:
    one, other = (cause_of(f"GET /users returned {status}") for status in (403, 404))
    assert one.title == other.title
    assert one.incident != other.incident


def test_a_state_stored_before_alerts_had_incidents_is_read() -> None:
    stored = '{"seen": {}, "open_problems": {}, "pending": {"webhook": [["a", "b"]]}, "attempts": {"webhook": 1}}'
    assert AlertState.from_json(stored).pending == {"webhook": [Alert("a", "b")]}


def test_texts_that_differ_in_names_and_numbers_only_have_the_same_cause() -> None:
    texts = ("GET /org/query returned 403 after 2 requests", "GET /user/query returned 403 after 14 requests")
    same, also = (cause_of(text) for text in texts)
    assert same == also
    assert cause_of("GET /org/query returned 404 after 2 requests") != same
    assert cause_of("") == Cause("Run failed: refused")


def test_a_reason_is_short_and_has_no_address() -> None:
    reason = problem_of("Run failed", "refused", "a", "alice@example.com " + "x" * 2000, "run-1").reason
    assert "alice" not in reason
    assert len(reason) < 1000
    assert reason.endswith("Run: run-1.")


def test_a_state_is_the_same_after_it_was_stored() -> None:
    state = AlertState(seen={"RUN_FAILURE": 7})
    alerts, _ = state.update({"a": problem("a")})
    state.add_pending(alerts, ["webhook"])
    assert AlertState.from_json(state.to_json()) == state


def test_alerts_are_kept_while_a_setting_is_wrong() -> None:
    state, wrong = AlertState(), AlertSettings(webhook="ftp://example.com")
    state.deliver(wrong, [Alert("a", "a")], "", print)
    assert state.pending["webhook"] == [Alert("a", "a")]
    for _ in range(MAX_PENDING):
        state.deliver(wrong, [Alert("b", "b")], "", print)
    assert len(state.pending["webhook"]) == MAX_PENDING


def test_above_the_limit_the_oldest_alerts_are_left_out_and_one_alert_states_how_many() -> None:
    state, sent = AlertState(), [Alert(str(n), str(n)) for n in range(3 * MAX_PENDING)]
    state.add_pending(sent[:MAX_PENDING], ["webhook"])
    assert state.pending["webhook"] == sent[:MAX_PENDING]
    for alert in sent[MAX_PENDING : 2 * MAX_PENDING]:
        state.add_pending([alert], ["webhook"])
        state = AlertState.from_json(state.to_json())
    state.add_pending(sent[2 * MAX_PENDING :], ["webhook"])
    first, *newest = state.pending["webhook"]
    assert newest == sent[1 - MAX_PENDING :]
    assert first.left_out == len(sent) - len(newest)
    assert first.text.startswith(f"Alerts: older alerts are left out: {first.left_out} could not be delivered before ")
    assert "Look at the log of this sensor in Dagster, under Automation" in first.text
    ((title, text, is_resolved),) = messages([first, *newest], "", AlertTarget(print))
    assert title == f"PropelAuth: Alerts: older alerts are left out and {MAX_PENDING - 1} more"
    assert text.splitlines()[0] == f"- {first.text}"
    assert not is_resolved
    ((incident, _, _), *_) = messages([first, *newest], "", AlertTarget(print, opens_incidents=True))
    assert str(first.left_out) not in incident  # a later count is the same incident


def test_without_a_target_nothing_is_kept() -> None:
    state = AlertState()
    state.deliver(AlertSettings(), [Alert("a", "a")], "", print)
    assert state.pending == {}


def test_a_long_message_shows_how_much_is_left_out() -> None:
    alerts = [Alert(f"Stale: {n}", f"Stale: {n}: loaded") for n in range(MAX_LINES + 5)]
    ((title, text, is_resolved),) = messages(alerts, "staging", AlertTarget(print))
    assert not is_resolved
    assert title == f"PropelAuth staging: Stale: 0 and {MAX_LINES + 4} more"
    assert len(text.splitlines()) == MAX_LINES + 1
    assert text.endswith("... and 5 more: see Dagster.")


def test_a_long_list_of_names_is_cut() -> None:
    (alert,), _ = AlertState().update({str(n): problem(f"step{n}") for n in range(MAX_NAMES + 3)})
    assert f"step{MAX_NAMES - 1} and 3 more: reason of step0" in alert.text


def test_a_message_of_a_webhook_fits_into_the_limits_of_the_services() -> None:
    alerts = [Alert(f"Failed: {n}", f"Failed: {n}: {'reason ' * 70}") for n in range(23)]
    target = AlertTarget(print, max_characters=WEBHOOK_CHARACTERS)
    ((title, text, _),) = messages(alerts, "staging", target)
    assert len(title) + len(text) <= WEBHOOK_CHARACTERS
    assert [line[:12] for line in text.splitlines()[:-1]] == [f"- Failed: {n}:" for n in range(3)]
    assert text.endswith("... and 20 more: see Dagster.")
    ((title, text, _),) = messages([Alert("Failed", "reason " * 500)], "", target)
    assert len(title) + len(text) <= WEBHOOK_CHARACTERS
    assert text.endswith(" ...")
