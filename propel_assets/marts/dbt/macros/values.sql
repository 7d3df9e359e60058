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

{# `time` moved by a number of days; the number may be negative, and may be a column. #}
{% macro plus_days(time, days) %}{{ return(adapter.dispatch('plus_days', 'propel_auth')(time, days)) }}{% endmacro %}
{% macro default__plus_days(time, days) %}({{ time }} + (({{ days }}) * interval '1 day')){% endmacro %}
{% macro snowflake__plus_days(time, days) %}dateadd(day, {{ days }}, {{ time }}){% endmacro %}
{% macro redshift__plus_days(time, days) %}dateadd(day, {{ days }}, {{ time }}){% endmacro %}
{% macro bigquery__plus_days(time, days) %}timestamp_add({{ time }}, interval ({{ days }}) day){% endmacro %}
{% macro databricks__plus_days(time, days) %}dateadd(day, {{ days }}, {{ time }}){% endmacro %}

{# Whole days from one time to a later one. #}
{% macro days_between(earlier, later) -%}
  {{ dbt.datediff(propel_auth.utc_day(earlier), propel_auth.utc_day(later), 'day') }}
{%- endmacro %}

{# A share from 0 to 1; null where there is nothing to share. #}
{% macro share(part, whole) -%}
  cast({{ part }} as {{ propel_auth.type_double() }}) / nullif({{ whole }}, 0)
{%- endmacro %}

{# When PropelAuth was read: the end of the last complete reading of `table`. Null before the first. #}
{% macro as_of(table) -%}
  {%- if var('propel_auth_as_of') -%}
    cast('{{ var("propel_auth_as_of") }}' as {{ propel_auth.type_time() }})
  {%- else -%}
    (
      select max(finished_at)
      from {{ propel_auth.raw('propel_scans') }} as scans
      where table_name = '{{ table }}' and verdict <> 'skipped'
    )
  {%- endif -%}
{%- endmacro %}

{# `'a', 'b'` #}
{% macro listed(words) -%}
  {%- for word in words -%}'{{ word }}'{{ ", " if not loop.last }}{%- endfor -%}
{%- endmacro %}

{# How a day's rows are replaced together when the day is built again. #}
{% macro replace_day() -%}
  {{ return('insert_overwrite' if target.type == 'bigquery' else 'delete+insert') }}
{%- endmacro %}

{% macro free_domains() -%}
  {{ return([
    'gmail.com', 'googlemail.com', 'outlook.com', 'hotmail.com', 'live.com', 'msn.com', 'yahoo.com', 'ymail.com',
    'icloud.com', 'me.com', 'mac.com', 'aol.com', 'proton.me', 'protonmail.com', 'pm.me', 'gmx.com', 'gmx.de',
    'gmx.net', 'web.de', 'mail.com', 'zoho.com', 'fastmail.com', 'hey.com', 'qq.com', '163.com', 'yandex.ru',
    'mail.ru',
  ] + var('propel_auth_more_free_domains')) }}
{%- endmacro %}

{# dbt writes the times of a history without a zone, in UTC: here with one, as all other times are. #}
{% macro with_zone(time) %}{{ return(adapter.dispatch('with_zone', 'propel_auth')(time)) }}{% endmacro %}
{% macro default__with_zone(time) %}timezone('UTC', {{ time }}){% endmacro %}
{% macro snowflake__with_zone(time) %}to_timestamp_tz(to_varchar({{ time }}) || ' +00:00'){% endmacro %}
{% macro bigquery__with_zone(time) %}{{ time }}{% endmacro %}
{% macro databricks__with_zone(time) %}{{ time }}{% endmacro %}

{# The time of a new version in a history: in UTC also where the server is set to another zone. #}
{% macro postgres__snapshot_get_time() %}timezone('UTC', now()){% endmacro %}
{% macro duckdb__snapshot_get_time() %}timezone('UTC', now()){% endmacro %}
{% macro redshift__snapshot_get_time() %}getdate(){% endmacro %}

{# The number a variable has, as a type of the warehouse; null where it has none. #}
{% macro number_of(variable, type) -%}
  {%- set number = var(variable) -%}
  {%- if number is not none and number is not number -%}
    {{ exceptions.raise_compiler_error("The variable " ~ variable ~ " must be a number, not " ~ number ~ ".") }}
  {%- endif -%}
  cast({{ 'null' if number is none else number }} as {{ type }})
{%- endmacro %}

{# The columns `keep` of a table called `of`, once for each pair of the JSON object `column`, whose values are texts:
   `name` and `told`. #}
{% macro json_pairs(of, keep, column) -%}
  {{ return(adapter.dispatch('json_pairs', 'propel_auth')(of, keep, column)) }}
{%- endmacro %}
{% macro default__json_pairs(of, keep, column) -%}
select {{ keep | join(', ') }}, name, json_extract_string({{ column }}, '$."' || name || '"') as told
from (select *, unnest(json_keys({{ column }})) as name from {{ of }}) as named
{%- endmacro %}
{% macro postgres__json_pairs(of, keep, column) -%}
select {{ keep | join(', ') }}, pairs.key as name, pairs.value as told
from {{ of }}
cross join lateral jsonb_each_text({{ column }}) as pairs
{%- endmacro %}
{% macro snowflake__json_pairs(of, keep, column) -%}
select {{ keep | join(', ') }}, pairs.key as name, cast(pairs.value as varchar) as told
from {{ of }}
cross join lateral flatten(input => {{ column }}) as pairs
{%- endmacro %}
{% macro bigquery__json_pairs(of, keep, column) -%}
select {{ keep | join(', ') }}, name, json_value({{ column }}[name]) as told
from {{ of }}
cross join unnest(json_keys({{ column }}, 1)) as name
{%- endmacro %}
{% macro redshift__json_pairs(of, keep, column) -%}
select {{ keep | join(', ') }}, name, cast(told as varchar) as told
from {{ of }}, unpivot {{ of }}.{{ column }} as told at name
{%- endmacro %}
{% macro databricks__json_pairs(of, keep, column) -%}
select {{ keep | join(', ') }}, name, told
from {{ of }}
lateral view explode(from_json({{ column }}, 'map<string,string>')) pairs as name, told
{%- endmacro %}
