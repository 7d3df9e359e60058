"""Erasures that the deletion of a user at PropelAuth proposes, and their execution.

A user is proposed if a webhook reported the deletion, the audit tables show that `user_query` had exactly this id, and
`user_query` does not have it any more: the API was read in between. A forged or mistaken event proposes nothing, and
the API is read again before an erasure. An erasure also deletes the events of the user, so a proposal ends with it.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from propel_assets.catalog import AUTH_EVENT, BY_NAME, PROPEL_CHANGES, PROPEL_SCAN_STATE, USER_QUERY
from propel_assets.privacy.policy_file import load_policy
from propel_assets.settings import Settings, require_credentials
from propel_assets.source.client import Client
from propel_assets.source.lists import get_or_none
from propel_assets.source.values import UUID
from propel_assets.warehouse.audit import as_utc
from propel_assets.warehouse.erasure.receipt import ErasureReceipt
from propel_assets.warehouse.erasure.run import erase
from propel_assets.warehouse.locks import Log
from propel_assets.warehouse.query import Warehouse, open_warehouse

KNOWN_IN = (PROPEL_CHANGES.name, PROPEL_SCAN_STATE.name)
"""The audit tables with the ids that `user_query` has had. They keep those of deleted users until their erasure."""


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
        f"WHERE e.event_type = 'user.deleted' AND e.user_id IS NOT NULL AND NOT EXISTS "
        f"(SELECT 1 FROM {warehouse.table(USER_QUERY.name)} u WHERE u.user_id = e.user_id) "
        f"AND ({' OR '.join(known)}) GROUP BY e.user_id"
    )
    found = warehouse.rows(sql, *[USER_QUERY.name] * len(known))
    rows = [(user_id, as_utc(at)) for user_id, at in found if UUID.fullmatch(user_id)]  # not a keyed hash
    proposals = [ErasureProposal(user_id, at, at + timedelta(days=days)) for user_id, at in rows]
    return sorted(proposals, key=lambda proposal: (proposal.due_at, proposal.user_id))


def run_due_erasures(settings: Settings, log: Log) -> dict[str, ErasureReceipt]:
    """Erase the users whose proposals are due and who do not exist at PropelAuth, and return the receipts by user id.

    Raises:
        PropelError: an erasure, or the request before it, failed. Those before it are complete.
    """
    settings = require_credentials(settings)
    policy = load_policy(settings.privacy_settings)
    with open_warehouse(settings.target, policy, log) as warehouse:
        due = [proposal.user_id for proposal in proposed_erasures(warehouse, settings.erasure_days) if proposal.is_due]
    client, path, receipts = Client(settings.tenant), BY_NAME["user_by_id"].path_of, {}
    for user_id in due:
        if get_or_none(client, path(user_id=user_id), lambda _: True):
            log(f"User {user_id} exists at PropelAuth and is not erased.")
        else:
            receipts[user_id] = erase(
                settings.target, settings.privacy_settings, user_id, tenant=settings.tenant, log=log
            )
    return receipts
