-- What enters or leaves a window in hour {{ last_hour }}, which is built alone, with its change of the count of each window.
CREATE OR REPLACE TABLE moves AS
{%- macro change(window) -%}
{%- if window.hours -%}
(is_dated AND visible_hour = {{ last_hour }})::INTEGER - (is_dated AND greatest(end_hour + {{ window.hours }}, visible_hour) = {{ last_hour }})::INTEGER
{%- else -%}
(visible_hour = {{ last_hour }})::INTEGER
{%- endif -%}
{%- endmacro %}
SELECT
    user_id, post_id, creator_id, kind {{- ', observed_kinds' if has_observed_kinds }}
    {%- for window in windows %},
    {{ change(window) }} AS change_{{ window.name }}
    {%- endfor %}
FROM (
    SELECT *, NULL AS kind FROM impression_hours
    UNION ALL BY NAME
    SELECT * EXCLUDE (at_seconds) FROM engagement_hours
)
