{# JSON as text, so that it can be compared and grouped on every warehouse. #}
{% macro json_text(column) %}{{ return(adapter.dispatch('json_text', 'propel_auth')(column)) }}{% endmacro %}
{% macro default__json_text(column) %}cast({{ column }} as {{ dbt.type_string() }}){% endmacro %}
{% macro snowflake__json_text(column) %}to_json({{ column }}){% endmacro %}
{% macro bigquery__json_text(column) %}to_json_string({{ column }}){% endmacro %}
{% macro redshift__json_text(column) %}json_serialize({{ column }}){% endmacro %}

{# The day in UTC, whatever the session's time zone. #}
{% macro utc_day(time) %}{{ return(adapter.dispatch('utc_day', 'propel_auth')(time)) }}{% endmacro %}
{% macro default__utc_day(time) %}cast(timezone('UTC', {{ time }}) as date){% endmacro %}
{% macro snowflake__utc_day(time) %}cast(convert_timezone('UTC', {{ time }}) as date){% endmacro %}
{% macro bigquery__utc_day(time) %}date({{ time }}, 'UTC'){% endmacro %}
{% macro databricks__utc_day(time) %}cast(to_utc_timestamp({{ time }}, current_timezone()) as date){% endmacro %}

{# `time` moved by days of 24 hours, in every session time zone; the number may be negative, and may be a column. #}
{% macro plus_days(time, days) %}{{ return(adapter.dispatch('plus_days', 'propel_auth')(time, days)) }}{% endmacro %}
{% macro default__plus_days(time, days) %}({{ time }} + (({{ days }}) * interval '24 hours')){% endmacro %}
{% macro snowflake__plus_days(time, days) %}dateadd(day, {{ days }}, {{ time }}){% endmacro %}
{% macro redshift__plus_days(time, days) %}dateadd(day, {{ days }}, {{ time }}){% endmacro %}
{% macro bigquery__plus_days(time, days) %}timestamp_add({{ time }}, interval ({{ days }}) day){% endmacro %}
{% macro databricks__plus_days(time, days) %}dateadd(day, {{ days }}, {{ time }}){% endmacro %}

{# Seconds since 1970. #}
{% macro epoch(time) %}{{ return(adapter.dispatch('epoch', 'propel_auth')(time)) }}{% endmacro %}
{% macro default__epoch(time) %}extract(epoch from {{ time }}){% endmacro %}
{% macro snowflake__epoch(time) %}date_part(epoch_second, {{ time }}){% endmacro %}
{% macro bigquery__epoch(time) %}unix_seconds({{ time }}){% endmacro %}
{% macro databricks__epoch(time) %}unix_timestamp({{ time }}){% endmacro %}

{# Hours from one time to a later one, with fractions: a real interval. Not `datediff`, which on DuckDB compares local
   times and so is wrong by an hour when daylight saving time begins or ends between them. #}
{% macro hours_between(earlier, later) -%}
  cast({{ propel_auth.epoch(later) }} - {{ propel_auth.epoch(earlier) }} as {{ propel_auth.type_double() }}) / 3600
{%- endmacro %}

{# A share from 0 to 1; null if the whole is 0. #}
{% macro share(part, whole) -%}
  cast({{ part }} as {{ propel_auth.type_double() }}) / nullif({{ whole }}, 0)
{%- endmacro %}

{# Which columns of `users` have values, as `has_<column>`: the privacy policy can drop them. True if there are no users. #}
{% macro known_columns(columns) -%}
select
  {%- for column in columns %}
  count(*) = 0 or count({{ column }}) > 0 as has_{{ column }}{{ "," if not loop.last }}
  {%- endfor %}
from {{ propel_auth.raw('user_query') }} as users
{%- endmacro %}

{# A count as a whole number: a sum is a decimal on some warehouses. #}
{% macro whole(count) -%}
  cast({{ count }} as {{ dbt.type_bigint() }})
{%- endmacro %}

{# The first day of the week (Monday) or month of a day. #}
{% macro period_start(period, day) -%}
  cast({{ dbt.date_trunc(period, day) }} as date)
{%- endmacro %}

{# The time of the last load of `table`: the end of the scan. Null before the first. Times in the data never move it. #}
{% macro as_of(table) -%}
  (
    select
      {%- if var('propel_auth_as_of') %} cast('{{ var("propel_auth_as_of") }}' as {{ propel_auth.type_time() }})
      {%- else %} max(finished_at)
      {%- endif %} as read_at
    from {{ propel_auth.complete_scans() }} as scans
    where table_name = '{{ table }}' and verdict <> 'skipped'
    {%- if var('propel_auth_as_of') %} group by 1 {%- endif %}
  )
{%- endmacro %}

{# A time in the data, at most `limit`, the time of a load: PropelAuth's clock can be ahead of ours. Null stays null. #}
{% macro not_after(time, limit) -%}
  case when {{ time }} > {{ limit }} then {{ limit }} else {{ time }} end
{%- endmacro %}

{# `'a', 'b'` #}
{% macro listed(words) -%}
  {%- for word in words -%}'{{ word }}'{{ ", " if not loop.last }}{%- endfor -%}
{%- endmacro %}

{# The strategy that replaces all rows of a day when the day is built again. #}
{% macro replace_day() -%}
  {{ return('insert_overwrite' if target.type == 'bigquery' else 'delete+insert') }}
{%- endmacro %}

{# The number in a variable, as a type of the warehouse. #}
{% macro number_of(variable, type) -%}
  {%- set number = var(variable) -%}
  {%- if number is not number -%}
    {{ exceptions.raise_compiler_error("The variable " ~ variable ~ " must be a number, not " ~ number ~ ".") }}
  {%- endif -%}
  cast({{ number }} as {{ type }})
{%- endmacro %}

{# The columns `keep` of a relation `of`, once for each pair of the JSON object `column` with text values: `name` and
   `finding`. #}
{% macro json_pairs(of, keep, column) -%}
  {{ return(adapter.dispatch('json_pairs', 'propel_auth')(of, keep, column)) }}
{%- endmacro %}
{% macro default__json_pairs(of, keep, column) -%}
select {{ keep | join(', ') }}, name, json_extract_string({{ column }}, '$."' || name || '"') as finding
from (select *, unnest(json_keys({{ column }})) as name from {{ of }}) as named
{%- endmacro %}
{% macro postgres__json_pairs(of, keep, column) -%}
select {{ keep | join(', ') }}, pairs.key as name, pairs.value as finding
from {{ of }}
cross join lateral jsonb_each_text({{ column }}) as pairs
{%- endmacro %}
{% macro snowflake__json_pairs(of, keep, column) -%}
select {{ keep | join(', ') }}, pairs.key as name, cast(pairs.value as varchar) as finding
from {{ of }}
cross join lateral flatten(input => {{ column }}) as pairs
{%- endmacro %}
{% macro bigquery__json_pairs(of, keep, column) -%}
select {{ keep | join(', ') }}, name, json_value({{ column }}[name]) as finding
from {{ of }}
cross join unnest(json_keys({{ column }}, 1)) as name
{%- endmacro %}
{% macro redshift__json_pairs(of, keep, column) -%}
select {{ keep | join(', ') }}, name, cast(finding as varchar) as finding
from {{ of }}, unpivot {{ of }}.{{ column }} as finding at name
{%- endmacro %}
{% macro databricks__json_pairs(of, keep, column) -%}
select {{ keep | join(', ') }}, name, finding
from {{ of }}
lateral view explode(from_json({{ column }}, 'map<string,string>')) pairs as name, finding
{%- endmacro %}

{# The columns `keep` of a relation `of`, once for each element of `column`, a JSON list of texts stored as text:
   `element`. #}
{% macro json_elements(of, keep, column) -%}
  {{ return(adapter.dispatch('json_elements', 'propel_auth')(of, keep, column)) }}
{%- endmacro %}
{% macro default__json_elements(of, keep, column) -%}
select {{ keep | join(', ') }}, unnest(json_extract_string({{ column }}, '$[*]')) as element
from {{ of }}
{%- endmacro %}
{% macro postgres__json_elements(of, keep, column) -%}
select {{ keep | join(', ') }}, elements.element
from {{ of }}
cross join lateral jsonb_array_elements_text(cast({{ column }} as jsonb)) as elements (element)
{%- endmacro %}
{% macro snowflake__json_elements(of, keep, column) -%}
select {{ keep | join(', ') }}, cast(elements.value as varchar) as element
from {{ of }}
cross join lateral flatten(input => parse_json({{ column }})) as elements
{%- endmacro %}
{% macro bigquery__json_elements(of, keep, column) -%}
select {{ keep | join(', ') }}, element
from {{ of }}
cross join unnest(json_value_array({{ column }})) as element
{%- endmacro %}
{% macro redshift__json_elements(of, keep, column) -%}
select {{ keep | join(', ') }}, cast(element as varchar) as element
from (select {{ keep | join(', ') }}, json_parse({{ column }}) as list from {{ of }}) as lists, lists.list as element
{%- endmacro %}
{% macro databricks__json_elements(of, keep, column) -%}
select {{ keep | join(', ') }}, element
from {{ of }}
lateral view explode(from_json({{ column }}, 'array<string>')) elements as element
{%- endmacro %}

{# The text under `key` of a JSON object stored as text. #}
{% macro json_field(column, key) %}{{ return(adapter.dispatch('json_field', 'propel_auth')(column, key)) }}{% endmacro %}
{% macro default__json_field(column, key) %}json_extract_string({{ column }}, '$."{{ key }}"'){% endmacro %}
{% macro postgres__json_field(column, key) %}(cast({{ column }} as jsonb) ->> '{{ key }}'){% endmacro %}
{% macro snowflake__json_field(column, key) %}cast(get(parse_json({{ column }}), '{{ key }}') as varchar){% endmacro %}
{% macro bigquery__json_field(column, key) %}json_value({{ column }}, '$."{{ key }}"'){% endmacro %}
{% macro redshift__json_field(column, key) %}json_extract_path_text({{ column }}, '{{ key }}'){% endmacro %}
{% macro databricks__json_field(column, key) %}get_json_object({{ column }}, '$.{{ key }}'){% endmacro %}
