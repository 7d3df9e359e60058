{# Every version of each row of a raw table that a load has seen: one row per key and `valid_from`.

   `read_at` is the time of the load. A version begins and ends at the time of the load that showed it, on the one clock
   of all marts. Not a dbt snapshot: a snapshot ends deleted rows at the time of writing, adds a version to every row
   when a column is added, and has times without a time zone (docs/decisions/0009). #}
{% macro history(raw_table, load_of, key, columns, json_columns, loads) -%}
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
{%- if loads %}
{{ propel_auth.change_times(raw_table, load_of, key, loads) }},
{%- endif %}

latest_load as (
  -- Never before the newest version: a clock that went back must not end a version before it began.
  select max(read_at) as read_at
  from (
    select {{ propel_auth.as_of(load_of) }} as read_at
    union all
    select max(valid_from) from {{ this }}
  ) as times
),

open_versions as (
  select * from {{ this }} where valid_to is null
),

new_versions as (
  select
    raw_rows.*,
    latest_load.read_at as valid_from,
    cast(null as {{ propel_auth.type_time() }}) as valid_to
    {{- propel_auth.change_columns(key) if loads }}
  from raw_rows
  cross join latest_load
  {{ propel_auth.join_change_times(key) if loads }}
  left join open_versions on {{ propel_auth.same_key('open_versions', 'raw_rows', key) }}
  where open_versions.{{ key[0] }} is null or {{ propel_auth.differs('open_versions', 'raw_rows', values) }}
),

ended_versions as (
  select
    {%- for column in key + values %}
    open_versions.{{ column }},
    {%- endfor %}
    open_versions.valid_from,
    latest_load.read_at as valid_to
    {%- if loads %},
    open_versions.changed_after,
    open_versions.changed_before
    {%- endif %}
  from open_versions
  cross join latest_load
  left join raw_rows on {{ propel_auth.same_key('open_versions', 'raw_rows', key) }}
  where
    raw_rows.{{ key[0] }} is null
    or (open_versions.valid_from < latest_load.read_at and {{ propel_auth.differs('open_versions', 'raw_rows', values) }})
)

{%- set shown = (key + values) | join(', ') ~ ', valid_from, valid_to' ~ (', changed_after, changed_before' if loads else '') %}

select {{ shown }} from new_versions
union all
select {{ shown }} from ended_versions
{%- else %}
{%- if loads %}
{{ propel_auth.change_times(raw_table, load_of, key, loads) }},
{%- endif %}

latest_load as (
  select {{ propel_auth.as_of(load_of) }} as read_at
)

select
  raw_rows.*,
  latest_load.read_at as valid_from,
  cast(null as {{ propel_auth.type_time() }}) as valid_to
  {{- propel_auth.change_columns(key) if loads }}
from raw_rows
cross join latest_load
{{ propel_auth.join_change_times(key) if loads }}
{%- endif %}
{%- endmacro %}

{% macro change_columns(key) -%}
,
  case when logged.{{ key[0] }} is null then bounds.changed_after else logged.changed_after end as changed_after,
  case when logged.{{ key[0] }} is null then bounds.changed_before else logged.changed_before end as changed_before
{%- endmacro %}

{% macro join_change_times(key) -%}
cross join bounds
  left join logged on {{ propel_auth.same_key('logged', 'raw_rows', key) }}
{%- endmacro %}

{# When a version that is new now has begun: `logged` has the change log's interval of each key, `bounds` that of the
   others: from the start of the last full load before the previous build, to the end of the last load.

   A full load compares only the keys that the log has since the full load before it began, so an older entry does not
   describe the current version. #}
{% macro change_times(raw_table, load_of, key, loads) -%}
{%- set read = propel_auth.existing_loads(loads) -%}
full_loads as (
  select started_at, row_number() over (order by started_at desc) as age
  from {{ propel_auth.complete_scans() }} as scans
  where table_name = '{{ load_of }}' and mode = 'full' and verdict <> 'skipped'
),

logged as (
  select {{ key | join(', ') }}, changed_after, changed_before
  from (
    select
      {{ key | join(', ') }},
      changed_after,
      changed_before,
      observed_to,
      row_number() over (partition by {{ key | join(', ') }} order by observed_to desc) as age
    from {{ propel_auth.raw('propel_changes') }} as changes
    where table_name = '{{ raw_table }}' and change in ('added', 'changed')
  ) as entries
  where age = 1 and not exists (select 1 from full_loads where full_loads.age = 2 and started_at >= observed_to)
),

bounds as (
  select
    {%- if read %}
    (select max(full_load_started_at) from {{ read }}) as changed_after,
    {%- else %}
    cast(null as {{ propel_auth.type_time() }}) as changed_after,
    {%- endif %}
    max(finished_at) as changed_before
  from {{ propel_auth.complete_scans() }} as scans
  where table_name = '{{ load_of }}' and verdict <> 'skipped'
)
{%- endmacro %}

{# The table of the loads as the last build left it. Not a ref: it is built after the histories. #}
{% macro existing_loads(name) -%}
  {%- if name and execute and is_incremental() -%}
    {%- set relation = load_relation(api.Relation.create(database=this.database, schema=this.schema, identifier=name)) -%}
    {%- if relation is not none -%}
      {%- if propel_auth.has_column(relation, 'full_load_started_at') -%}{{ return(relation) }}{%- endif -%}
    {%- endif -%}
  {%- endif -%}
  {{ return(none) }}
{%- endmacro %}

{# Whether the table of an earlier version has a column. #}
{% macro has_column(relation, name) -%}
  {%- set columns = adapter.get_columns_in_relation(relation) | map(attribute='name') | map('lower') | list -%}
  {{ return(name in columns) }}
{%- endmacro %}

{# The start of the last full load of a raw table. #}
{% macro full_load_started_at(table) -%}
(
  select max(started_at)
  from {{ propel_auth.complete_scans() }} as full_scans
  where table_name = '{{ table }}' and mode = 'full' and verdict <> 'skipped'
)
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

{# For each time `at` in the column `time` of `relation`: the start of the last full load of users before it. Null: it was the first. #}
{% macro previous_loads(relation, time) -%}
select times.at, max(coalesce(loads.full_load_started_at, loads.read_at)) as previous_read_at
from (select distinct {{ time }} as at from {{ relation }}) as times
left join {{ ref('user_loads') }} as loads on loads.read_at < times.at
group by times.at
{%- endmacro %}
