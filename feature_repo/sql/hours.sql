-- Events with the hours that matter: end_hour closes the hour of the event, visible_hour closes the
-- hour in which it had arrived. Hours are counted since 1970; an hour's number names its end.
CREATE OR REPLACE TEMP VIEW impression_hours AS
SELECT
    *,
    {{ end_hour('event_at') }} AS end_hour,
    {{ visible_hour('event_at', 'known_at') }} AS visible_hour,
    NOT is_time_imputed AS is_dated
FROM impressions
WHERE event_at <= {{ data_end }};

CREATE OR REPLACE TEMP VIEW engagement_hours AS
SELECT
    *,
    {{ end_hour('event_at') }} AS end_hour,
    {{ visible_hour('event_at', 'known_at') }} AS visible_hour,
    NOT is_time_imputed AS is_dated
FROM engagements
WHERE event_at <= {{ data_end }};

-- Follows as spans [from_hour, until_hour). Of two events about one pair the later holds; one that
-- arrives after a later one was already visible changes nothing.
CREATE OR REPLACE TEMP TABLE follow_spans AS
WITH arrived AS (
    SELECT
        *,
        {{ visible_hour('event_at', 'known_at') }} AS from_hour
    FROM follows
    WHERE event_at <= {{ data_end }}
), effective AS (
    SELECT *
    FROM arrived
    QUALIFY event_at >= max(event_at) OVER (
        PARTITION BY user_id, creator_id ORDER BY from_hour, event_at, event_id ROWS UNBOUNDED PRECEDING
    )
), spans AS (
    SELECT
        user_id, creator_id, is_active, from_hour, event_at,
        coalesce(lead(from_hour) OVER (PARTITION BY user_id, creator_id ORDER BY from_hour, event_at, event_id), 2147483647) AS until_hour
    FROM effective
)
SELECT *, row_number() OVER (PARTITION BY user_id ORDER BY event_at, creator_id) AS place
FROM spans
WHERE is_active AND from_hour < until_hour AND from_hour <= {{ last_hour }};

-- Positive engagements by user, post and hour, the strongest kind of each, numbered per user in the order they became visible.
CREATE OR REPLACE TEMP TABLE engaged AS
WITH graded AS (
    SELECT
        user_id, post_id, creator_id, visible_hour,
        epoch_us(event_at) // 1000000 AS at_seconds,
        CASE kind {% for kind, weight in kind_weights.items() %}WHEN '{{ kind }}' THEN {{ weight }} {% endfor %}END::FLOAT AS strength,
        CASE kind {% for kind in kind_weights %}WHEN '{{ kind }}' THEN {{ heads.index(kind) }} {% endfor %}END AS head
    FROM engagement_hours
    WHERE kind IN ({% for kind in kind_weights %}'{{ kind }}'{{ ', ' if not loop.last }}{% endfor %}) AND visible_hour <= {{ last_hour }}
), entries AS (
    SELECT
        user_id, post_id, visible_hour, any_value(creator_id) AS creator_id,
        max(at_seconds) AS at_seconds, max(strength) AS strength,
        arg_max(head, strength * 100 - head) AS head
    FROM graded
    GROUP BY user_id, post_id, visible_hour
)
SELECT
    entries.*,
    coalesce(posts.topic_id, -1) AS topic_id,
    posts.media_type,
    posts.content_embedding,
    row_number() OVER (PARTITION BY user_id ORDER BY visible_hour, at_seconds, entries.post_id) AS place
FROM entries
ASOF LEFT JOIN posts ON entries.post_id = posts.post_id AND to_timestamp(entries.visible_hour * 3600) >= posts.known_at;
