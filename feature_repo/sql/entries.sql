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
), known AS (
    SELECT post_id, version, topic_id, media_type FROM stored_versions SEMI JOIN merged USING (post_id)
    UNION ALL
    SELECT post_id, version, topic_id, media_type FROM fresh_versions
)
SELECT
    merged.*,
    coalesce(known.topic_id, -1) AS topic_id,
    known.media_type,
    known.version
FROM merged
ASOF LEFT JOIN known ON merged.post_id = known.post_id AND to_timestamp(merged.visible_hour * 3600) >= known.version
