"""What people should know of, told once: failed steps and checks, stale assets, changed schemas, losses.

The sensor `alerts` follows runs by the event log, and keeps in its cursor what is wrong now and what could not be
delivered yet. A run status sensor would see each run once and forget it: it can neither wait for a webhook that is
down nor know that something is still broken.
"""

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import dagster as dg

from propel_assets.defs.delivery import TARGETS, NotDelivered, targets
from propel_assets.errors import LossRefused, OtherEnvironment, SettingsError
from propel_assets.settings import environment_name, load_settings
from propel_assets.warehouse.load import without_personal_data

ENDS = (dg.DagsterEventType.RUN_FAILURE, dg.DagsterEventType.RUN_SUCCESS)
RUNS_AT_ONCE = 100
SHOWN = 20  # problems in one message
MAX_TEXT = 700  # characters of a reason
MAX_TRIES = 1024  # ticks: 17 hours
LOSSES = {LossRefused.__name__, OtherEnvironment.__name__}

WHAT_TO_DO = {
    "Run failed": "Open the run in Dagster, put right what it names, then run the job again.",
    "Check failed": "Open the check in Dagster: it shows the evidence and the query.",
    "Schema changed": "New fields are kept in columns of their own. If one is missing or has another type, see what "
    "reads it, and look for a newer propel-assets.",
    "Unusual loss": "Nothing was replaced. Compare with PropelAuth's dashboard before you allow it.",
    "Stale": "See that the schedule refresh_daily is on, that dagster-daemon runs, and what the last run says.",
}


@dataclass
class Memory:
    """The sensor's cursor: ends of runs seen by kind, what is wrong now, what each target has not been told yet."""

    seen: dict[str, int] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)
    waiting: dict[str, list[str]] = field(default_factory=dict)
    tries: dict[str, int] = field(default_factory=dict)


@dg.sensor(
    name="alerts",
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Says what failed, what is stale, what changed, and what to do: once, until it is well again. Logs it, "
    "posts it to PROPELAUTH_ALERT_WEBHOOK and mails it by PROPELAUTH_ALERT_SMTP, where they are set.",
)
def alerts(context: dg.SensorEvaluationContext) -> dg.SkipReason:  # noqa: D103
    memory = Memory(**json.loads(context.cursor)) if context.cursor else _begin(context.instance)
    told = dict(memory.wrong)
    for run, event in _ended_runs(context, memory):
        _follow(context.instance, run, event, memory.wrong)
    _look_for_stale(context, memory.wrong)
    new = [text for key, text in memory.wrong.items() if key not in told]
    well = [f"Well again: {key}" for key in told if key not in memory.wrong]
    for text in new:
        context.log.error(text)
    for text in well:
        context.log.info(text)
    _deliver(context, memory, [*new, *well])
    context.update_cursor(json.dumps(asdict(memory)))
    waiting = f" Not delivered yet: {', '.join(memory.waiting)}." if memory.waiting else ""
    return dg.SkipReason(f"{len(memory.wrong)} wrong now, {len(new)} of them new.{waiting}")


# --- what is wrong ---


def _begin(instance: dg.DagsterInstance) -> Memory:
    """Return a memory that begins now: what failed before somebody turned alerts on is known."""
    last = {kind: instance.fetch_run_status_changes(kind, limit=1).records for kind in ENDS}
    return Memory(seen={kind.value: records[0].storage_id if records else 0 for kind, records in last.items()})


def _ended_runs(context: dg.SensorEvaluationContext, memory: Memory) -> Iterator[tuple[dg.DagsterRun, dg.DagsterEvent]]:
    """Yield the runs that ended since the last tick, in their order, and remember them as seen."""
    instance, ended = context.instance, []
    for kind in ENDS:
        newer = dg.RunStatusChangeRecordsFilter(kind, after_storage_id=memory.seen[kind.value])
        found = instance.fetch_run_status_changes(newer, limit=RUNS_AT_ONCE, ascending=True).records
        ended += found
        if found:
            memory.seen[kind.value] = found[-1].storage_id
    for record in sorted(ended, key=lambda record: record.timestamp):
        run, event = instance.get_run_by_id(record.run_id), record.event_log_entry.dagster_event
        if run and event and _is_ours(context, run):
            yield run, event


def _is_ours(context: dg.SensorEvaluationContext, run: dg.DagsterRun) -> bool:
    """Tell whether the run is of this code location; others may share the instance."""
    here, origin = context.code_location_origin, run.remote_job_origin
    if here is None or origin is None:
        return True
    return origin.repository_origin.code_location_origin.location_name == here.location_name


