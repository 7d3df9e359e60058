"""How each kind of destination is loaded: one row for each kind, with the reason. dlt's configuration says where it is.

A replace must be atomic: a reader sees the old rows or the new rows, and a killed load leaves the old rows.
A destination without a row is loaded by dlt's safest strategy, `ANY_OTHER`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from propel_assets.source.reconcile import ValueLimits
from propel_assets.warehouse.destinations.postgres import PostgresClient
from propel_assets.warehouse.destinations.replace_statement import BigQueryClient, DatabricksClient
from propel_assets.warehouse.destinations.snowflake import SnowflakeClient

FileFormat = Literal["parquet", "csv", "jsonl"]
MergeStrategy = Literal["delete-insert", "upsert"]
Replace = Literal["own transaction", "one statement", "insert-from-staging"]


@dataclass(frozen=True)
class DestinationPolicy:
    """One kind of destination.

    Attributes:
        replace: `insert-from-staging` is dlt's strategy; `own transaction` and `one statement` are in the modules here.
        merge: dlt's strategy for tables that merge by key.
        files: the format of the loaded files; None is dlt's default.
        extra: the extra that installs the destination; empty where the core installation has it.
        why: the reason for all of it.
        staged_files: the format of the files in the bucket of PROPELAUTH_STAGING.
        client: a mixin for dlt's client.
        capabilities: dlt's capabilities that are set to other values.
        options: dlt's options of the destination that are set to other values.
        limits: the values that it stores. A value beyond them is stored in `<column>__v_text`.
    """

    replace: Replace
    merge: MergeStrategy
    files: FileFormat | None
    extra: str
    why: str
    staged_files: FileFormat | None = None
    client: type | None = None
    capabilities: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    limits: ValueLimits = field(default_factory=ValueLimits)  # not tested: what every destination stores


# Text is any UTF-8, and a JSON column keeps its text.
ANY_TEXT = ValueLimits(nul=True, json_numbers="any")
DESTINATIONS: dict[str, DestinationPolicy] = {
    "duckdb": DestinationPolicy(
        "own transaction",
        "delete-insert",
        "parquet",
        "",
        "One transaction reads the Parquet files: nothing is faster.",
        limits=ANY_TEXT,
    ),
    "postgres": DestinationPolicy(
        "insert-from-staging",
        "delete-insert",
        "csv",
        "postgres",
        "TRUNCATE and INSERT are one transaction. Rows are loaded by COPY from CSV: Parquet needs one more driver and "
        "makes jsonb columns json.",
        client=PostgresClient,
        # No type holds U+0000. Numbers in jsonb are numeric: 131,072 digits before the point, 16,383 after.
        limits=ValueLimits(nul=False, json_numbers="numeric"),
    ),
    "ducklake": DestinationPolicy(
        "insert-from-staging", "delete-insert", "parquet", "ducklake", "DELETE and INSERT are one snapshot of the lake."
    ),
    "motherduck": DestinationPolicy(
        "insert-from-staging",
        "delete-insert",
        "parquet",
        "motherduck",
        "DELETE and INSERT are one transaction.",
        limits=ANY_TEXT,
    ),
    "redshift": DestinationPolicy(
        "insert-from-staging",
        "delete-insert",
        None,
        "redshift",
        "TRUNCATE commits on Redshift, so rows are deleted. Without a bucket rows are loaded by INSERT; with a bucket "
        "by COPY from JSON, because Parquet would make a SUPER column one string.",
        staged_files="jsonl",
        capabilities={"supports_truncate_command": False},
    ),
    "snowflake": DestinationPolicy(
        "insert-from-staging",
        "upsert",
        "jsonl",
        "snowflake",
        "Rows are deleted and inserted in one transaction; TRUNCATE in a transaction is not tested. MERGE is one "
        "statement. JSON, because Parquet would make a VARIANT column one string.",
        staged_files="jsonl",
        client=SnowflakeClient,
        capabilities={"supports_truncate_command": False},
        options={"keep_staged_files": False},  # they are rows
    ),
    "bigquery": DestinationPolicy(
        "one statement",
        "upsert",
        "jsonl",
        "bigquery",
        "dlt uses no transaction if a column is named created_at, because it takes the name for CREATE; one MERGE "
        "needs no transaction. JSON, because Parquet cannot load a JSON column.",
        staged_files="jsonl",
        client=BigQueryClient,
    ),
    "databricks": DestinationPolicy(
        "one statement",
        "upsert",
        "parquet",
        "databricks",
        "No transactions over statements. INSERT OVERWRITE is one commit of the Delta table, and so is MERGE.",
        staged_files="parquet",
        client=DatabricksClient,
        limits=ValueLimits(json_numbers="any"),  # JSON columns are STRING
    ),
    "filesystem": DestinationPolicy(
        "insert-from-staging",
        "upsert",
        "parquet",
        "filesystem",
        "Delta tables: replace and merge are one commit each. Plain files cannot be replaced atomically or merged.",
        limits=ANY_TEXT,
    ),
}
ANY_OTHER = DestinationPolicy(
    "insert-from-staging", "delete-insert", None, "", "Safe if TRUNCATE and INSERT can be one transaction."
)
BUCKETS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "az": "az", "abfss": "az", "adl": "az", "azure": "az"}


def policy_of(kind: str) -> DestinationPolicy:
    """Return the row of a kind of destination, by dlt's name for it."""
    return DESTINATIONS.get(kind, ANY_OTHER)


def extra_of(kind: str, bucket_url: str = "") -> str:
    """Return the extra that installs a kind of destination; for files it depends on the bucket."""
    scheme = bucket_url.partition("://")[0] if "://" in bucket_url else ""
    return BUCKETS.get(scheme, policy_of(kind).extra) if kind == "filesystem" else policy_of(kind).extra
