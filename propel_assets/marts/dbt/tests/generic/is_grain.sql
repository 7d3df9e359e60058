{# Each combination of `columns` is there once, and none of them is null. #}
{% test is_grain(model, columns) %}
select {{ columns | join(', ') }}, count(*) as rows_found
from {{ model }}
group by {{ columns | join(', ') }}
having count(*) > 1
  {%- for column in columns %} or {{ column }} is null{% endfor %}
{% endtest %}
