"""Report failed runs and checks, stale assets, changed schemas and losses: once for each cause, until it is resolved.

The sensor reads ended runs from the event log, and keeps the open problems and the undelivered alerts in its
cursor. A run status sensor sees each run once and keeps nothing: it can neither wait for a webhook that is down nor
report that a problem is resolved.
"""

import hashlib
import json
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import dagster as dg

from propel_assets import errors
from propel_assets.catalog import BY_NAME, SCANS
from propel_assets.defs.automation import DAILY
from propel_assets.defs.changes import is_of_location
from propel_assets.defs.environment import Environment
from propel_assets.errors import LossRefused, OtherEnvironment, PropelError, SettingsError
from propel_assets.privacy.redaction import without_personal_data
from propel_assets.reporting import delivery
from propel_assets.settings import load_settings

ENDS = (dg.DagsterEventType.RUN_FAILURE, dg.DagsterEventType.RUN_SUCCESS)
RUNS_AT_ONCE = 100
# The daemon gives up on a tick after 60 s (DAGSTER_SENSOR_GRPC_TIMEOUT_SECONDS), and the cursor is lost then: reading
# the event log (this limit) and delivery (its own, 20 s) together stay below that. The next tick reads on.
READING_SECONDS = 20.0
MAX_LINES = 20  # in one message
MAX_NAMES = 30  # in one line
MAX_TEXT = 700  # characters of a reason
MAX_ATTEMPTS = 1024  # ticks: 17 hours
MAX_PENDING = 200  # lines for one target: the message shows the first 20, Dagster has the rest
LOSSES = {LossRefused.__name__, OtherEnvironment.__name__}

WHAT_TO_DO = {
    "Run failed": "Open the run in Dagster, correct what the error names, then run the job again.",
    "Check failed": "Open the check in Dagster: it shows the evidence and the query.",
    "Schema changed": "New fields are kept in columns of their own. If a column is missing or has another type, check "
    "what reads it, and look for a newer propel-assets.",
    "Not loaded": "Charts and marts show old data until then.",
    "Unusual loss": "Nothing was replaced. Compare with PropelAuth's dashboard before you allow it.",
}
CAUSES = {
    "KeyRefused": "PropelAuth refused the API key",
    "Unreachable": "PropelAuth cannot be reached",
    "TransientApiError": "PropelAuth answered with errors",
    "PermanentApiError": "PropelAuth refused a request",
    "UnprovedScan": "a scan cannot be proved complete",
    "SettingsError": "a setting is missing or invalid",
    "LossRefused": "too many rows are gone",
    "OtherEnvironment": "the tables belong to another environment",
    "WarehouseError": "the warehouse refused the load",
    "WarehouseClosed": "the database cannot be opened",
    "WarehouseBusy": "another process has the database open",
    "UnexpectedError": "an unexpected error occurred",
    "PropelError": "an error occurred",
}
"""The cause that each class of error stands for. A class without an entry has that of its base class."""


@dataclass
class AlertState:
    """The sensor's cursor.

    Attributes:
        seen: storage id of the last run end that was read, by kind of end.
        open_problems: the cause of each problem, by what it affects: a step, a job, a check, the age of an asset.
        pending: alerts that are not delivered yet, by target.
        attempts: ticks since the newest of them, by target.
    """

    seen: dict[str, int] = field(default_factory=dict)
    open_problems: dict[str, str] = field(default_factory=dict)
    pending: dict[str, list[str]] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Problem:
    """A problem as it is first reported.

    Attributes:
        cause: what problems are grouped by, as text; behind ` #` a digest tells causes with the same text apart.
        name: the step, job, check or asset that it affects.
        reason: what happened, and what to do.
        is_shared: whether the cause affects everything: then it is not reported again for each further step.
    """

    cause: str
    name: str
    reason: str
    is_shared: bool = False


@dataclass(frozen=True)
class Scope:
    """What the sensor of one environment reports on: the rest of the code location has alerts of its own.

    Attributes:
        environment: the environment.
        assets: keys of its assets.
        ops: names of its ops.
        jobs: names of its jobs.
    """

    environment: Environment
    assets: frozenset[dg.AssetKey]
    ops: frozenset[str]
    jobs: frozenset[str]

    def has_run(self, run: dg.DagsterRun) -> bool:
        """Return whether a run is one of these jobs, or materializes or checks one of these assets."""
        checked = {key.asset_key for key in run.asset_check_selection or ()}
        return run.job_name in self.jobs or bool(self.assets & ({*(run.asset_selection or ())} | checked))

    def has_step(self, key: str) -> bool:
        """Return whether a step is one of these ops."""
        return key.split(".")[-1] in self.ops


