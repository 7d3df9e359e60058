"""Erasures that the deletion of a user at PropelAuth proposes, and their execution.

A user is proposed if a webhook reported the deletion, the audit tables show that `user_query` had exactly this id, and
`user_query` does not have it any more: the API was read in between. A forged or mistaken event proposes nothing, and
the API is read again before an erasure. An erasure also deletes the events of the user, so a proposal ends with it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from propel_assets.catalog import AUTH_EVENT, BY_NAME, PROPEL_CHANGES, PROPEL_SCAN_STATE, USER_QUERY
from propel_assets.errors import ErasureIncomplete, PropelError, WarehouseError
from propel_assets.privacy.policy_file import load_policy
from propel_assets.settings import Settings, require_credentials
from propel_assets.source.client import Client
from propel_assets.source.lists import get_or_none
from propel_assets.source.values import UUID
from propel_assets.warehouse.audit import as_utc
from propel_assets.warehouse.erasure.receipt import ErasureReceipt
from propel_assets.warehouse.erasure.run import clean_up, erase, unfinished_erasures
from propel_assets.warehouse.locks import Log
from propel_assets.warehouse.query import Warehouse, open_warehouse
from propel_assets.warehouse.retention import proposes_erasure

KNOWN_IN = (PROPEL_CHANGES.name, PROPEL_SCAN_STATE.name)
"""The audit tables with the ids that `user_query` has had. They keep those of deleted users until their erasure."""

ERASE_EVERY = timedelta(hours=23)
"""Less than 24 hours, so that a daily run erases even if the previous one started later in the day."""


@dataclass(frozen=True)
class ErasureProposal:
    """A user who was deleted at PropelAuth, when the deletion was reported, and when the erasure is due."""

    user_id: str
    deleted_at: datetime
    due_at: datetime

    @property
    def is_due(self) -> bool:
        """Whether the due date has passed."""
        return self.due_at <= datetime.now(UTC)


def proposed_erasures(warehouse: Warehouse, days: float) -> list[ErasureProposal]:
    """Return the proposals, those due first. They are due ``days`` after the deletion was reported."""
    if not (warehouse.columns_of(AUTH_EVENT.name) and warehouse.columns_of(USER_QUERY.name)):
        return []
    known = [
        f"EXISTS (SELECT 1 FROM {warehouse.table(name)} k WHERE k.table_name = %s AND k.user_id = e.user_id)"  # noqa: S608
        for name in KNOWN_IN
        if warehouse.columns_of(name)
    ]
    if not known:
        return []
    sql = (
        f"SELECT e.user_id, min(e.received_at) FROM {warehouse.table(AUTH_EVENT.name)} e "  # noqa: S608 - quoted names
        f"WHERE {proposes_erasure(warehouse, 'e')} AND ({' OR '.join(known)}) GROUP BY e.user_id"
    )
    found = warehouse.rows(sql, *[USER_QUERY.name] * len(known))
    rows = [(user_id, as_utc(at)) for user_id, at in found if UUID.fullmatch(user_id)]  # not a keyed hash
    proposals = [ErasureProposal(user_id, at, at + timedelta(days=days)) for user_id, at in rows]
    return sorted(proposals, key=lambda proposal: (proposal.due_at, proposal.user_id))


def run_due_erasures(settings: Settings, log: Log, *, at_most_daily: bool = False) -> None:
    """Erase the users whose proposals are due and who do not exist at PropelAuth.

    An erasure that was stopped is retried. An incomplete erasure is reported by each run, until `propel-assets erase`
    has listed what remains. With ``at_most_daily``, proposals that became due after the last erasure wait until it is
    `ERASE_EVERY` old, because an erasure makes concurrent loads fail.

    Raises:
        ErasureIncomplete: some erasures, or the requests before them, failed or are not complete. All others are done.
    """
    settings = require_credentials(settings)
    with open_warehouse(settings.target, load_policy(settings.privacy_settings), log) as warehouse:
        proposals = [proposal for proposal in proposed_erasures(warehouse, settings.erasure_days) if proposal.is_due]
    unfinished = unfinished_erasures(settings.target, log)
    last_at = unfinished.last_at
    if at_most_daily and last_at and abs(datetime.now(UTC) - last_at) < ERASE_EVERY:
        # These were due at the last erasure already, so they failed.
        proposals = [proposal for proposal in proposals if proposal.due_at <= last_at]
    automatic = {id_: found for id_, found in unfinished.by_id.items() if found.is_automatic}
    run = _Run(settings, log, incomplete={user_id for user_id, found in automatic.items() if found.has_ended})
    run.erase(dict.fromkeys([*automatic, *(proposal.user_id for proposal in proposals)]))
    if unfinished.must_clean_up:
        run.clean_up()
    if problem := run.problem():
        raise problem


@dataclass
class _Run:
    """The erasures of one run.

    ``incomplete``: the users whose erasure has ended and is not complete. ``reasons``: why something could not be
    searched. ``failures``: by what was attempted.
    """

    settings: Settings
    log: Log
    incomplete: set[str]
    reasons: set[str] = field(default_factory=set)
    failures: dict[str, PropelError] = field(default_factory=dict)

    def erase(self, user_ids: Iterable[str]) -> None:
        """Erase users, except the incomplete ones, until an error concerns all of them."""
        client = Client(self.settings.tenant)
        for user_id in [user_id for user_id in user_ids if user_id not in self.incomplete]:
            try:
                receipt = _erase_deleted_user(self.settings, client, user_id, self.log)
            except PropelError as error:
                self.failures[f"The erasure of {user_id}"] = error
                if error.concerns_every_scan:
                    break
                continue
            if receipt and receipt.is_complete:
                self.log(f"Erased: {user_id}.")
            elif receipt:
                self.incomplete.add(user_id)
                self.reasons |= {column.reason for column in receipt.unsearched}

    def clean_up(self) -> None:
        """Finish earlier erasures, unless the warehouse has refused one of this run."""
        if not any(isinstance(error, WarehouseError) for error in self.failures.values()):
            try:
                clean_up(self.settings.target, self.log)
            except PropelError as error:
                self.failures["The end of an earlier erasure"] = error

    def problem(self) -> PropelError | None:
        """Return the error to raise, with every failure; None if all erasures are complete."""
        texts = [f"{attempt} failed. {error}" for attempt, error in self.failures.items()]
        if self.incomplete:
            found = f" ({'; '.join(sorted(self.reasons))})" if self.reasons else ""
            texts.append(
                f"The erasure of {', '.join(sorted(self.incomplete))} is not complete: something still names the user "
                f"or could not be searched{found}. Run propel-assets erase with each id: it lists what remains."
            )
        if len(texts) == 1 and (shared := [error for error in self.failures.values() if error.concerns_every_scan]):
            return shared[0]
        if not texts:
            return None
        problem = ErasureIncomplete(" ".join(texts))
        problem.retry_may_help = not self.incomplete and all(e.retry_may_help for e in self.failures.values())
        return problem


def _erase_deleted_user(settings: Settings, client: Client, user_id: str, log: Log) -> ErasureReceipt | None:
    """Erase the user and return the receipt; None if the user exists at PropelAuth."""
    if get_or_none(client, BY_NAME["user_by_id"].path_of(user_id=user_id), lambda _: True):
        log(f"User {user_id} exists at PropelAuth and is not erased.")
        return None
    target, privacy = settings.target, settings.privacy_settings
    return erase(target, privacy, user_id, tenant=settings.tenant, is_automatic=True, log=log)
