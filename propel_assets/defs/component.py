"""The component for `defs.yaml`."""

from typing import Any

import dagster as dg

from propel_assets.defs.build import build_definitions
from propel_assets.defs.config import PropelAuthConfig

ATTRIBUTES = {
    "auth_url": "{{ env.PROPELAUTH_AUTH_URL }}",
    "api_key": "{{ env.PROPELAUTH_API_KEY }}",
}
"""No destination: an attribute would override PROPELAUTH_DESTINATION, which the deployment sets."""


class PropelAuthScaffolder(dg.Scaffolder):
    """Writes a `defs.yaml` that reads the credentials from environment variables."""

    def scaffold(self, request: dg.ScaffoldRequest[Any]) -> None:
        """Write the file."""
        dg.scaffold_component(request, ATTRIBUTES)


@dg.scaffold_with(PropelAuthScaffolder)
class PropelAuthComponent(dg.Component, PropelAuthConfig):
    """Loads one PropelAuth environment into a warehouse: users, orgs, API keys and more as checked assets, with marts.

    Scaffold it with `dg scaffold defs propel_assets.PropelAuthComponent auth`.

    Example:
        .. code-block:: yaml

            type: propel_assets.PropelAuthComponent
            attributes:
              auth_url: "{{ env.PROPELAUTH_AUTH_URL }}"
              api_key: "{{ env.PROPELAUTH_API_KEY }}"
    """

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Return the definitions of the environment."""
        return build_definitions(self)
