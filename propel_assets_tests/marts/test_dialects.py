"""The models for other warehouses: compiled with their macros, parsed by their grammar.

Neither their adapters nor the warehouses are available. dbt is connected to DuckDB and looks up the macros of the other
warehouse first: the macros of this project are those of the warehouse, and dbt's own are those of DuckDB, because each
adapter ships its own. This does not show whether the warehouse has every function.
"""

import pytest
import sqlglot
from sqlglot import expressions

from propel_assets.marts.runner import open_dbt

DIALECTS = {
    "snowflake": "dateadd(day,",
    "bigquery": "timestamp_add(",
    "redshift": "dateadd(day,",
    "databricks": "to_utc_timestamp(",
}


@pytest.mark.slow
@pytest.mark.parametrize(("dialect", "own"), DIALECTS.items())
def test_every_model_is_sql_of_the_warehouse(small, monkeypatch, dialect, own) -> None:
    from dbt.context.providers import BaseDatabaseWrapper

    monkeypatch.setattr(BaseDatabaseWrapper, "_get_adapter_macro_prefixes", lambda _: [dialect, "duckdb", "default"])
    with open_dbt(small) as dbt:
        assert dbt.run("compile").failed == {}
        compiled = {file.stem: file.read_text() for file in (dbt.folder / "compiled").rglob("*.sql") if file.is_file()}
    assert {"dim_user", "fct_engagement_daily", "fct_api_keys", "users_history"} <= set(compiled)
    for name, sql in compiled.items():
        [parsed] = sqlglot.parse(sql, read=dialect)
        assert isinstance(parsed, expressions.Query), name
    assert any(own in sql for sql in compiled.values())
