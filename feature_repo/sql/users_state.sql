-- The profile that holds when hour {{ checkpoint_hour }} is published, of each user with a new one.
SELECT
    fresh_users.* REPLACE (least(fresh_users.registered_at, former.registered_at) AS registered_at),
    {{ checkpoint_hour }} AS as_of
FROM fresh_users
LEFT JOIN (SELECT user_id, min(registered_at) AS registered_at FROM stored_users SEMI JOIN fresh_users USING (user_id) GROUP BY user_id) AS former USING (user_id)
WHERE fresh_users.known_at <= {{ checkpoint_published }}
QUALIFY row_number() OVER (PARTITION BY fresh_users.user_id ORDER BY fresh_users.known_at DESC) = 1
