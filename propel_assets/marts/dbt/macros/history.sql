{# Every version of each row of a raw table that a load has seen: one row per key and `valid_from`.

   `read_at` is the time of the load. A version begins and ends at the time of the load that showed it, on the one clock
   of all marts. Not a dbt snapshot: a snapshot ends deleted rows at the time of writing, adds a version to every row
   when a column is added, and has times without a time zone (docs/decisions/0009). #}
{% macro history(raw_table, reading_of, key, columns, json_columns) -%}
{%- set values = columns + json_columns -%}
with raw_rows as (
  select
    {{ (key + columns) | join(', ') }}
    {%- for column in json_columns %},
    {{ propel_auth.json_text(column) }} as {{ column }}
    {%- endfor %}
  from {{ propel_auth.raw_for_history(raw_table) }} as raw_table
),
{% if is_incremental() %}
reading as (
  -- Never before the newest version: a clock that went back must not end a version before it began.
  select max(read_at) as read_at
  from (
    select {{ propel_auth.as_of(reading_of) }} as read_at
    union all
    select max(valid_from) from {{ this }}
  ) as times
),

open_versions as (
  select * from {{ this }} where valid_to is null
),

new_versions as (
  select raw_rows.*, reading.read_at as valid_from, cast(null as {{ propel_auth.type_time() }}) as valid_to
  from raw_rows
  cross join reading
  left join open_versions on {{ propel_auth.same_key('open_versions', 'raw_rows', key) }}
  where open_versions.{{ key[0] }} is null or {{ propel_auth.differs('open_versions', 'raw_rows', values) }}
),

ended_versions as (
  select
    {%- for column in key + values %}
    open_versions.{{ column }},
    {%- endfor %}
    open_versions.valid_from,
    reading.read_at as valid_to
  from open_versions
  cross join reading
  left join raw_rows on {{ propel_auth.same_key('open_versions', 'raw_rows', key) }}
  where
    raw_rows.{{ key[0] }} is null
    or (open_versions.valid_from < reading.read_at and {{ propel_auth.differs('open_versions', 'raw_rows', values) }})
)

select {{ (key + values) | join(', ') }}, valid_from, valid_to from new_versions
union all
select {{ (key + values) | join(', ') }}, valid_from, valid_to from ended_versions
{%- else %}
reading as (
  select {{ propel_auth.as_of(reading_of) }} as read_at
)

select raw_rows.*, reading.read_at as valid_from, cast(null as {{ propel_auth.type_time() }}) as valid_to
from raw_rows
cross join reading
{%- endif %}
{%- endmacro %}

{% macro same_key(one, other, key) -%}
  {%- for column in key %}{{ one }}.{{ column }} = {{ other }}.{{ column }}{{ " and " if not loop.last }}{% endfor -%}
{%- endmacro %}

{# Whether two rows differ in one of the columns; null is a value. #}
{% macro differs(one, other, columns) -%}
  (
  {%- for column in columns %}
    {{ one }}.{{ column }} <> {{ other }}.{{ column }}
    or ({{ one }}.{{ column }} is null and {{ other }}.{{ column }} is not null)
    or ({{ one }}.{{ column }} is not null and {{ other }}.{{ column }} is null)
    {{- " or" if not loop.last }}
  {%- endfor %}
  )
{%- endmacro %}

{# The last version of each key of a history, and the time of the load that saw the first one. #}
{% macro latest_versions(history, key) -%}
select *
from (
  select
    *,
    row_number() over (partition by {{ key }} order by valid_from desc) as age,
    min(valid_from) over (partition by {{ key }}) as first_valid_from
  from {{ history }}
) as versions
where age = 1
{%- endmacro %}

{# For each time `at` in the column `time` of `relation`: the last load of users before it. Null: it was the first. #}
{% macro previous_readings(relation, time) -%}
select times.at, max(readings.read_at) as previous_read_at
from (select distinct {{ time }} as at from {{ relation }}) as times
left join {{ ref('user_readings') }} as readings on readings.read_at < times.at
group by times.at
{%- endmacro %}
