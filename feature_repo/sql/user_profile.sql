-- user_profile: one row when a profile becomes known, with the follows published by then, and one after
-- every hour in which the user's follows changed, with the profile known by then.
WITH changes AS (
    SELECT
        user_id, known_at AS event_at, known_at,
        ((epoch_us(known_at) // 1000000 - {{ lag_seconds }}) // 3600)::INTEGER AS as_of_hour
    FROM users
    WHERE known_at <= {{ data_end }}
    UNION ALL
    SELECT
        user_id, to_timestamp(hour * 3600), to_timestamp(hour * 3600) + INTERVAL {{ lag_seconds }} SECOND, hour
    FROM (
        SELECT user_id, from_hour AS hour FROM follow_spans
        UNION
        SELECT user_id, until_hour AS hour FROM follow_spans
    )
    WHERE hour <= {{ last_hour }}
), moments AS (
    SELECT user_id, event_at, max(known_at) AS known_at, max(as_of_hour) AS as_of_hour
    FROM changes
    GROUP BY ALL
), embedded AS (
    SELECT DISTINCT ON (post_id) post_id, creator_id, {{ visible_hour('event_at', 'known_at') }} AS hour, content_embedding
    FROM posts
    WHERE content_embedding IS NOT NULL
    ORDER BY post_id, known_at
), creator_content AS (
    -- The mean embedding of what a creator had published by each hour in which that changed.
    SELECT
        creator_id, hour
        {%- for i in range(1, content_dim + 1) %},
        (sum(sum(content_embedding[{{ i }}])) OVER so_far / sum(count(*)) OVER so_far)::FLOAT AS e{{ i }}
        {%- endfor %}
    FROM embedded
    GROUP BY creator_id, hour
    WINDOW so_far AS (PARTITION BY creator_id ORDER BY hour)
), followed AS (
    SELECT
        moments.user_id, moments.event_at,
        count(*) AS num_follows,
        max_by(follow_spans.creator_id, place, {{ followed_length }}) AS followed_creator_ids,
        CASE WHEN count(e1) > 0 THEN [{% for i in range(1, content_dim + 1) %}avg(e{{ i }})::FLOAT{{ ', ' if not loop.last }}{% endfor %}] END AS followed_centroid
    FROM moments JOIN follow_spans
        ON moments.user_id = follow_spans.user_id AND from_hour <= as_of_hour AND as_of_hour < until_hour
    ASOF LEFT JOIN creator_content
        ON follow_spans.creator_id = creator_content.creator_id AND moments.as_of_hour >= creator_content.hour
    GROUP BY ALL
), registered AS (
    SELECT user_id, min(epoch_us(event_at)) // 1000000 AS registered_at
    FROM users
    GROUP BY ALL
)
SELECT
    moments.user_id,
    users.country,
    users.language,
    users.profile_codes::BIGINT[] AS profile_codes,
    coalesce(num_follows, 0)::FLOAT AS num_follows,
    coalesce(followed_creator_ids, []) AS followed_creator_ids,
    followed_centroid,
    CASE WHEN users.user_id IS NOT NULL THEN registered_at END AS registered_at,
    moments.event_at,
    moments.known_at
FROM moments
ASOF LEFT JOIN users ON moments.user_id = users.user_id AND moments.event_at >= users.known_at
LEFT JOIN followed ON moments.user_id = followed.user_id AND moments.event_at = followed.event_at
LEFT JOIN registered ON moments.user_id = registered.user_id
