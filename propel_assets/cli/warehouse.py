"""The warehouse of the running command."""

from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from propel_assets.cli.rendering import log
from propel_assets.errors import OtherEnvironment, WarehouseError
from propel_assets.settings import Settings

if TYPE_CHECKING:
    from propel_assets.warehouse.query import Warehouse


def open_configured_warehouse(settings: Settings) -> "AbstractContextManager[Warehouse]":
    """Connect to the warehouse of ``settings``. While a lock is waited for, a message goes to stderr.

    Raises:
        WarehouseError: nothing has been loaded yet, the destination cannot be read, or it has no SQL.
    """
    from propel_assets.privacy.policy_file import load_policy
    from propel_assets.warehouse.query import open_warehouse

    return open_warehouse(settings.target, load_policy(settings.privacy_settings), log)


def require_tables_of(tenant_id: str, settings: Settings) -> None:
    """Refuse a warehouse whose tables are of another tenant. One that cannot be read now is left to the load.

    Raises:
        OtherEnvironment: with the tenant of the tables.
    """
    before = ""
    with suppress(WarehouseError), open_configured_warehouse(replace(settings, lock_seconds=0)) as warehouse:
        before = warehouse.audit.last_tenant_id()
    if before not in ("", tenant_id):
        raise OtherEnvironment(
            f"The tables of this folder were loaded from {before}, not from {tenant_id}. A folder holds one tenant: "
            "use another folder (mkdir demo && cd demo)."
        )
