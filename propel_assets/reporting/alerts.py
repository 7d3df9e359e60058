"""Problems to alerts: one alert for each cause that lists what it affects, and one when it is resolved."""

import hashlib
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

from propel_assets.catalog import BY_NAME, SCANS
from propel_assets.privacy.redaction import without_personal_data
from propel_assets.reporting import delivery
from propel_assets.reporting.delivery import AlertTarget, Message
from propel_assets.settings import AlertSettings
from propel_assets.warehouse.locks import Log

MAX_LINES = 20  # in one message
MAX_NAMES = 30  # in one line
MARGIN = 100  # characters of a message for its last line, and for markup that is escaped
MAX_TEXT = 700  # characters of a reason
MAX_ATTEMPTS = 1024  # ticks of the sensor: 17 hours
MAX_PENDING = 200  # alerts for one target, with the one that states how many are left out

WHAT_TO_DO = {
    "Run failed": "Open the run in Dagster, correct the cause, then run the job again.",
    "Check failed": "Open the check in Dagster: it shows the evidence and the query.",
    "Schema changed": "New fields are kept in columns of their own. If a column is missing or has another type, check "
    "what reads it, and look for a newer propel-assets.",
    "Not loaded": "Charts and marts show old data until the table is loaded.",
    "Unusual loss": "Nothing was replaced. Compare with PropelAuth's dashboard before you set "
    "PROPELAUTH_ALLOW_LOSS=true.",
}
"""By kind of alert. The alert `Stale` names a schedule instead."""
NAMES = "|".join(sorted({*BY_NAME, *SCANS}, key=len, reverse=True))
VARYING = re.compile(rf"\b(returned \d{{3}})\b|/\S+|\b(?:{NAMES})\b|\d[\d.,:]*")
"""What differs between the reasons of one cause: paths, names of tables and scans, numbers other than a status."""


class Cause(NamedTuple):
    """What problems are grouped by: the title of their alert, and a digest that tells equal titles apart."""

    title: str
    group: str = ""

    @property
    def incident(self) -> str:
        """The title, with the digest."""
        return f"{self.title} ({self.group})" if self.group else self.title


class Alert(NamedTuple):
    """One alert.

    Attributes:
        title: what happened.
        text: the same, and what is affected, in one line.
        incident: identifies the cause: the alert that resolves it has the same.
        is_resolved: whether the cause affects nothing any more.
        left_out: how many other alerts it stands for, which are not delivered.
    """

    title: str
    text: str
    incident: str = ""
    is_resolved: bool = False
    left_out: int = 0


@dataclass(frozen=True)
class Problem:
    """A problem as it is first reported.

    Attributes:
        cause: the cause.
        name: the step, job, check or asset that it affects.
        reason: what happened, and what to do.
        is_shared: whether the cause affects every load: then it is not reported again for each further step.
    """

    cause: Cause
    name: str
    reason: str
    is_shared: bool = False


Findings = Mapping[str, Problem | None]
"""By what was examined (a step, a job, a check, the age of an asset): its problem, or None."""


def problem_of(
    kind: str, title: str, name: str, text: str, run_id: str, *, group_by: str = "", is_shared: bool = False
) -> Problem:
    """Return the problem of a run.

    Args:
        kind: the kind of alert.
        title: the cause.
        name: the step, job, check or asset that it affects.
        text: what happened.
        run_id: the run.
        group_by: a text that tells causes of the same title apart, by more than names and numbers.
        is_shared: whether the cause affects every load.
    """
    varying = VARYING.sub(lambda found: found[1] or "", group_by)
    digest = hashlib.sha256(varying.encode()).hexdigest()[:12] if group_by else ""
    text = without_personal_data(text)
    text = text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + " ..."
    return Problem(Cause(f"{kind}: {title}", digest), name, f"{text} {WHAT_TO_DO[kind]} Run: {run_id}.", is_shared)


