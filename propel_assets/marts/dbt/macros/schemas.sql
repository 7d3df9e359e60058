{# A custom schema is used as it is named, not behind the target's own. Other projects keep their own rule. #}
{% macro generate_schema_name(custom_schema_name, node) -%}
  {{ (custom_schema_name or target.schema) | trim }}
{%- endmacro %}
