-- creator_profile: one row when a profile becomes known, with the counts published by then, and one after
-- every hour in which followers or posts changed, the fall of num_posts_7d included.
WITH published AS (
    SELECT creator_id, {{ end_hour('min(created_at)') }} AS end_hour, {{ visible_hour('min(created_at)', 'min(known_at)') }} AS visible_hour
    FROM posts
    WHERE created_at <= {{ data_end }}
    GROUP BY post_id, creator_id
), tallies AS (
    SELECT creator_id, from_hour AS hour, 1 AS followers, 0 AS posts, 0 AS posts_7d FROM follow_spans
    UNION ALL
    SELECT creator_id, until_hour, -1, 0, 0 FROM follow_spans
    UNION ALL
    SELECT creator_id, visible_hour, 0, 1, (end_hour + 168 > visible_hour)::INTEGER FROM published
    UNION ALL
    SELECT creator_id, end_hour + 168, 0, 0, -1 FROM published WHERE end_hour + 168 > visible_hour
), hourly AS (
    SELECT creator_id, hour, sum(followers) AS followers, sum(posts) AS posts, sum(posts_7d) AS posts_7d
    FROM tallies
    WHERE hour <= {{ last_hour }}
    GROUP BY ALL
), counts AS (
    SELECT
        creator_id, hour,
        sum(followers) OVER so_far AS num_followers,
        sum(posts) OVER so_far AS num_posts,
        sum(posts_7d) OVER so_far AS num_posts_7d
    FROM hourly
    WINDOW so_far AS (PARTITION BY creator_id ORDER BY hour)
), changes AS (
    SELECT
        creator_id, known_at AS event_at, known_at,
        ((epoch_us(known_at) // 1000000 - {{ lag_seconds }}) // 3600)::INTEGER AS as_of_hour
    FROM creators
    WHERE known_at <= {{ data_end }}
    UNION ALL
    SELECT creator_id, to_timestamp(hour * 3600), to_timestamp(hour * 3600) + INTERVAL {{ lag_seconds }} SECOND, hour
    FROM counts
), moments AS (
    SELECT creator_id, event_at, max(known_at) AS known_at, max(as_of_hour) AS as_of_hour
    FROM changes
    GROUP BY ALL
), counted AS (
    SELECT moments.*, num_followers, num_posts, num_posts_7d
    FROM moments
    ASOF LEFT JOIN counts ON moments.creator_id = counts.creator_id AND moments.as_of_hour >= counts.hour
)
SELECT
    counted.creator_id,
    creators.country,
    creators.language,
    coalesce(num_followers, 0)::FLOAT AS num_followers,
    coalesce(num_posts, 0)::FLOAT AS num_posts,
    coalesce(num_posts_7d, 0)::FLOAT AS num_posts_7d,
    counted.event_at,
    counted.known_at
FROM counted
ASOF LEFT JOIN creators ON counted.creator_id = creators.creator_id AND counted.event_at >= creators.known_at