def _follow(instance: dg.DagsterInstance, run: dg.DagsterRun, end: dg.DagsterEvent, wrong: dict[str, str]) -> None:
    """Add to ``wrong`` what the run found broken, and take out what it found well."""
    kinds = dg.DagsterEventType
    wanted = {kinds.STEP_FAILURE, kinds.STEP_SUCCESS, kinds.ASSET_CHECK_EVALUATION}
    failed_steps = 0
    for entry in instance.all_logs(run.run_id, of_type=wanted):
        event = entry.dagster_event
        if event is None:
            continue
        if event.event_type == kinds.ASSET_CHECK_EVALUATION:
            found = event.asset_check_evaluation_data
            key = f"{found.asset_key.to_user_string()}: {found.check_name}"
            kind = "Schema changed" if found.check_name == "schema" else "Check failed"
            text = _text(kind, f"{key} ({found.severity.value})", found.description or "It did not hold.", run)
            _set(wrong, key, None if found.passed else text)
        else:
            key = f"step {event.step_key}"
            failed = event.event_type == kinds.STEP_FAILURE
            failed_steps += failed
            _set(wrong, key, _failed_step(event, run) if failed and not _by_a_check(event) else None)
    lost = end.event_type == kinds.RUN_FAILURE and not failed_steps  # before its first step, or its process died
    reason = end.message or "It ended without a reason."
    _set(wrong, f"job {run.job_name}", _text("Run failed", run.job_name, reason, run) if lost else None)


def _by_a_check(event: dg.DagsterEvent) -> bool:
    """Tell whether a step failed because a blocking check did: that is told as the check."""
    error = event.step_failure_data.error
    return error is not None and error.cls_name == "DagsterAssetCheckFailedError"


def _failed_step(event: dg.DagsterEvent, run: dg.DagsterRun) -> str:
    data = event.step_failure_data
    ours = data.user_failure_data
    name = ours.metadata.get("error") if ours else None
    kind = "Unusual loss" if name and name.value in LOSSES else "Run failed"
    reason = (ours.description if ours else "") or (data.error.message if data.error else event.message) or ""
    return _text(kind, f"{run.job_name}, step {event.step_key}", reason, run)


def _text(kind: str, what: str, reason: str, run: dg.DagsterRun) -> str:
    reason = without_personal_data(reason)
    reason = reason if len(reason) <= MAX_TEXT else reason[:MAX_TEXT] + " ..."
    return f"{kind}: {what}: {reason} {WHAT_TO_DO[kind]} Run: {run.run_id}."


def _set(wrong: dict[str, str], key: str, text: str | None) -> None:
    """Keep the text of what was wrong before: it has been told so."""
    if text is None:
        wrong.pop(key, None)
    else:
        wrong.setdefault(key, text)


def _look_for_stale(context: dg.SensorEvaluationContext, wrong: dict[str, str]) -> None:
    """Add what is older than its freshness policy warns of. What was never loaded is not stale."""
    graph = context.repository_def.asset_graph if context.repository_def else None
    if graph is None:
        return
    hours = {key: limit for key in graph.get_all_asset_keys() if (limit := _hours(graph.get(key).freshness_policy))}
    for record in context.instance.get_asset_records(list(hours)):
        key = record.asset_entry.asset_key
        event = record.asset_entry.last_materialization
        if event is None:
            continue
        age = (time.time() - event.timestamp) / 3600
        what = f"Stale: {key.to_user_string()}: loaded {age:.0f} hours ago, expected within {hours[key]:.0f}."
        _set(wrong, f"{key.to_user_string()}: age", f"{what} {WHAT_TO_DO['Stale']}" if age > hours[key] else None)


def _hours(policy: Any) -> float:
    window = getattr(policy, "warn_window", None)
    return window.to_timedelta().total_seconds() / 3600 if window else 0


# --- telling it ---


def _deliver(context: dg.SensorEvaluationContext, memory: Memory, lines: list[str]) -> None:
    """Send what is new and what is waiting. What fails waits: for 1, 2, 4, 8 ... ticks, and then no more."""
    try:
        known = targets(load_settings())
    except SettingsError as error:  # what is new waits until it is put right
        context.log.warning(f"No alert can be delivered. {error}")
        for name in TARGETS:
            memory.waiting[name] = [*memory.waiting.get(name, []), *lines]
        return
    memory.waiting = {name: rest for name in known if (rest := [*memory.waiting.get(name, []), *lines])}
    for name, rest in list(memory.waiting.items()):
        tries = memory.tries[name] = 1 if lines else memory.tries.get(name, 0) + 1
        if tries & (tries - 1):  # not a power of two
            continue
        try:
            known[name](*message(rest))
        except NotDelivered as error:
            last = tries >= MAX_TRIES
            context.log.warning(f"{error} {'Given up.' if last else 'It is tried again.'}")
            if not last:
                continue
        del memory.waiting[name], memory.tries[name]


def message(lines: Iterable[str]) -> tuple[str, str]:
    """Return the title and the text that say ``lines``."""
    lines, environment = list(lines), environment_name()
    first = lines[0].split(": ")
    more = f" and {len(lines) - 1} more" if len(lines) > 1 else ""
    hidden = [f"... and {len(lines) - SHOWN} more: see Dagster."] if len(lines) > SHOWN else []
    title = f"PropelAuth{environment and ' '}{environment}: {': '.join(first[:2])}{more}"
    return title, "\n".join([f"- {line}" for line in lines[:SHOWN]] + hidden)
