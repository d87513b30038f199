-- The profile that holds when hour {{ checkpoint_hour }} is published, of each creator with a new one.
SELECT creator_id, country, language, known_at, {{ checkpoint_hour }} AS as_of
FROM fresh_creators
WHERE known_at <= {{ checkpoint_published }}
QUALIFY row_number() OVER (PARTITION BY creator_id ORDER BY known_at DESC) = 1
