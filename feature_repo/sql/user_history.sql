-- user_history: the last {{ history_length }} engaged posts of each user after every hour with a new one, newest first.
WITH windows AS (
    SELECT
        user_id, engaged_hours.visible_hour,
        unnest(range(greatest(last_place - {{ history_length - 1 }}, 1), last_place + 1)) AS place
    FROM engaged_hours
), listed AS (
    SELECT windows.visible_hour AS hour, engaged.*
    FROM windows JOIN engaged USING (user_id, place)
), contents AS (
    SELECT * EXCLUDE (as_of) FROM stored_versions SEMI JOIN listed USING (post_id, version)
    UNION ALL
    SELECT * FROM fresh_versions WHERE version > {{ hour_start(first_hour - 1) }}
), weighed AS (
    SELECT
        user_id, place,
        strength AS mass
        {%- for i in dims %},
        {{ fixed('(contents.e' ~ i ~ ' * strength)::FLOAT') }} AS e{{ i }}
        {%- endfor %}
    FROM engaged JOIN contents USING (post_id, version)
    WHERE has_content
), centres AS (
    SELECT
        user_id, visible_hour,
        sum(mass) AS mass
        {%- for i in dims %},
        {{ unfixed('sum(e' ~ i ~ ')') }} AS e{{ i }}
        {%- endfor %}
    FROM windows JOIN weighed USING (user_id, place)
    GROUP BY user_id, visible_hour
), histories AS (
    SELECT
        user_id, hour AS visible_hour,
        list(post_id ORDER BY place DESC) AS history_post_ids,
        list(creator_id ORDER BY place DESC) AS history_creator_ids,
        list(topic_id ORDER BY place DESC) AS history_topic_ids,
        list(head::BIGINT ORDER BY place DESC) AS history_kinds,
        list(at_seconds ORDER BY place DESC) AS history_at
    FROM listed
    GROUP BY user_id, hour
)
SELECT
    histories.*,
    CASE WHEN mass > 0 THEN [{% for i in dims %}(e{{ i }} / mass)::FLOAT{{ ', ' if not loop.last }}{% endfor %}] END AS content_centroid,
    to_timestamp(visible_hour * 3600) AS event_at,
    to_timestamp(visible_hour * 3600) + INTERVAL {{ lag_seconds }} SECOND AS known_at
FROM histories LEFT JOIN centres USING (user_id, visible_hour)
