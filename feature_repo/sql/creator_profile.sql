-- creator_profile: one row when a profile becomes known, with the counts published by then, and one after
-- every hour in which followers or posts changed, the fall of num_posts_7d included.
WITH changes AS (
    SELECT
        creator_id, known_at AS event_at, known_at,
        ((epoch_us(known_at) // 1000000 - {{ lag_seconds }}) // 3600)::INTEGER AS as_of_hour
    FROM fresh_creators
    UNION ALL
    SELECT creator_id, to_timestamp(hour * 3600), to_timestamp(hour * 3600) + INTERVAL {{ lag_seconds }} SECOND, hour
    FROM creator_counts
    WHERE hour >= {{ first_hour }}
), moments AS (
    SELECT creator_id, event_at, max(known_at) AS known_at, max(as_of_hour) AS as_of_hour
    FROM changes
    GROUP BY ALL
), counted AS (
    SELECT moments.*, num_followers, num_posts, num_posts_7d
    FROM moments
    ASOF LEFT JOIN creator_counts ON moments.creator_id = creator_counts.creator_id AND moments.as_of_hour >= creator_counts.hour
), versions AS (
    SELECT creator_id, country, language, known_at FROM fresh_creators
    UNION ALL
    SELECT creator_id, country, language, known_at
    FROM stored_creators SEMI JOIN moments USING (creator_id)
    QUALIFY row_number() OVER (PARTITION BY creator_id ORDER BY as_of DESC) = 1
)
SELECT
    counted.creator_id,
    versions.country,
    versions.language,
    coalesce(num_followers, 0)::FLOAT AS num_followers,
    coalesce(num_posts, 0)::FLOAT AS num_posts,
    coalesce(num_posts_7d, 0)::FLOAT AS num_posts_7d,
    counted.event_at,
    counted.known_at
FROM counted
ASOF LEFT JOIN versions ON counted.creator_id = versions.creator_id AND counted.event_at >= versions.known_at
