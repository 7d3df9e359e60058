"""PropelAuth to rows. HTTP and dlt; no Dagster."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from propel_assets.source.dlt_source import propel_auth_source

__all__ = ["propel_auth_source"]


def __getattr__(name: str) -> Any:
    """Import dlt, which takes most of a second, only if the source is used."""
    if name == "propel_auth_source":
        from propel_assets.source.dlt_source import propel_auth_source

        return propel_auth_source
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
