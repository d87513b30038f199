{%- macro sums(prefix, condition='') %}
        {%- for tally in tallies %}, sum({{ tally }}) {{ condition }}::FLOAT AS {{ prefix }}_{{ tally }}{% endfor %}
{%- endmacro %}
-- The tiles that enter or leave a window in hours {{ first_hour }} to {{ last_hour }}, each with those hours, and the sums so far of their keys.
--
-- A tile enters every window at the hour in which it is visible and leaves a window of w hours at
-- end_hour + w; one that arrives later than that enters and leaves at once.
CREATE OR REPLACE TEMP TABLE moving AS
SELECT *
FROM (
    SELECT
        * EXCLUDE (end_hour, visible_hour),
        CASE WHEN visible_hour BETWEEN {{ first_hour }} AND {{ last_hour }} THEN visible_hour END AS entered
        {%- for window in windows if window.hours %},
        CASE WHEN is_dated AND greatest(end_hour + {{ window.hours }}, visible_hour) BETWEEN {{ first_hour }} AND {{ last_hour }}
            THEN greatest(end_hour + {{ window.hours }}, visible_hour) END AS left_{{ window.name }}
        {%- endfor %}
    FROM tiles
    WHERE visible_hour <= {{ last_hour }} AND (
        visible_hour >= {{ first_hour }}
        {%- for window in windows if window.hours %}
        OR end_hour BETWEEN {{ first_hour - window.hours }} AND {{ last_hour - window.hours }}
        {%- endfor %}
    )
)
WHERE entered IS NOT NULL {%- for window in windows if window.hours %} OR left_{{ window.name }} IS NOT NULL{% endfor %};

CREATE OR REPLACE TEMP TABLE so_far AS
SELECT *
FROM stored_{{ table }}
SEMI JOIN (
    SELECT key, max(as_of) AS as_of
    FROM stored_{{ table }} SEMI JOIN moving USING (key)
    GROUP BY key
) AS newest USING (key, as_of);

-- The counts so far and after every hour with an entry or a leave: running sums of the changes, begun with the sums so
-- far. All are whole numbers in DOUBLE, so exact.
CREATE OR REPLACE TEMP TABLE counts AS
WITH entries AS (
    SELECT key, entered AS hour {{- sums('total') }} {{- sums('dated', 'FILTER (is_dated)') }}
    FROM moving
    WHERE entered IS NOT NULL
    GROUP BY ALL
){% for window in windows if window.hours %}, leaves_{{ window.name }} AS (
    SELECT key, left_{{ window.name }} AS hour {{- sums('left_' ~ window.name) }}
    FROM moving
    WHERE left_{{ window.name }} IS NOT NULL
    GROUP BY ALL
){% endfor %}, moments AS (
    SELECT key, hour FROM entries
    {%- for window in windows if window.hours %}
    UNION SELECT key, hour FROM leaves_{{ window.name }}
    {%- endfor %}
), changes AS (
    SELECT
        key, hour
        {%- for window in windows %}{% for tally in tallies %},
        {% if window.hours -%}
        coalesce(dated_{{ tally }}, 0) - coalesce(left_{{ window.name }}_{{ tally }}, 0) AS {{ tally }}_{{ window.name }}
        {%- else -%}
        coalesce(total_{{ tally }}, 0) AS {{ tally }}_{{ window.name }}
        {%- endif %}
        {%- endfor %}{% endfor %}
    FROM moments
    LEFT JOIN entries USING (key, hour)
    {%- for window in windows if window.hours %}
    LEFT JOIN leaves_{{ window.name }} USING (key, hour)
    {%- endfor %}
    UNION ALL
    SELECT
        key, {{ first_hour - 1 }} AS hour
        {%- for window in windows %}{% for tally in tallies %}, {{ tally }}_{{ window.name }}::DOUBLE{% endfor %}{% endfor %}
    FROM so_far
)
SELECT
    key, hour
    {%- for window in windows %}{% for tally in tallies %},
    sum({{ tally }}_{{ window.name }}) OVER in_order AS {{ tally }}_{{ window.name }}
    {%- endfor %}{% endfor %}
FROM changes
WINDOW in_order AS (PARTITION BY key ORDER BY hour ROWS UNBOUNDED PRECEDING)
