{# The last version of each row that a history has, and since when there was one. #}
{% macro latest_versions(history, key) -%}
select *
from (
  select
    *,
    row_number() over (partition by {{ key }} order by dbt_valid_from desc) as age,
    min(dbt_valid_from) over (partition by {{ key }}) as first_valid_from
  from {{ history }}
) as versions
where age = 1
{%- endmacro %}
