-- What engagements need of posts, as it became known up to the end of hour {{ last_hour }}: one row per post and instant.
CREATE OR REPLACE TEMP TABLE fresh_versions AS
WITH versions AS (
    SELECT
        post_id, known_at AS version,
        arg_max(coalesce(topic_id, -1), event_at) AS topic_id,
        arg_max(media_type, event_at) AS media_type,
        arg_max(content_embedding, event_at) AS content_embedding
    FROM posts
    WHERE known_at <= {{ hour_start(last_hour) }}
    {%- if not is_whole %} AND known_at > {{ hour_start(first_hour - 1) }}{% endif %}
    GROUP BY post_id, known_at
)
SELECT
    * EXCLUDE (content_embedding), content_embedding IS NOT NULL AS has_content
    {%- for i in dims %},
    content_embedding[{{ i }}] AS e{{ i }}
    {%- endfor %}
FROM versions
