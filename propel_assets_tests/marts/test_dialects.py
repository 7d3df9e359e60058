"""The models as other warehouses would get them: compiled with their macros, parsed by their grammar.

Their adapters are not installed, nor are the warehouses there to ask. So dbt is connected to DuckDB and told to look
for the other's macros first: those of this project come out as they are there, and dbt's own as on DuckDB, because each
adapter brings these along. What this cannot show is whether the warehouse knows every function.
"""

import pytest
import sqlglot
from sqlglot import expressions

from propel_assets.marts.runner import connected_dbt

DIALECTS = {
    "snowflake": "dateadd(day,",
    "bigquery": "timestamp_add(",
    "redshift": "dateadd(day,",
    "databricks": "to_utc_timestamp(",
}


@pytest.mark.parametrize(("dialect", "own"), DIALECTS.items())
def test_every_model_is_sql_of_the_warehouse(small, monkeypatch, dialect, own) -> None:
    from dbt.context.providers import BaseDatabaseWrapper

    monkeypatch.setattr(BaseDatabaseWrapper, "_get_adapter_macro_prefixes", lambda _: [dialect, "duckdb", "default"])
    with connected_dbt(small) as dbt:
        assert dbt.run("compile").broken == {}
        compiled = {file.stem: file.read_text() for file in (dbt.folder / "compiled").rglob("*.sql") if file.is_file()}
    assert {"dim_user", "fct_active_users", "fct_api_keys"} <= set(compiled)
    for name, sql in compiled.items():
        [parsed] = sqlglot.parse(sql, read=dialect)
        assert isinstance(parsed, expressions.Query), name
    assert any(own in sql for sql in compiled.values())
