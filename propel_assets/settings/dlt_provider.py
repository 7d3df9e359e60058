"""What dlt's config and secrets have of our settings. dlt takes 0.7 s to import, so functions import it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from propel_assets.errors import SettingsError

SOURCE_SECTION = "sources.propel_auth_source"


def disable_dlt_telemetry() -> None:
    """Disable dlt telemetry unless it is explicitly enabled. dlt reads the variable with its first configuration."""
    os.environ.setdefault("RUNTIME__DLTHUB_TELEMETRY", "false")


def read_from_dlt(section: str, name: str) -> str:
    """Return a value from dlt's config and secrets; an empty text when they have none.

    Raises:
        SettingsError: a file cannot be read.
    """
    disable_dlt_telemetry()
    import dlt

    field = f"{section}.{name}"
    with dlt_file_errors():
        if name == "auth_url":
            return dlt.config.get(field, str) or ""
        # Without a type, dlt treats the value as a secret and looks it up in vaults too.
        return str(dlt.secrets.get(field) or "")  # pyright: ignore[reportArgumentType]


@contextmanager
def dlt_file_errors() -> Iterator[None]:
    """Raise a `SettingsError` when dlt cannot read `.dlt/config.toml` or `.dlt/secrets.toml`."""
    from dlt.common.configuration.providers.toml import TomlProviderReadException

    try:
        yield
    except TomlProviderReadException as error:
        # Not dlt's text: the parser's message can quote the file.
        raise SettingsError(
            f"{error.full_paths[0]} cannot be read. Save it as valid TOML in UTF-8, without a byte order mark (BOM)."
        ) from None
