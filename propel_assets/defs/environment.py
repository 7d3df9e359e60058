"""One PropelAuth environment in a code location: its names, its asset specs and its settings.

Several can be in one process and in one `Definitions`: every name begins with a prefix of the environment, and each op
reads the settings of its own.
"""

from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any

import dagster as dg
from pydantic import Field

from propel_assets.catalog import BY_NAME, TABLES, Table
from propel_assets.defs.config import Layer, PropelAuthConfig
from propel_assets.settings import (
    DATASET,
    FIELDS,
    Settings,
    Target,
    environment_name,
    load_settings,
    name_prefix,
    read_setting,
)

PREFIX = "propel_auth"
CREDENTIALS = ("auth_url", "api_key", "oauth_token")
SECRET: dict[str, Any] = {"dagster__is_secret": True}


class PropelAuthResource(dg.ConfigurableResource):
    """Credentials of a PropelAuth environment. Empty fields come from environment variables or dlt's files."""

    auth_url: str = Field(default="", description="Auth URL, for example https://auth.example.com.")
    api_key: str = Field(
        default="",
        description="Backend integration key. Pass an EnvVar, not the key itself.",
        json_schema_extra=SECRET,
    )
    oauth_token: str = Field(
        default="",
        description="Access token of an end user, for the table oauth_userinfo only.",
        json_schema_extra=SECRET,
    )


class WarehouseResource(dg.ConfigurableResource):
    """The destination of the tables. Its credentials are configured as dlt documents."""

    destination: str = Field(default="", description="A dlt destination, or one named in .dlt/config.toml.")


