{# For the nodes of this package only: histories are in the schema that the variable names, or else where dbt's own rule puts
   them, in <target schema>_propel_auth_history. #}
{% macro generate_schema_name(custom_schema_name, node) -%}
  {%- set histories = var('propel_auth_history_schema') -%}
  {%- if custom_schema_name == 'propel_auth_history' and histories -%}{{ histories | trim }}
  {%- else -%}{{ default__generate_schema_name(custom_schema_name, node) }}
  {%- endif -%}
{%- endmacro %}
