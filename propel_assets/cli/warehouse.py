"""The warehouse of the running command."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from propel_assets.cli.rendering import Log, log
from propel_assets.settings import Settings

if TYPE_CHECKING:
    from propel_assets.warehouse.query import Warehouse


@contextmanager
def open_configured_warehouse(settings: Settings, log: Log = log) -> "Iterator[Warehouse]":
    """Connect to the warehouse of ``settings``. ``log`` receives a message while a lock is waited for.

    Raises:
        WarehouseError: nothing has been loaded yet, or the destination has no SQL.
    """
    from propel_assets.privacy.policy_file import load_policy
    from propel_assets.warehouse.query import open_warehouse

    with open_warehouse(settings.target, load_policy(settings.privacy_settings), log) as warehouse:
        yield warehouse
