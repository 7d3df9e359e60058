{# Each combination of `columns` occurs once. None of them is null, except those in `nullable`. #}
{% test is_grain(model, columns, nullable=[]) %}
select {{ columns | join(', ') }}, count(*) as rows_found
from {{ model }}
group by {{ columns | join(', ') }}
having count(*) > 1
  {%- for column in columns if column not in nullable %} or {{ column }} is null{% endfor %}
{% endtest %}
