"""The sensor that sends alerts: it reads ended runs from the event log and finds failures, schema changes and old data.

It keeps open problems and undelivered alerts in its cursor. A run status sensor evaluates each run once and keeps
nothing: it can neither wait for a webhook that is down nor report that a problem is resolved.
"""

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg

from propel_assets import errors
from propel_assets.catalog import AUTH_EVENT
from propel_assets.defs.automation import DAILY, REFRESH_RECENT
from propel_assets.defs.dagster_compat import events_of_run, is_blocking_check, is_run_of_location
from propel_assets.defs.environment import Environment
from propel_assets.defs.events import APPLY_EVENTS
from propel_assets.errors import LossRefused, PropelError, SettingsError, WebhookStoreError
from propel_assets.reporting.alerts import AlertState, Cause, Problem, problem_of
from propel_assets.reporting.delivery import targets
from propel_assets.settings import monitoring_settings
from propel_assets.webhooks.apply import open_store

ENDS = (dg.DagsterEventType.RUN_FAILURE, dg.DagsterEventType.RUN_SUCCESS)
RUNS_AT_ONCE = 100
FULL_STORE = 0.8
MAX_WAITING_SECONDS = 6 * 3600.0
# The daemon stops waiting for a tick after 60 s (DAGSTER_SENSOR_GRPC_TIMEOUT_SECONDS), and the cursor is lost then.
# Reading the event log, one connection (5 s) and one statement of the webhook store, and delivery (20 s) together
# take less.
READING_SECONDS = 20.0
STORE_SECONDS = 5.0
AGE = "age"
KILLED_CLASSES = (None, "ChildProcessCrashException")  # of Dagster's executors: of pods and of processes
KILLED = (
    "The process of the step ended without reporting an error. Likely causes: it was killed, it ran out of memory, or "
    "it crashed."
)
UNREPORTED_ENDS = (None, "UNEXPECTED_TERMINATION", "RUN_WORKER_RESTART")
"""Values of Dagster's reason for a failed run, if the process of the run ended without reporting an error."""


