"""The auth URL and the keys of one environment."""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import replace
from urllib.parse import urlsplit

from propel_assets.errors import SettingsError
from propel_assets.settings.dlt_provider import SOURCE_SECTION, read_from_dlt
from propel_assets.settings.fields import Settings
from propel_assets.settings.parsing import variable_to_set

REQUIRED = {"auth_url": ("auth URL", "config.toml"), "api_key": ("API key", "secrets.toml")}
"""By field: what it is called, and the file of dlt that has it."""
IN_DLT = (*REQUIRED, "oauth_token")
"""Fields that dlt's config and secrets may have."""
DEFAULT_PORTS = {"http": 80, "https": 443}


def require_credentials(settings: Settings) -> Settings:
    """Return ``settings`` with the auth URL and the keys, read from dlt's files where they are still empty.

    Each empty one is looked up in vaults too, if dlt has some: entry points call this once.

    Raises:
        SettingsError: a required one is missing, or the auth URL is not of the form `https://auth.example.com`.
    """
    section = ".".join(filter(None, (SOURCE_SECTION, settings.environment)))
    found = {name: getattr(settings, name) or read_from_dlt(section, name) for name in IN_DLT}
    if missing := [name for name in REQUIRED if not found[name]]:
        raise SettingsError(_describe_missing(missing, section, settings.environment))
    found["auth_url"] = normalize_auth_url(found["auth_url"], variable_to_set("auth_url", settings.environment))
    return replace(settings, **found)


def _describe_missing(names: Sequence[str], section: str, environment: str) -> str:
    labels = " and no ".join(REQUIRED[name][0] for name in names)
    variables = " and ".join(variable_to_set(name, environment) for name in names)
    files = " and ".join(f"{name} in .dlt/{REQUIRED[name][1]}" for name in names)
    options = f"option{'s' * (len(names) > 1)} {' and '.join(names)}"
    return (
        f"No PropelAuth {labels}. Set {variables}, or {files} under [{section}]. In a Dagster project of your own, the "
        f"{options} of PropelAuthConfig can be set instead. To try without a tenant: propel-assets demo."
    )


def normalize_auth_url(url: str, variable: str = "PROPELAUTH_AUTH_URL") -> str:
    """Return ``url`` with its host in lower case, without the default port and without a trailing slash.

    Raises:
        SettingsError: it is not the base URL of a server. ``variable`` is where it comes from.
    """
    if not url.strip().isprintable() or " " in url.strip():
        raise _refuse_url(url, variable, "it contains a space or a control character")
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname, parts.port
    except ValueError:
        raise _refuse_url(url, variable, "its host or port is not valid") from None
    if parts.scheme not in {"http", "https"} or not host:
        raise _refuse_url(url, variable, "it has no http(s) scheme or no host")
    if parts.path.strip("/") or parts.query or parts.fragment or parts.username or parts.password:
        raise _refuse_url(url, variable, "it must have no path, query or user name")
    if parts.scheme == "http" and not is_loopback(host):
        raise _refuse_url(url, variable, "plain http is allowed for a server on this machine only")
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}" + ("" if port in (None, DEFAULT_PORTS[parts.scheme]) else f":{port}")


def _refuse_url(url: str, variable: str, reason: str) -> SettingsError:
    """Return the error. The URL is quoted without user name and query; a text that is no URL may be a key."""
    shown = re.sub(r"//[^/]*@", "//", re.split(r"[?#]", url.strip())[0])
    quoted = repr(shown) if re.match(r"\w+://|[\w-]+\.[\w.-]+(:\d+)?(/|$)", shown) else "not a URL"
    return SettingsError(f"{variable} is {quoted}; it must look like https://auth.example.com: {reason}.")


def is_loopback(host: str) -> bool:
    """Return whether ``host`` is this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
