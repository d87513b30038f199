-- What happened to each {{ key }} per hour of the event and hour of its arrival.
CREATE OR REPLACE TEMP TABLE tiles AS
WITH seen AS (
    SELECT
        {{ key }} AS key, end_hour, visible_hour, is_dated,
        count(*) AS impressions
        {%- for kind in kinds %},
        {%- if has_observed_kinds %}
        count(*) FILTER (observed_kinds IS NULL OR list_contains(observed_kinds, '{{ kind }}')) AS seen_{{ kind }},
        {%- endif %}
        0 AS did_{{ kind }}
        {%- endfor %}
    FROM impression_hours
    GROUP BY ALL
), done AS (
    SELECT
        {{ key }} AS key, end_hour, visible_hour, is_dated,
        0 AS impressions
        {%- for kind in kinds %},
        {%- if has_observed_kinds %}
        0 AS seen_{{ kind }},
        {%- endif %}
        count(*) FILTER (kind = '{{ kind }}') AS did_{{ kind }}
        {%- endfor %}
    FROM engagement_hours
    GROUP BY ALL
)
SELECT
    key, end_hour, visible_hour, is_dated
    {%- for tally in tallies %},
    sum({{ tally }})::FLOAT AS {{ tally }}
    {%- endfor %}
FROM (SELECT * FROM seen UNION ALL BY NAME SELECT * FROM done)
GROUP BY ALL
{%- if is_whole %}
ORDER BY end_hour -- so that a step skips the tiles of other days
{%- endif %}
