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
SEMI JOIN moving USING (key)
QUALIFY row_number() OVER (PARTITION BY key ORDER BY as_of DESC) = 1
