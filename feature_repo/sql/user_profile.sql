-- user_profile: one row when a profile becomes known, with the follows published by then, and one after
-- every hour in which the user's follows changed, with the profile known by then.
WITH changes AS (
    SELECT
        user_id, known_at AS event_at, known_at,
        ((epoch_us(known_at) // 1000000 - {{ lag_seconds }}) // 3600)::INTEGER AS as_of_hour
    FROM fresh_users
    UNION ALL
    SELECT
        user_id, to_timestamp(hour * 3600), to_timestamp(hour * 3600) + INTERVAL {{ lag_seconds }} SECOND, hour
    FROM (SELECT DISTINCT user_id, hour FROM follow_hours)
), moments AS (
    SELECT user_id, event_at, max(known_at) AS known_at, max(as_of_hour) AS as_of_hour
    FROM changes
    GROUP BY ALL
), creator_content AS (
    SELECT
        creator_id, hour
        {%- for i in dims %},
        {{ fixed('(' ~ unfixed('e' ~ i) ~ ' / num_posts)::FLOAT') }} AS e{{ i }}
        {%- endfor %}
    FROM content_sums
), followed AS (
    SELECT
        moments.user_id, moments.event_at,
        count(*) AS num_follows,
        max_by(follow_spans.creator_id, place, {{ followed_length }}) AS followed_creator_ids,
        CASE WHEN count(e1) > 0 THEN [{% for i in dims %}({{ unfixed('sum(e' ~ i ~ ')') }} / count(e{{ i }}))::FLOAT{{ ', ' if not loop.last }}{% endfor %}] END AS followed_centroid
    FROM moments JOIN follow_spans
        ON moments.user_id = follow_spans.user_id AND from_hour <= as_of_hour AND as_of_hour < until_hour
    ASOF LEFT JOIN creator_content
        ON follow_spans.creator_id = creator_content.creator_id AND moments.as_of_hour >= creator_content.hour
    GROUP BY ALL
), former AS (
    SELECT * EXCLUDE (as_of)
    FROM stored_users SEMI JOIN moved_users USING (user_id)
    QUALIFY row_number() OVER (PARTITION BY user_id ORDER BY as_of DESC) = 1
), versions AS (
    SELECT * FROM former
    UNION ALL BY NAME
    SELECT fresh_users.* REPLACE (least(fresh_users.registered_at, former.registered_at) AS registered_at)
    FROM fresh_users LEFT JOIN former USING (user_id)
)
SELECT
    moments.user_id,
    versions.country,
    versions.language,
    versions.profile_codes::BIGINT[] AS profile_codes,
    coalesce(num_follows, 0)::FLOAT AS num_follows,
    coalesce(followed_creator_ids, []) AS followed_creator_ids,
    followed_centroid,
    versions.registered_at,
    moments.event_at,
    moments.known_at
FROM moments
ASOF LEFT JOIN versions ON moments.user_id = versions.user_id AND moments.event_at >= versions.known_at
LEFT JOIN followed ON moments.user_id = followed.user_id AND moments.event_at = followed.event_at
