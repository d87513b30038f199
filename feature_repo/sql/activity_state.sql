-- The sums of each key that moved, after hour {{ checkpoint_hour }}: one row per key.
WITH moved AS (
    SELECT
        key
        {%- for window in windows %}{% for tally in tallies %},
        {% if window.hours -%}
        coalesce(sum({{ tally }}) FILTER (is_dated AND entered <= {{ checkpoint_hour }}), 0)
            - coalesce(sum({{ tally }}) FILTER (left_{{ window.name }} <= {{ checkpoint_hour }}), 0)
        {%- else -%}
        coalesce(sum({{ tally }}) FILTER (entered <= {{ checkpoint_hour }}), 0)
        {%- endif %} AS {{ tally }}_{{ window.name }}
        {%- endfor %}{% endfor %}
    FROM moving
    WHERE entered <= {{ checkpoint_hour }} {%- for window in windows if window.hours %} OR left_{{ window.name }} <= {{ checkpoint_hour }}{% endfor %}
    GROUP BY key
)
SELECT
    moved.key, {{ checkpoint_hour }} AS as_of
    {%- for window in windows %}{% for tally in tallies %},
    (moved.{{ tally }}_{{ window.name }} + coalesce(so_far.{{ tally }}_{{ window.name }}, 0))::BIGINT AS {{ tally }}_{{ window.name }}
    {%- endfor %}{% endfor %}
FROM moved LEFT JOIN so_far USING (key)
