-- Followers and posts after hour {{ checkpoint_hour }}, of each creator for whom they changed.
SELECT
    creator_id, num_followers::BIGINT AS num_followers, num_posts::BIGINT AS num_posts, num_posts_7d::BIGINT AS num_posts_7d,
    {{ checkpoint_hour }} AS as_of
FROM creator_counts
WHERE hour <= {{ checkpoint_hour }}
QUALIFY row_number() OVER (PARTITION BY creator_id ORDER BY hour DESC) = 1 AND hour >= {{ first_hour }}