@dataclass(frozen=True)
class Environment:
    """Names, asset specs and settings of one PropelAuth environment. ``name`` is empty where there is only one."""

    config: PropelAuthConfig
    name: str

    @classmethod
    def from_config(cls, config: PropelAuthConfig) -> "Environment":
        """Return the environment that ``config``, or else PROPELAUTH_ENVIRONMENT, names."""
        return cls(config, config.environment or environment_name())

    # --- names ---

    @property
    def name_prefix(self) -> str:
        """The prefix of names, which is also the name of the resource with the credentials."""
        return self.config.name_prefix or name_prefix(self.name)

    @property
    def warehouse_key(self) -> str:
        """The name of the resource with the destination."""
        return self.named("warehouse")

    @property
    def resource_keys(self) -> set[str]:
        """The names of both resources."""
        return {self.name_prefix, self.warehouse_key}

    def named(self, name: str) -> str:
        """Return the name of an op, job, schedule, sensor or pool: `propel_auth_load_users`."""
        return f"{self.name_prefix}_{name}"

    def group(self, name: str) -> str:
        """Return the name of an asset group."""
        return f"{self.config.group_prefix or self.name_prefix}_{name}"

    def key(self, *path: str) -> dg.AssetKey:
        """Return an asset key with the prefix of this environment."""
        prefix = self.config.key_prefix
        return dg.AssetKey([*((self.name,) if prefix is None and self.name else prefix or ()), *path])

    # --- what is included ---

    @cached_property
    def tables(self) -> tuple[Table, ...]:
        """The raw tables."""
        names = BY_NAME if self.config.tables is None else self.config.tables
        return tuple(table for table in TABLES if table.name in names)

    @property
    def target(self) -> Target:
        """The target, for names of datasets and schemas. It has no checked settings: definitions load without them."""
        return Target(environment=self.name)

    @property
    def destination(self) -> str:
        """The destination, for labels."""
        return self.config.destination or read_setting("destination", self.name)

    # --- asset specs ---

    @cached_property
    def api_spec(self) -> dg.AssetSpec:
        """The spec of the asset that stands for PropelAuth's API."""
        return self.finish(
            dg.AssetSpec(
                self.key("propel_auth_api"),
                description="PropelAuth's backend API. An observation counts users, orgs, invites and API keys in five "
                "requests; its data version changes when one of these totals changes.\n\n"
                "[PropelAuth's reference](https://docs.propelauth.com/reference)",
                group_name=self.group("api"),
                kinds={"propelauth", "api"},
                automation_condition=self.condition(dg.AutomationCondition.on_cron("*/15 * * * *")),
            ),
            "api",
        )

    def table_spec(self, table: Table) -> dg.AssetSpec:
        """Return the spec of a raw table."""
        return self._table_specs[table.name]

    def asset_key(self, table: Table) -> dg.AssetKey:
        """Return the asset key of a raw table, also of one that is not included."""
        return self._table_specs[table.name].key

    @cached_property
    def freshness(self) -> dg.FreshnessPolicy:
        """The freshness policy of default tables and marts: a warning above `max_age_hours`, a failure a day later.

        It counts materializations, also those of a skipped table: the check `up_to_date` shows the age of the data.
        """
        hours = self.config.max_age_hours
        limit = timedelta(hours=read_setting("max_age_hours", self.name) if hours is None else hours)
        return dg.FreshnessPolicy.time_window(warn_window=limit, fail_window=limit + timedelta(days=1))

    @cached_property
    def _table_specs(self) -> dict[str, dg.AssetSpec]:
        return {table.name: self.finish(self._table_spec(table), "raw") for table in TABLES}

    def _table_spec(self, table: Table) -> dg.AssetSpec:
        api = self.api_spec.key
        columns = [
            dg.TableColumn(
                c.name,
                c.type,
                description=c.description,
                constraints=dg.TableColumnConstraints(nullable=not c.required, unique=table.key == (c.name,)),
                tags={"personal_data": ""} if c.personal else {},
            )
            for c in table.columns
        ]
        upstream = {c.name: [dg.TableColumnDep(api, table.source_of(c))] for c in table.columns if table.path}
        return dg.AssetSpec(
            self.key(PREFIX, table.name),
            deps=[api] if table.path else [],
            description=f"{table.description}\n\nRead from `{table.origin}`. [PropelAuth's reference]({table.doc})",
            group_name=self.group(table.group),
            kinds={"propelauth", "dlt", self.destination},
            automation_condition=self.condition(_on_changed_totals()) if table.default else None,
            freshness_policy=self.freshness if table.default else None,
            metadata={
                "dagster/column_schema": dg.TableSchema(columns=columns),
                "dagster/column_lineage": dg.TableColumnLineage(deps_by_column=upstream),
                "dagster/table_name": f"{self.target.named(DATASET)}.{table.name}",
                "primary_key": ", ".join(table.key),
                "load": table.load,
                "reference": dg.MetadataValue.url(table.doc),
            },
        )

    def condition(self, condition: dg.AutomationCondition[Any]) -> dg.AutomationCondition[Any] | None:
        """Return ``condition`` if this environment has automation conditions."""
        return condition if self.config.automation else None

    def finish(self, spec: dg.AssetSpec, layer: Layer) -> dg.AssetSpec:
        """Return ``spec`` with the owners, tags and kinds of the config, and translated."""
        changes: dict[str, Any] = {"owners": self.config.owners}
        if self.config.kinds is not None:
            changes["kinds"] = set(self.config.kinds)
        spec = spec.replace_attributes(**changes).merge_attributes(tags=self.config.tags)
        return self.config.translation(spec, layer) if self.config.translation else spec

    # --- settings ---

    @property
    def resources(self) -> dict[str, Any]:
        """The resources, by name. Only what must not be kept by Dagster is left out: keys that are plain text."""
        public = {name: getattr(self.config, name) for name in CREDENTIALS}
        public = {name: value for name, value in public.items() if name == "auth_url" or isinstance(value, dg.EnvVar)}
        return {
            self.name_prefix: PropelAuthResource(**public),
            self.warehouse_key: WarehouseResource(destination=self.config.destination),
        }

    def settings(self, resources: Any) -> Settings:
        """Return the settings of a run: fields of its resources first, then the config, then environment variables.

        Args:
            resources: `context.resources`; it has the credentials only where an op requires them.
        """
        credentials = getattr(resources, self.name_prefix, None)
        warehouse = getattr(resources, self.warehouse_key)
        found = {name: self._configured(name) for name in type(self.config).model_fields if name in FIELDS}
        found |= {name: getattr(credentials, name, "") or found[name] for name in CREDENTIALS}
        found["destination"] = warehouse.destination or found["destination"]
        return load_settings(found, self.name)

    def _configured(self, name: str) -> Any:
        value = getattr(self.config, name)
        return value.get_value() or "" if isinstance(value, dg.EnvVar) else value


def _on_changed_totals() -> dg.AutomationCondition[Any]:
    """Return the condition that requests a raw table: the API's totals changed after the last request."""
    # Not `since_last_handled`: the end of a load would discard a change that was observed during that load.
    handled = dg.AutomationCondition.newly_requested() | dg.AutomationCondition.initial_evaluation()
    changed = dg.AutomationCondition.any_deps_updated().since(handled)
    return (changed & ~dg.AutomationCondition.in_progress()).with_label("propel_auth_api_changed")
