"""Erasing a person: every table of every schema of the database, and the erasure list for later loads."""

from propel_assets.warehouse.erasure.receipt import ErasureReceipt, ErasureRecord, UnsearchedColumn
from propel_assets.warehouse.erasure.run import NEXT_STEPS, erase

__all__ = ["NEXT_STEPS", "ErasureReceipt", "ErasureRecord", "UnsearchedColumn", "erase"]
