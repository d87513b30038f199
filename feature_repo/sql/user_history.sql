-- user_history: the last {{ history_length }} engaged posts of each user after every hour with a new one, newest first.
WITH wide AS (
    SELECT
        * EXCLUDE (content_embedding)
        {%- for i in range(1, content_dim + 1) %},
        (content_embedding[{{ i }}] * strength)::FLOAT AS e{{ i }}
        {%- endfor %},
        CASE WHEN content_embedding IS NULL THEN 0 ELSE strength END AS mass
    FROM engaged
), rolled AS (
    SELECT
        user_id, visible_hour, place,
        list(post_id) OVER newest_first AS history_post_ids,
        list(creator_id) OVER newest_first AS history_creator_ids,
        list(topic_id) OVER newest_first AS history_topic_ids,
        list(head::BIGINT) OVER newest_first AS history_kinds,
        list(at_seconds) OVER newest_first AS history_at,
        sum(mass) OVER newest_first AS mass
        {%- for i in range(1, content_dim + 1) %},
        sum(e{{ i }}) OVER newest_first AS e{{ i }}
        {%- endfor %}
    FROM wide
    WINDOW newest_first AS (
        PARTITION BY user_id ORDER BY place DESC ROWS BETWEEN CURRENT ROW AND {{ history_length - 1 }} FOLLOWING
    )
    QUALIFY row_number() OVER (PARTITION BY user_id, visible_hour ORDER BY place DESC) = 1
)
SELECT
    user_id,
    history_post_ids,
    history_creator_ids,
    history_topic_ids,
    history_kinds,
    history_at,
    CASE WHEN mass > 0 THEN [{% for i in range(1, content_dim + 1) %}(e{{ i }} / mass)::FLOAT{{ ', ' if not loop.last }}{% endfor %}] END AS content_centroid,
    to_timestamp(visible_hour * 3600) AS event_at,
    to_timestamp(visible_hour * 3600) + INTERVAL {{ lag_seconds }} SECOND AS known_at
FROM rolled
