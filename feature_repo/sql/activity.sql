-- {{ view }}: counts and smoothed rates per {{ key }} and hour, over {{ windows | join(', ', attribute='name') }}.
--
-- A tile enters every window at the hour in which it is visible and leaves a window of w hours at
-- end_hour + w; one that arrives later than that enters and leaves at once. A row is written at each
-- entry and each leave, so counts fall again, and the running sums of the changes are the counts.
-- Keys are taken in {{ num_shards }} shards to bound memory; this is shard {{ shard }}.
{%- macro sums(prefix) %}
        {%- for tally in tallies %}, sum({{ tally }})::FLOAT AS {{ prefix }}_{{ tally }}{% endfor %}
{%- endmacro %}
WITH shard AS (
    SELECT * FROM tiles WHERE key % {{ num_shards }} = {{ shard }}
), entered_total AS (
    SELECT key, visible_hour AS hour {{- sums('total') }}
    FROM shard
    GROUP BY ALL
), entered AS (
    SELECT key, visible_hour AS hour {{- sums('entered') }}
    FROM shard
    WHERE is_dated
    GROUP BY ALL
){% for window in windows if window.hours %}, left_{{ window.name }} AS (
    SELECT key, greatest(end_hour + {{ window.hours }}, visible_hour) AS hour {{- sums('left_' ~ window.name) }}
    FROM shard
    WHERE is_dated
    GROUP BY ALL
){% endfor %}, moments AS (
    SELECT key, hour FROM entered_total
    {%- for window in windows if window.hours %}
    UNION SELECT key, hour FROM left_{{ window.name }} WHERE hour <= {{ last_hour }}
    {%- endfor %}
), counts AS (
    SELECT
        key, hour
        {%- for window in windows %}{% for tally in tallies %},
        {% if window.hours -%}
        sum(coalesce(entered_{{ tally }}, 0) - coalesce(left_{{ window.name }}_{{ tally }}, 0)) OVER so_far AS {{ tally }}_{{ window.name }}
        {%- else -%}
        sum(coalesce(total_{{ tally }}, 0)) OVER so_far AS {{ tally }}_{{ window.name }}
        {%- endif %}
        {%- endfor %}{% endfor %}
    FROM moments
    LEFT JOIN entered_total USING (key, hour)
    LEFT JOIN entered USING (key, hour)
    {%- for window in windows if window.hours %}
    LEFT JOIN left_{{ window.name }} USING (key, hour)
    {%- endfor %}
    WINDOW so_far AS (PARTITION BY key ORDER BY hour ROWS UNBOUNDED PRECEDING)
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
