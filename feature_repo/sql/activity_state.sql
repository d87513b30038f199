-- The counts of each key that moved, after hour {{ checkpoint_hour }}: one row per key.
SELECT
    key, {{ checkpoint_hour }} AS as_of
    {%- for window in windows %}{% for tally in tallies %},
    {{ tally }}_{{ window.name }}::BIGINT AS {{ tally }}_{{ window.name }}
    {%- endfor %}{% endfor %}
FROM counts
{%- if not is_alone %}
SEMI JOIN (
    SELECT key, max(hour) AS hour
    FROM counts
    WHERE hour <= {{ checkpoint_hour }}
    GROUP BY key
    HAVING max(hour) >= {{ first_hour }}
) AS latest USING (key, hour)
{%- endif %}