@dataclass
class AlertState:
    """What is kept between two evaluations.

    Attributes:
        seen: the position in the event log, by kind of event.
        open_problems: the cause of each problem, by what was examined.
        pending: alerts that are not delivered yet, by target.
        attempts: evaluations since the newest of them, by target.
    """

    seen: dict[str, int] = field(default_factory=dict)
    open_problems: dict[str, Cause] = field(default_factory=dict)
    pending: dict[str, list[Alert]] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)

    @classmethod
    def from_json(cls, text: str) -> "AlertState":
        """Return the state that `to_json` has written."""
        stored = json.loads(text)
        causes = {name: Cause(*cause) for name, cause in stored["open_problems"].items()}
        pending = {target: [Alert(*alert) for alert in alerts] for target, alerts in stored["pending"].items()}
        return cls(stored["seen"], causes, pending, stored["attempts"])

    def to_json(self) -> str:
        """Return the state as text."""
        return json.dumps(asdict(self))

    def update(self, findings: Findings) -> tuple[list[Alert], list[Alert]]:
        """Store findings. Return the alerts of causes that are new or affect more, and those of resolved causes."""
        before = self.open_problems
        found = {name: problem.cause for name, problem in findings.items() if problem}
        self.open_problems = {name: cause for name, cause in before.items() if name not in findings} | found
        return _new_alerts(before, findings), _recoveries(before, self.open_problems)

    def deliver(self, settings: AlertSettings, alerts: Sequence[Alert], environment: str, log: Log) -> None:
        """Deliver new and pending alerts. A failed delivery is retried after 1, 2, 4, 8 ... evaluations.

        Alerts for a target that cannot be used are kept until its setting is corrected.
        """
        configured, unusable = delivery.targets(settings)
        for target, reason in unusable.items():
            log(f"Alert target {target} cannot be used, and its alerts are kept. {reason}")
        self.add_pending(alerts, [*configured, *unusable])
        known = {*configured, *unusable}
        self.pending = {target: kept for target, kept in self.pending.items() if target in known and kept}
        waiting = [target for target in self.pending if target in configured]
        self.attempts = {target: 1 if alerts else self.attempts.get(target, 0) + 1 for target in waiting}
        due = [target for target, attempts in self.attempts.items() if not attempts & (attempts - 1)]  # a power of 2
        texts = {target: messages(self.pending[target], environment, configured[target]) for target in due}
        failures = delivery.deliver(settings, texts)
        for target in due:
            self._record_delivery(target, failures.get(target), len(texts[target]), log)

    def _record_delivery(self, target: str, failure: delivery.Failure | None, sent: int, log: Log) -> None:
        """Remove the alerts that ``target`` accepted, and all after `MAX_ATTEMPTS`. ``sent``: number of messages."""
        gives_up = self.attempts[target] >= MAX_ATTEMPTS
        if failure and failure.delivered >= sent:  # the target accepted everything, then failed
            log(failure.reason)
            failure = None
        if failure:
            log(f"{failure.reason} {'It is not retried any more.' if gives_up else 'It is retried.'}")
        if gives_up or not failure:
            del self.pending[target], self.attempts[target]
        elif failure.delivered:  # then there is one message for each alert; the rest is due at the next evaluation
            self.pending[target] = self.pending[target][failure.delivered :]
            self.attempts[target] = 0

    def add_pending(self, alerts: Sequence[Alert], targets: Iterable[str]) -> None:
        """Add alerts to those that are pending for ``targets``. Above the limit, one alert replaces the oldest.

        The newest are kept, because a recovery that is left out would leave its incident open.
        """
        for target in targets:
            waiting = [*self.pending.get(target, []), *alerts]
            if len(waiting) > MAX_PENDING:
                oldest, newest = waiting[: 1 - MAX_PENDING], waiting[1 - MAX_PENDING :]
                waiting = [_alert_of_left_out(sum(alert.left_out or 1 for alert in oldest)), *newest]
            self.pending[target] = waiting


def _alert_of_left_out(count: int) -> Alert:
    title = "Alerts: older alerts are left out"
    text = (
        f"{title}: {count} could not be delivered before newer ones took their place. Look at the log of this sensor "
        "in Dagster, under Automation: it has every alert."
    )
    return Alert(title, text, title, left_out=count)


def _new_alerts(before: Mapping[str, Cause], findings: Findings) -> list[Alert]:
    known, new = set(before.values()), defaultdict(list)
    for name, problem in findings.items():
        if problem and before.get(name) != problem.cause and not (problem.is_shared and problem.cause in known):
            new[problem.cause].append(problem)
    return [
        Alert(cause.title, f"{cause.title}: {_listed(p.name for p in problems)}: {problems[0].reason}", cause.incident)
        for cause, problems in new.items()
    ]


def _recoveries(before: Mapping[str, Cause], now: Mapping[str, Cause]) -> list[Alert]:
    """Return an alert for each cause that affects nothing any more."""
    affected = defaultdict(list)
    for name, cause in before.items():
        affected[cause].append(name)
    resolved = []
    for cause, names in affected.items():
        if cause not in now.values():
            has_another = any(name in now for name in names)
            title = f"{'Replaced by another cause' if has_another else 'Recovered'}: {cause.title}"
            resolved.append(Alert(title, f"{title}: {_listed(names)}", cause.incident, is_resolved=True))
    return resolved


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    count = f"{len(names)} affected: " if len(names) > 1 else ""
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return f"{count}{', '.join(names[:MAX_NAMES])}{more}"


def messages(alerts: Sequence[Alert], environment: str, target: AlertTarget) -> list[Message]:
    """Return one message with ``alerts``, or one message for each, whose title is its incident."""
    if target.opens_incidents:
        return [_message([alert._replace(title=alert.incident or alert.title)], environment, None) for alert in alerts]
    return [_message(alerts, environment, target.max_characters)]


def _message(alerts: Sequence[Alert], environment: str, max_characters: int | None) -> Message:
    more = f" and {len(alerts) - 1} more" if len(alerts) > 1 else ""
    title = f"PropelAuth{environment and ' '}{environment}: {alerts[0].title}{more}"
    lines = [f"- {alert.text}" for alert in alerts[:MAX_LINES]]
    left = (max_characters or sys.maxsize) - len(title) - MARGIN
    while len(lines) > 1 and len("\n".join(lines)) > left:
        del lines[-1]
    hidden = [f"... and {len(alerts) - len(lines)} more: see Dagster."] if len(alerts) > len(lines) else []
    text = "\n".join([line if len(line) <= left else f"{line[:left]} ..." for line in lines] + hidden)
    return Message(title, text, all(alert.is_resolved for alert in alerts))
