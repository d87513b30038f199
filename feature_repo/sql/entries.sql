-- Positive engagements that become visible in hours {{ first_hour }} to {{ last_hour }}, by user, post and hour, the
-- strongest kind of each, with the post as it was known then.
CREATE OR REPLACE TEMP TABLE entries AS
WITH graded AS (
    SELECT
        user_id, post_id, creator_id, visible_hour, at_seconds,
        CASE kind {% for kind, weight in kind_weights.items() %}WHEN '{{ kind }}' THEN {{ weight }} {% endfor %}END::FLOAT AS strength,
        CASE kind {% for kind in kind_weights %}WHEN '{{ kind }}' THEN {{ heads.index(kind) }} {% endfor %}END AS head
    FROM engagement_hours
    WHERE kind IN ({% for kind in kind_weights %}'{{ kind }}'{{ ', ' if not loop.last }}{% endfor %})
        AND visible_hour BETWEEN {{ first_hour }} AND {{ last_hour }}
), merged AS (
    SELECT
        user_id, post_id, visible_hour, min(creator_id) AS creator_id,
        max(at_seconds) AS at_seconds, max(strength) AS strength,
        arg_max(head, strength * 100 - head) AS head
    FROM graded
    GROUP BY user_id, post_id, visible_hour
), versions AS (
    SELECT post_id, known_at, arg_max(coalesce(topic_id, -1), event_at) AS topic_id, arg_max(media_type, event_at) AS media_type
    FROM posts
    WHERE known_at <= {{ hour_start(last_hour) }}
    {%- if not is_whole %} AND post_id IN (SELECT post_id FROM merged){% endif %}
    GROUP BY post_id, known_at
)
SELECT
    merged.*,
    coalesce(versions.topic_id, -1) AS topic_id,
    versions.media_type,
    versions.known_at AS version
FROM merged
ASOF LEFT JOIN versions ON merged.post_id = versions.post_id AND to_timestamp(merged.visible_hour * 3600) >= versions.known_at
