{%- macro is_counted(tally) -%}
{%- if tally.startswith('did_') -%}
kind = '{{ tally[4:] }}'
{%- elif tally.startswith('seen_') -%}
kind IS NULL AND (observed_kinds IS NULL OR list_contains(observed_kinds, '{{ tally[5:] }}'))
{%- else -%}
kind IS NULL
{%- endif -%}
{%- endmacro -%}
-- The counts after hour {{ last_hour }}, which is built alone: of one hour no order matters, so a key's counts are its sums so
-- far and all that enters or leaves. Whole numbers in DOUBLE, as of several hours.
CREATE OR REPLACE TEMP TABLE counts AS
WITH changes AS (
    SELECT
        {{ key }} AS key
        {%- for window in windows %}{% for tally in tallies %},
        sum(CASE WHEN {{ is_counted(tally) }} THEN change_{{ window.name }} ELSE 0 END) AS {{ tally }}_{{ window.name }}
        {%- endfor %}{% endfor %}
    FROM moves
    GROUP BY {{ key }}
), so_far AS (
    SELECT *
    FROM stored_{{ table }}
    SEMI JOIN (
        SELECT key, max(as_of) AS as_of
        FROM stored_{{ table }} SEMI JOIN changes USING (key)
        GROUP BY key
    ) AS newest USING (key, as_of)
)
SELECT
    changes.key, {{ last_hour }} AS hour
    {%- for window in windows %}{% for tally in tallies %},
    changes.{{ tally }}_{{ window.name }} + coalesce(so_far.{{ tally }}_{{ window.name }}, 0)::DOUBLE AS {{ tally }}_{{ window.name }}
    {%- endfor %}{% endfor %}
FROM changes LEFT JOIN so_far USING (key)
