-- {{ view }}: counts and smoothed rates per {{ key }} and hour, over {{ windows | join(', ', attribute='name') }}.
--
-- A row is written at each entry of a tile into a window and at each leave, so counts fall again, and the running
-- sums of the changes, begun with the sums so far, are the counts. All are whole numbers in DOUBLE, so exact.
{%- macro sums(prefix, condition='') %}
        {%- for tally in tallies %}, sum({{ tally }}) {{ condition }}::FLOAT AS {{ prefix }}_{{ tally }}{% endfor %}
{%- endmacro %}
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
), counts AS (
    SELECT
        key, hour
        {%- for window in windows %}{% for tally in tallies %},
        sum({{ tally }}_{{ window.name }}) OVER in_order AS {{ tally }}_{{ window.name }}
        {%- endfor %}{% endfor %}
    FROM changes
    WINDOW in_order AS (PARTITION BY key ORDER BY hour ROWS UNBOUNDED PRECEDING)
)
SELECT
    key AS {{ key }}
    {%- for window in windows %},
    impressions_{{ window.name }}::FLOAT AS num_impressions_{{ window.name }}
    {%- for kind in kinds %}
    {%- set shown = ('seen_' ~ kind if has_observed_kinds else 'impressions') ~ '_' ~ window.name %},
    did_{{ kind }}_{{ window.name }}::FLOAT AS num_{{ kind }}_{{ window.name }},
    least(1e0, (did_{{ kind }}_{{ window.name }} + {{ prior_rates[kind] * prior_impressions }}e0) / ({{ shown }} + {{ prior_impressions }}e0))::FLOAT AS rate_{{ kind }}_{{ window.name }}
    {%- endfor %}
    {%- endfor %},
    to_timestamp(hour * 3600) AS event_at,
    to_timestamp(hour * 3600) + INTERVAL {{ lag_seconds }} SECOND AS known_at
FROM counts
WHERE hour >= {{ first_hour }}
