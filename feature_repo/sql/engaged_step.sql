-- The entries of hours {{ first_hour }} to {{ last_hour }} and, of the same users, the last {{ affinity_events }} before them,
-- numbered per user in the order they became visible; and per user and new hour the place of its last entry.
CREATE OR REPLACE TEMP TABLE engaged AS
WITH fresh AS (
    SELECT * FROM entries WHERE visible_hour BETWEEN {{ first_hour }} AND {{ last_hour }}
), former AS (
    SELECT * EXCLUDE (as_of)
    FROM stored_engaged
    SEMI JOIN fresh USING (user_id)
    QUALIFY row_number() OVER (PARTITION BY user_id ORDER BY visible_hour DESC, at_seconds DESC, post_id DESC) <= {{ affinity_events }}
)
SELECT *, row_number() OVER (PARTITION BY user_id ORDER BY visible_hour, at_seconds, post_id) AS place
FROM (SELECT * FROM former UNION ALL BY NAME SELECT * FROM fresh);

CREATE OR REPLACE TEMP TABLE engaged_hours AS
SELECT user_id, visible_hour, max(place) AS last_place, arg_max(newest_at, place) AS newest_at
FROM (
    SELECT
        user_id, visible_hour, place,
        max(at_seconds) OVER (PARTITION BY user_id ORDER BY place ROWS {{ affinity_events - 1 }} PRECEDING) AS newest_at
    FROM engaged
)
WHERE visible_hour >= {{ first_hour }}
GROUP BY user_id, visible_hour
