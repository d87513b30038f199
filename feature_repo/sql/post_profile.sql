-- post_profile: the catalogue as it streamed in; no hourly grain, a new post can be read as soon as it is known.
SELECT
    post_id,
    post_id AS post_key,
    creator_id,
    topic_id,
    language,
    country,
    media_type,
    duration_seconds,
    integrity_score,
    epoch_us(created_at) // 1000000 AS created_at,
    content_codes::BIGINT[] AS content_codes,
    content_embedding::FLOAT[] AS content_embedding,
    event_at,
    known_at
FROM posts
WHERE event_at <= {{ data_end }} AND known_at > {{ known_after }}
{%- if not is_last %} AND known_at <= {{ known_until }}{% endif %}
