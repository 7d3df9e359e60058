"""How each kind of destination is loaded: one row each, with the reason. Where it is, is dlt's own configuration.

A replace must be atomic: whoever reads sees the old rows or the new ones, and a load that is killed leaves the old.
A destination that is not here is loaded as dlt does by its safest strategy, `ANY_OTHER`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from propel_assets.source.reconcile import ValueLimits

FileFormat = Literal["parquet", "csv", "jsonl"]
MergeStrategy = Literal["delete-insert", "upsert"]
Replace = Literal["own transaction", "one statement", "insert-from-staging"]


@dataclass(frozen=True)
class Policy:
    """One kind of destination.

    ``replace``: `insert-from-staging` is dlt's; `own transaction` and `one statement` are ours, in
    `duckdb_destination.py` and `clients.py`. ``merge``: dlt's strategy for tables that merge by key.
    ``files``: what rows travel in; None is dlt's choice. ``staged_files``: the same with PROPELAUTH_STAGING.
    ``extra``: what installs it, empty where the core install does. ``capabilities``: dlt's, where ours differ.
    ``limits``: which values it stores, with the reason. A value beyond them goes to `<column>__v_text`.
    """

    replace: Replace
    merge: MergeStrategy
    files: FileFormat | None
    extra: str
    why: str
    staged_files: FileFormat | None = None
    capabilities: Mapping[str, Any] = field(default_factory=dict)
    limits: ValueLimits = field(default_factory=ValueLimits)  # where not tested: what every destination stores


# Text is any UTF-8, and a JSON column keeps its text.
ANY_TEXT = ValueLimits(nul=True, json_numbers="any")
DESTINATIONS: dict[str, Policy] = {
    "duckdb": Policy(
        "own transaction",
        "delete-insert",
        "parquet",
        "",
        "One transaction reads the Parquet files: nothing is faster.",
        limits=ANY_TEXT,
    ),
    "postgres": Policy(
        "insert-from-staging",
        "delete-insert",
        "csv",
        "postgres",
        "TRUNCATE and INSERT are one transaction. Rows come by COPY, in CSV: Parquet needs one more driver and makes "
        "jsonb columns json.",
        # No type holds U+0000. Numbers in jsonb are numeric: 131,072 digits before the point, 16,383 after.
        limits=ValueLimits(nul=False, json_numbers="numeric"),
    ),
    "ducklake": Policy(
        "insert-from-staging", "delete-insert", "parquet", "ducklake", "DELETE and INSERT are one snapshot of the lake."
    ),
    "motherduck": Policy(
        "insert-from-staging",
        "delete-insert",
        "parquet",
        "motherduck",
        "DELETE and INSERT are one transaction.",
        limits=ANY_TEXT,
    ),
    "redshift": Policy(
        "insert-from-staging",
        "delete-insert",
        None,
        "redshift",
        "TRUNCATE commits on Redshift, so rows are deleted. Without a bucket rows come as INSERT; with one by COPY, in "
        "JSON, because Parquet would make a SUPER column one string.",
        staged_files="jsonl",
        capabilities={"supports_truncate_command": False},
    ),
    "snowflake": Policy(
        "insert-from-staging",
        "upsert",
        "jsonl",
        "snowflake",
        "Rows are deleted and inserted in one transaction; whether TRUNCATE keeps to it is not tried. MERGE is one "
        "statement. JSON, because Parquet would make a VARIANT column one string.",
        staged_files="jsonl",
        capabilities={"supports_truncate_command": False},
    ),
    "bigquery": Policy(
        "one statement",
        "upsert",
        "jsonl",
        "bigquery",
        "dlt leaves out the transaction where a column is called created_at, which it takes for CREATE; one MERGE "
        "needs none. JSON, because Parquet cannot load a JSON column.",
        staged_files="jsonl",
    ),
    "databricks": Policy(
        "one statement",
        "upsert",
        "parquet",
        "databricks",
        "No transactions over statements: INSERT OVERWRITE is one commit of the Delta table, and so is MERGE.",
        staged_files="parquet",
        limits=ValueLimits(json_numbers="any"),  # JSON columns are STRING
    ),
    "filesystem": Policy(
        "insert-from-staging",
        "upsert",
        "parquet",
        "filesystem",
        "Delta tables: replace and merge are one commit each. Plain files can be neither replaced at once nor merged.",
        limits=ANY_TEXT,
    ),
}
ANY_OTHER = Policy(
    "insert-from-staging", "delete-insert", None, "", "Safe where TRUNCATE and INSERT can be one transaction."
)
BUCKETS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "az": "az", "abfss": "az", "adl": "az", "azure": "az"}


def policy_of(kind: str) -> Policy:
    """Return the row of a kind of destination, by dlt's name of it."""
    return DESTINATIONS.get(kind, ANY_OTHER)


def extra_of(kind: str, bucket_url: str = "") -> str:
    """Return the extra that installs a kind of destination; for files it depends on where they are."""
    scheme = bucket_url.partition("://")[0] if "://" in bucket_url else ""
    return BUCKETS.get(scheme, policy_of(kind).extra) if kind == "filesystem" else policy_of(kind).extra
