{# A relation as views refer to it. On DuckDB without the database: it is named after the file, so that a view with it would
   fail in a copy of the file with another name, and where the file is attached under an alias. #}
{% macro portable(relation) -%}
  {%- set is_view = model.config.materialized == 'view' and this.database == target.database -%}
  {%- if target.type == 'duckdb' and is_view and relation.database == target.database -%}
    {{ relation.include(database=false) }}
  {%- else -%}
    {{ relation }}
  {%- endif -%}
{%- endmacro %}

{# The raw table; if it has never been loaded (feature not enabled, empty warehouse), the same columns without rows. #}
{% macro raw(name) -%}
  {%- set table = source('propel_auth', name) -%}
  {%- if not execute or load_relation(table) is not none -%}
    {{ propel_auth.portable(table) }}
  {%- else -%}
    (
      select
      {%- for column in graph.sources['source.propel_auth.propel_auth.' ~ name].columns.values() %}
        cast(null as {{ propel_auth.type_of(column.data_type) }}) as {{ column.name }}{{ "," if not loop.last }}
      {%- endfor %}
      from (select 1 as nothing) as no_table
      where 1 = 0
    )
  {%- endif -%}
{%- endmacro %}

{# The rows of `propel_scans` of complete loads. The jobs of a load commit separately, so a load that failed or was killed can
   have rows there, too; `_dlt_loads` has only loads that were written to their end. #}
{% macro complete_scans() -%}
(
      select written.*
      from {{ propel_auth.raw('propel_scans') }} as written
      where written.load_id in (
        select loads.load_id from {{ propel_auth.raw('_dlt_loads') }} as loads where loads.status = 0
      )
    )
{%- endmacro %}

{# As `raw`, for a history: if the raw table has been dropped, its rows must not be marked as deleted. #}
{% macro raw_for_history(name) -%}
  {%- if execute and load_relation(source('propel_auth', name)) is none and load_relation(this) is not none -%}
    {%- if run_query("select 1 from " ~ this ~ " where valid_to is null limit 1").rows | length > 0 -%}
      {{ exceptions.raise_compiler_error(
        source('propel_auth', name) ~ " does not exist, but has a history. Load it again, or drop " ~ this ~ "."
      ) }}
    {%- endif -%}
  {%- endif -%}
  {{ propel_auth.raw(name) }}
{%- endmacro %}

{# The type of the warehouse for a type of the catalog. #}
{% macro type_of(kind) -%}
  {%- if kind == 'text' -%}{{ dbt.type_string() }}
  {%- elif kind == 'bigint' -%}{{ dbt.type_bigint() }}
  {%- elif kind == 'double' -%}{{ propel_auth.type_double() }}
  {%- elif kind == 'bool' -%}{{ dbt.type_boolean() }}
  {%- elif kind == 'date' -%}date
  {%- elif kind == 'json' -%}{{ propel_auth.type_json() }}
  {%- else -%}{{ propel_auth.type_time() }}
  {%- endif -%}
{%- endmacro %}

{% macro type_time() %}{{ return(adapter.dispatch('type_time', 'propel_auth')()) }}{% endmacro %}
{% macro default__type_time() %}timestamp with time zone{% endmacro %}
{% macro snowflake__type_time() %}timestamp_tz{% endmacro %}
{% macro bigquery__type_time() %}timestamp{% endmacro %}
{% macro redshift__type_time() %}timestamptz{% endmacro %}
{% macro databricks__type_time() %}timestamp{% endmacro %}

{# 8 bytes: dbt's own float has 4 on DuckDB. #}
{% macro type_double() %}{{ return(adapter.dispatch('type_double', 'propel_auth')()) }}{% endmacro %}
{% macro default__type_double() %}double precision{% endmacro %}
{% macro bigquery__type_double() %}float64{% endmacro %}
{% macro databricks__type_double() %}double{% endmacro %}

{# The type that dlt stores JSON as. #}
{% macro type_json() %}{{ return(adapter.dispatch('type_json', 'propel_auth')()) }}{% endmacro %}
{% macro default__type_json() %}json{% endmacro %}
{% macro postgres__type_json() %}jsonb{% endmacro %}
{% macro snowflake__type_json() %}variant{% endmacro %}
{% macro redshift__type_json() %}super{% endmacro %}
{% macro databricks__type_json() %}string{% endmacro %}