def build_alerts_sensor(
    environment: Environment, definitions: Sequence[dg.AssetsDefinition], jobs: Sequence[Any]
) -> list[dg.SensorDefinition]:
    """Return the sensor that sends alerts; none where it is left out."""
    if not environment.config.alerts:
        return []
    scope = Scope(
        environment,
        frozenset(key for definition in definitions for key in definition.keys),
        frozenset(definition.node_def.name for definition in definitions),
        frozenset(job.name for job in jobs),
    )

    @dg.sensor(
        name=environment.named("alerts"),
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description="Reports failures, stale assets, schema changes and losses, and what to do: once per cause, and "
        "once when it is resolved. Logs the alerts, posts them to PROPELAUTH_ALERT_WEBHOOK and sends them by "
        "PROPELAUTH_ALERT_SMTP, where these are set.",
    )
    def alerts(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        return _report(context, scope)

    return [alerts]


def _report(context: dg.SensorEvaluationContext, scope: Scope) -> dg.SkipReason:
    """Report what is new since the last tick, and save the state."""
    state = AlertState(**json.loads(context.cursor)) if context.cursor else _first_state(context.instance)
    findings: dict[str, Problem | None] = {}
    for run, event in _ended_runs(context, state):
        findings |= _findings_of(context.instance, scope, run, event)
    findings |= _stale_assets(context, scope)
    before = state.open_problems
    state.open_problems = _open_problems(before, findings)
    new, resolved = _alert_lines(before, findings), _recovery_lines(before, state.open_problems)
    for line in new:
        context.log.error(line)
    for line in resolved:
        context.log.info(line)
    _deliver(context, scope.environment.name, state, [*new, *resolved])
    context.update_cursor(json.dumps(asdict(state)))
    causes = set(state.open_problems.values())
    undelivered = f" Not delivered yet: {', '.join(state.pending)}." if state.pending else ""
    return dg.SkipReason(f"{len(causes)} open problems, {len(new)} new alerts.{undelivered}")


# --- events to problems ---


def _first_state(instance: dg.DagsterInstance) -> AlertState:
    """Return a state that begins now: runs that ended before the sensor was turned on are not reported."""
    last = {kind: instance.fetch_run_status_changes(kind, limit=1).records for kind in ENDS}
    return AlertState(seen={kind.value: records[0].storage_id if records else 0 for kind, records in last.items()})


def _ended_runs(
    context: dg.SensorEvaluationContext, state: AlertState
) -> Iterator[tuple[dg.DagsterRun, dg.DagsterEvent]]:
    """Yield the runs that ended since the last tick, in order, and mark each as seen. Stops at the time limit."""
    instance, ended, deadline = context.instance, [], time.monotonic() + READING_SECONDS
    for kind in ENDS:
        newer = dg.RunStatusChangeRecordsFilter(kind, after_storage_id=state.seen[kind.value])
        found = instance.fetch_run_status_changes(newer, limit=RUNS_AT_ONCE, ascending=True).records
        ended += [(record.storage_id, kind, record) for record in found]
    for storage_id, kind, record in sorted(ended, key=lambda end: end[0]):
        run, event = instance.get_run_by_id(record.run_id), record.event_log_entry.dagster_event
        origin = run and run.remote_job_origin and run.remote_job_origin.repository_origin
        if run and event and is_of_location(context, origin):
            yield run, event
        state.seen[kind.value] = storage_id
        if time.monotonic() > deadline:
            context.log.info("Not every ended run was read in time. The next tick continues.")
            return


def _findings_of(
    instance: dg.DagsterInstance, scope: Scope, run: dg.DagsterRun, end: dg.DagsterEvent
) -> dict[str, Problem | None]:
    """Return the problem of each step and check of ``run``, or None where it succeeded."""
    kinds = dg.DagsterEventType
    wanted = {kinds.STEP_FAILURE, kinds.STEP_SUCCESS, kinds.ASSET_CHECK_EVALUATION}
    findings: dict[str, Problem | None] = {}
    failed_steps = 0
    for entry in instance.all_logs(run.run_id, of_type=wanted):
        event = entry.dagster_event
        if event is None:
            continue
        if event.event_type == kinds.ASSET_CHECK_EVALUATION:
            found = event.asset_check_evaluation_data
            if found.asset_key not in scope.assets:
                continue
            findings[f"{found.asset_key.to_user_string()}: {found.check_name}"] = _failed_check(found, run)
        else:
            failed = event.event_type == kinds.STEP_FAILURE
            failed_steps += failed
            if not scope.has_step(event.step_key or ""):
                continue
            findings[f"step {event.step_key}"] = _failed_step(event, run) if failed else None
    # The run ended before its first step, or its process died.
    has_no_step_to_name = end.event_type == kinds.RUN_FAILURE and not failed_steps
    if scope.has_run(run):
        findings[f"job {run.job_name}"] = _failed_run(end, run) if has_no_step_to_name else None
    return findings


def _failed_check(found: dg.AssetCheckEvaluation, run: dg.DagsterRun) -> Problem | None:
    """Return the problem of a check. A table that has never been loaded did not stop loading."""
    loaded_before = found.metadata.get("loaded_before")
    if found.passed or (loaded_before and not loaded_before.value):
        return None
    table, reason = found.asset_key.to_user_string(), found.description or "It did not hold."
    if found.check_name == "up_to_date" and (why := found.metadata.get("reason")):
        cause = _cause("Not loaded", str(why.value).partition(":")[0])
        return Problem(cause, table, _reason("Not loaded", reason, run))
    kind = "Schema changed" if found.check_name == "schema" else "Check failed"
    cause = f"{kind}: {found.check_name} ({found.severity.value})"
    return Problem(cause, table, _reason(kind, reason, run))


def _failed_step(event: dg.DagsterEvent, run: dg.DagsterRun) -> Problem | None:
    """Return the problem of a step; None if it failed because of a blocking check, which is reported itself."""
    data = event.step_failure_data
    if data.error is not None and data.error.cls_name == "DagsterAssetCheckFailedError":
        return None
    ours, name = data.user_failure_data, event.step_key or ""
    if ours is None or "error" not in ours.metadata:
        # Not an error of ours: its text may quote rows, so only its class is reported.
        inner = (data.error and data.error.cause) or data.error
        reason = f"{inner.cls_name if inner else 'an unknown error'} was raised."
        return Problem(_cause("Run failed", reason), name, _reason("Run failed", reason, run))
    error, text = str(ours.metadata["error"].value), ours.description or ""
    kind = "Unusual loss" if error in LOSSES else "Run failed"
    error_class = getattr(errors, error, PropelError)
    is_shared = error_class.concerns_every_scan
    # Texts of one outage differ: only a setting is named by its text.
    group = "" if is_shared and error != SettingsError.__name__ else _without_names(text)
    title = next(CAUSES[base.__name__] for base in error_class.__mro__ if base.__name__ in CAUSES)
    cause = _cause(kind, title, group)
    return Problem(cause, name, _reason(kind, text, run), is_shared)


def _failed_run(end: dg.DagsterEvent, run: dg.DagsterRun) -> Problem:
    """Return the problem of a run without a failed step. Messages of Dagster may quote rows: only codes are used."""
    data: Any = end.event_specific_data
    codes = [
        data.failure_reason.value.replace("_", " ").lower() if data and data.failure_reason else "",
        data.error.cls_name if data and data.error else "",
    ]
    reason = f"Dagster reports: {', '.join(filter(None, codes)) or 'no reason'}."
    return Problem(_cause("Run failed", "no step failed", reason), run.job_name, _reason("Run failed", reason, run))


def _stale_assets(context: dg.SensorEvaluationContext, scope: Scope) -> dict[str, Problem | None]:
    """Return a problem for each asset of a run of which an asset is older than its freshness policy allows.

    The assets of one run become stale within minutes of each other: they are one cause. Assets that have never been
    materialized are not stale.
    """
    graph = context.repository_def.asset_graph if context.repository_def else None
    if graph is None:
        return {}
    keys = scope.assets & graph.get_all_asset_keys()
    hours = {key: limit for key in keys if (limit := _hours(graph.get(key).freshness_policy))}
    ages: dict[str, dict[dg.AssetKey, float]] = defaultdict(dict)
    for record in context.instance.get_asset_records(list(hours)):
        if event := record.asset_entry.last_materialization:
            ages[event.run_id][record.asset_entry.asset_key] = (time.time() - event.timestamp) / 3600
    findings: dict[str, Problem | None] = {}
    for run_id, assets in ages.items():
        oldest = max(assets, key=lambda key: assets[key] - hours[key])
        is_stale = assets[oldest] > hours[oldest]
        schedule = scope.environment.named(DAILY)
        todo = f"Check that the schedule {schedule} is on, that dagster-daemon runs, and what the last run reports."
        reason = f"loaded {assets[oldest]:.0f} hours ago, expected within {hours[oldest]:.0f}. {todo}"
        for key in assets:
            name = key.to_user_string()
            problem = Problem(f"Stale: no later load #{run_id}", name, reason, is_shared=True)
            findings[f"{name}: age"] = problem if is_stale else None
    return findings


def _hours(policy: Any) -> float:
    window = getattr(policy, "warn_window", None)
    return window.to_timedelta().total_seconds() / 3600 if window else 0


# --- problems to alerts: one line for each cause ---


def _cause(kind: str, title: str, group: str = "") -> str:
    """Return the cause of a problem: ``kind`` and ``title``, and a digest of ``group`` where there is one."""
    return f"{kind}: {title}{f' #{hashlib.sha256(group.encode()).hexdigest()[:12]}' if group else ''}"


NAMES = "|".join(sorted({*BY_NAME, *SCANS}, key=len, reverse=True))
VARYING = re.compile(rf"\b(returned \d{{3}})\b|/\S+|\b(?:{NAMES})\b|\d[\d.,:]*")


def _without_names(text: str) -> str:
    """Return ``text`` without tables, paths and numbers other than a status: the same for every table it affects."""
    return VARYING.sub(lambda found: found[1] or "", text)


def _reason(kind: str, reason: str, run: dg.DagsterRun) -> str:
    reason = without_personal_data(reason)
    reason = reason if len(reason) <= MAX_TEXT else reason[:MAX_TEXT] + " ..."
    return f"{reason} {WHAT_TO_DO[kind]} Run: {run.run_id}."


def _open_problems(before: Mapping[str, str], findings: Mapping[str, Problem | None]) -> dict[str, str]:
    found = {key: problem.cause for key, problem in findings.items() if problem}
    return {key: cause for key, cause in before.items() if key not in findings} | found


def _alert_lines(before: Mapping[str, str], findings: Mapping[str, Problem | None]) -> list[str]:
    """Return one line for each cause that is new, or that affects more than before."""
    known, new = set(before.values()), defaultdict(list)
    for key, problem in findings.items():
        if problem and before.get(key) != problem.cause and not (problem.is_shared and problem.cause in known):
            new[problem.cause].append(problem)
    return [
        f"{_shown(cause)}: {_listed(p.name for p in problems)}: {problems[0].reason}" for cause, problems in new.items()
    ]


def _recovery_lines(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return one line for each cause of which nothing is left, unless its problems only changed their cause."""
    affected = defaultdict(list)
    for key, cause in before.items():
        affected[cause].append(key)
    resolved = {
        cause: keys
        for cause, keys in affected.items()
        if cause not in now.values() and not any(key in now for key in keys)
    }
    return [f"Recovered: {_shown(cause)}: {_listed(keys)}" for cause, keys in resolved.items()]


def _shown(cause: str) -> str:
    return cause.partition(" #")[0]


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    count = f"{len(names)} affected: " if len(names) > 1 else ""
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return f"{count}{', '.join(names[:MAX_NAMES])}{more}"


# --- delivery ---


def _deliver(context: dg.SensorEvaluationContext, environment: str, state: AlertState, lines: list[str]) -> None:
    """Send new and pending alerts. What fails is retried after 1, 2, 4, 8 ... ticks, and then given up."""
    try:
        settings = load_settings(environment=environment).alert_settings
        names = list(delivery.targets(settings))
    except SettingsError as error:  # new alerts wait until the setting is corrected
        context.log.warning(f"No alert can be delivered. {error}")
        for name in delivery.TARGETS:
            state.pending[name] = [*state.pending.get(name, []), *lines][:MAX_PENDING]
        return
    state.pending = {name: rest for name in names if (rest := [*state.pending.get(name, []), *lines][:MAX_PENDING])}
    state.attempts = {name: 1 if lines else state.attempts.get(name, 0) + 1 for name in state.pending}
    due = [name for name, attempts in state.attempts.items() if not attempts & (attempts - 1)]  # a power of two
    failures = delivery.deliver(settings, {name: message(state.pending[name], environment) for name in due})
    for name in due:
        gives_up = state.attempts[name] >= MAX_ATTEMPTS
        if reason := failures.get(name):
            context.log.warning(f"{reason} {'Given up.' if gives_up else 'It is retried.'}")
        if gives_up or not reason:
            del state.pending[name], state.attempts[name]


def message(lines: Sequence[str], environment: str) -> tuple[str, str]:
    """Return the title and the text of a message with ``lines``."""
    first = lines[0].split(": ")
    more = f" and {len(lines) - 1} more" if len(lines) > 1 else ""
    hidden = [f"... and {len(lines) - MAX_LINES} more: see Dagster."] if len(lines) > MAX_LINES else []
    title = f"PropelAuth{environment and ' '}{environment}: {': '.join(first[:2])}{more}"
    return title, "\n".join([f"- {line}" for line in lines[:MAX_LINES]] + hidden)
