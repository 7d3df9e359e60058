"""Erasing a person: every table of every schema of the database, and the erasure list for later loads."""

from propel_assets.warehouse.erasure.proposals import ErasureProposal, proposed_erasures, run_due_erasures
from propel_assets.warehouse.erasure.receipt import ErasureReceipt, ErasureRecord, UnsearchedColumn
from propel_assets.warehouse.erasure.run import NEXT_STEPS, erase, unfinished_erasures

__all__ = [
    "NEXT_STEPS",
    "ErasureProposal",
    "ErasureReceipt",
    "ErasureRecord",
    "UnsearchedColumn",
    "erase",
    "proposed_erasures",
    "run_due_erasures",
    "unfinished_erasures",
]