@dataclass(frozen=True)
class Scope:
    """The assets, ops and jobs that the sensor of one environment reports on.

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

    def has_run(self, run: dg.DagsterRun, planned: set[dg.AssetKey]) -> bool:
        """Return whether a run is one of these jobs, or materializes or checks one of these assets.

        ``planned`` are the assets of its plan: the run of a job that selects all its assets does not name them itself.
        """
        checked = {key.asset_key for key in run.asset_check_selection or ()}
        return run.job_name in self.jobs or bool(self.assets & ({*(run.asset_selection or ())} | checked | planned))

    def has_step(self, key: str) -> bool:
        """Return whether a step is one of these ops."""
        return key.split(".")[-1] in self.ops

    def is_defined(self, name: str, repository: dg.RepositoryDefinition | None) -> bool:
        """Return whether what a finding is about is still defined. Without ``repository``, jobs and checks are.

        ``name`` is `step STEP`, `step STEP of JOB`, `job JOB`, `ASSET: CHECK`, `ASSET: age`, or another name.
        """
        kind, _, rest = name.partition(" ")
        if kind == "step":
            return self.has_step(rest.split(" ")[0])
        if kind == "job":
            return not repository or repository.has_job(rest)
        asset, separator, check = name.rpartition(": ")
        if not separator:
            return True
        key = dg.AssetKey.from_user_string(asset)
        return key in self.assets and (check == AGE or not repository or _has_check(repository, key, check))


def _has_check(repository: dg.RepositoryDefinition, asset: dg.AssetKey, check: str) -> bool:
    definitions = repository.assets_defs_by_key.values()
    specs = [*(spec.key for definition in definitions for spec in definition.check_specs)]
    return dg.AssetCheckKey(asset, check) in {*specs, *repository.asset_checks_defs_by_key}


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
        "once when it is resolved. Logs the alerts, and sends them to PROPELAUTH_ALERT_WEBHOOK, PROPELAUTH_ALERT_SMTP "
        "and PROPELAUTH_ALERT_APPRISE, where these are set.",
    )
    def alerts(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        return _report(context, scope)

    return [alerts]


def _report(context: dg.SensorEvaluationContext, scope: Scope) -> dg.SkipReason:
    """Report what is new since the last tick, and save the state."""
    state = AlertState.from_json(context.cursor) if context.cursor else _first_state(context.instance)
    findings: dict[str, Problem | None] = {
        name: None for name in state.open_problems if not scope.is_defined(name, context.repository_def)
    }
    for run, event in _ended_runs(context, state):
        findings |= _findings_of(context.instance, scope, run, event)
    findings |= _stale_assets(context, scope)
    findings |= _webhook_store(scope.environment) | _alert_targets(scope.environment)
    new, resolved = state.update(findings)
    for alert in new:
        context.log.error(alert.text)
    for alert in resolved:
        context.log.info(alert.text)
    environment = scope.environment.name
    state.deliver(monitoring_settings(environment).alert_settings, [*new, *resolved], environment, context.log.warning)
    context.update_cursor(state.to_json())
    causes = set(state.open_problems.values())
    undelivered = f" Not delivered yet: {', '.join(state.pending)}." if state.pending else ""
    return dg.SkipReason(f"Open causes: {len(causes)}, new alerts: {len(new)}.{undelivered}")


# --- events to problems ---


def _first_state(instance: dg.DagsterInstance) -> AlertState:
    """Return a state that begins now: runs that ended before the sensor was turned on are not reported."""
    last = {kind: instance.fetch_run_status_changes(kind, limit=1).records for kind in ENDS}
    return AlertState(seen={kind.value: records[0].storage_id if records else 0 for kind, records in last.items()})


def _ended_runs(
    context: dg.SensorEvaluationContext, state: AlertState
) -> Iterator[tuple[dg.DagsterRun, dg.DagsterEvent]]:
    """Yield the runs that ended since the last tick, in order, and mark each as seen. Stops at the time limit."""
    instance, deadline = context.instance, time.monotonic() + READING_SECONDS
    ended: list[tuple[int, dg.DagsterEventType, dg.EventLogRecord]] = []
    last = math.inf  # a later run of one kind waits for the earlier ones of the other
    for kind in ENDS:
        newer = dg.RunStatusChangeRecordsFilter(kind, after_storage_id=state.seen[kind.value])
        found = instance.fetch_run_status_changes(newer, limit=RUNS_AT_ONCE, ascending=True).records
        ended += [(record.storage_id, kind, record) for record in found]
        if len(found) == RUNS_AT_ONCE:
            last = min(last, found[-1].storage_id)
    for storage_id, kind, record in sorted(ended, key=lambda end: end[0]):
        if storage_id > last:
            return
        run, event = instance.get_run_by_id(record.run_id), record.event_log_entry.dagster_event
        if run and event and is_run_of_location(context, run):
            yield run, event
        state.seen[kind.value] = storage_id
        if time.monotonic() > deadline:
            context.log.info("Not every ended run was read in time. The next tick continues.")
            return


def _findings_of(
    instance: dg.DagsterInstance, scope: Scope, run: dg.DagsterRun, end: dg.DagsterEvent
) -> dict[str, Problem | None]:
    """Return the problem of each step and check of ``run``, or None where it succeeded.

    A load of recent changes runs the same steps as a full load, and does not show that a full load succeeds.
    """
    recent_job = scope.environment.named(REFRESH_RECENT)
    kinds = dg.DagsterEventType
    wanted = {kinds.STEP_FAILURE, kinds.STEP_SUCCESS, kinds.ASSET_CHECK_EVALUATION, kinds.ASSET_MATERIALIZATION_PLANNED}
    wanted |= {kinds.RUN_START, kinds.RUN_CANCELING}
    findings: dict[str, Problem | None] = {}
    planned: set[dg.AssetKey] = set()
    states: set[dg.DagsterEventType] = set()
    failed_steps = 0
    for event in events_of_run(instance, run.run_id, wanted):
        if event.event_type == kinds.ASSET_MATERIALIZATION_PLANNED:
            planned.add(event.asset_materialization_planned_data.asset_key)
        elif event.event_type in (kinds.RUN_START, kinds.RUN_CANCELING):
            states.add(event.event_type)
        elif event.event_type == kinds.ASSET_CHECK_EVALUATION:
            found = event.asset_check_evaluation_data
            if found.asset_key not in scope.assets:
                continue
            findings[f"{found.asset_key.to_user_string()}: {found.check_name}"] = _failed_check(found, run)
        else:
            failed = event.event_type == kinds.STEP_FAILURE
            failed_steps += failed
            if not scope.has_step(event.step_key or ""):
                continue
            step, problem = f"step {event.step_key}", _failed_step(event, run) if failed else None
            if run.job_name == recent_job:
                findings[f"{step} of {recent_job}"] = problem
            else:
                findings[step] = problem
                if not failed:  # a full load that succeeds resolves the problem of the recent load too
                    findings[f"{step} of {recent_job}"] = None
    if scope.has_run(run, planned):
        if end.event_type == kinds.RUN_SUCCESS:
            findings[f"job {run.job_name}"] = None
        elif not failed_steps:
            findings[f"job {run.job_name}"] = _failed_run(end, run, states)
    return findings


def _failed_check(found: dg.AssetCheckEvaluation, run: dg.DagsterRun) -> Problem | None:
    """Return the problem of a check; None if it passed, or if its table has never been loaded."""
    loaded_before = found.metadata.get("loaded_before")
    if found.passed or (loaded_before and not loaded_before.value):
        return None
    table, reason = found.asset_key.to_user_string(), found.description or "The check failed."
    if found.check_name == "up_to_date" and (why := found.metadata.get("reason")):
        return problem_of("Not loaded", str(why.value).partition(":")[0], table, reason, run.run_id)
    kind = "Schema changed" if found.check_name == "schema" else "Check failed"
    return problem_of(kind, f"{found.check_name} ({found.severity.value})", table, reason, run.run_id)


def _failed_step(event: dg.DagsterEvent, run: dg.DagsterRun) -> Problem | None:
    """Return the problem of a step; None if it failed because of a blocking check, which is reported itself."""
    data = event.step_failure_data
    if is_blocking_check(data.error):
        return None
    ours, name = data.user_failure_data, event.step_key or ""
    if ours is None or "error" not in ours.metadata:
        # Not an error of ours: its text may quote rows, so only its class is reported.
        inner = (data.error and data.error.cause) or data.error
        class_name = inner.cls_name if inner else None
        reason = KILLED if class_name in KILLED_CLASSES else f"{class_name} was raised."
        return problem_of("Run failed", reason, name, reason, run.run_id)
    text = ours.description or ""
    error: type[PropelError] = getattr(errors, str(ours.metadata["error"].value), PropelError)
    kind = "Unusual loss" if issubclass(error, LossRefused) else "Run failed"
    is_shared = error.concerns_every_scan
    # The texts of one outage differ. Of the shared causes, only settings differ by their text.
    has_one_cause = is_shared and not issubclass(error, SettingsError)
    group_by = "" if has_one_cause else text
    return problem_of(kind, error.title, name, text, run.run_id, group_by=group_by, is_shared=is_shared)


def _failed_run(end: dg.DagsterEvent, run: dg.DagsterRun, states: set[dg.DagsterEventType]) -> Problem:
    """Return the problem of a run without a failed step. Messages of Dagster may quote rows: only codes are used.

    ``states``: which of the states RUN_START and RUN_CANCELING the run has had.
    """
    data: Any = end.event_specific_data
    code = data.failure_reason.value if data and data.failure_reason else None
    class_name = data.error.cls_name if data and data.error else ""
    if class_name or code not in UNREPORTED_ENDS:
        title = "outside of its steps"
        codes = [code.replace("_", " ").lower() if code else "", class_name]
        reason = f"Dagster reports: {', '.join(filter(None, codes))}."
    elif dg.DagsterEventType.RUN_CANCELING in states:
        title = "Dagster stopped it"
        reason = "Likely cause: it took longer than `max_runtime_seconds` of Dagster's run monitoring."
    elif dg.DagsterEventType.RUN_START in states:
        title = "its process ended"
        reason = (
            "It reported no error. Likely causes: it was killed, it ran out of memory, or its machine was lost. "
            "The log of the run in Dagster has a signal or a status, if Dagster knows one."
        )
    else:
        title = "it did not start"
        reason = "Dagster could not start its process. The log of the run in Dagster has the error."
    return problem_of("Run failed", title, run.job_name, reason, run.run_id, group_by=reason)


def _stale_assets(context: dg.SensorEvaluationContext, scope: Scope) -> dict[str, Problem | None]:
    """Return a problem for each asset of a run if one of them is older than its freshness policy allows.

    The assets of one run become stale within minutes of each other, so they have one cause. Assets that have never been
    materialized are not stale.
    """
    found = context.repository_def.assets_defs_by_key if context.repository_def else {}
    policies = {key: found[key].get_asset_spec(key).freshness_policy for key in scope.assets & found.keys()}
    hours = {key: limit for key, policy in policies.items() if (limit := _hours(policy))}
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
            problem = Problem(Cause("Stale: no later load", run_id), name, reason, is_shared=True)
            findings[f"{name}: {AGE}"] = problem if is_stale else None
    return findings


def _webhook_store(environment: Environment) -> dict[str, Problem | None]:
    """Return the problem of the webhook store: it cannot be read, is nearly full, or its events are not loaded."""
    name = "webhook store"
    if AUTH_EVENT not in environment.tables:
        return {name: None}
    try:
        with open_store(monitoring_settings(environment.name).webhook_store, statement_seconds=STORE_SECONDS) as store:
            if store is None:
                return {name: None}
            status = store.status()
    except (WebhookStoreError, SettingsError) as error:
        return {name: Problem(Cause("Webhooks: the store cannot be read"), name, str(error))}
    used, oldest = status.share_used, status.oldest_received_at
    job = environment.named(APPLY_EVENTS)
    waiting = time.time() - oldest.timestamp() if oldest else 0.0
    todo = f"Turn on the sensor {environment.named('events')}, and open the last run of {job}."
    if used >= FULL_STORE:
        reason = (
            f"{used:.0%} full. A full store refuses webhooks, and Svix stops its retries after about 27 hours. {todo}"
        )
        return {name: Problem(Cause("Webhooks: the store is nearly full"), name, reason)}
    if waiting > MAX_WAITING_SECONDS:
        reason = (
            f"the oldest event has waited for {waiting / 3600:.0f} hours. {todo} If the run reports errors of "
            "PropelAuth for some users or orgs, only their events wait."
        )
        return {name: Problem(Cause("Webhooks: events are not loaded"), name, reason)}
    return {name: None}


def _alert_targets(environment: Environment) -> dict[str, Problem | None]:
    """Return the problem of the targets of alerts that cannot be used. The other targets receive it."""
    name = "alert targets"
    _, unusable = targets(monitoring_settings(environment.name).alert_settings)
    reason = f"{', '.join(unusable)} cannot be used. {' '.join(unusable.values())}"
    return {name: Problem(Cause("Alerts: a target cannot be used"), name, reason) if unusable else None}


def _hours(policy: Any) -> float:
    window = getattr(policy, "warn_window", None)
    return window.to_timedelta().total_seconds() / 3600 if window else 0
