-- The follow event that holds after hour {{ checkpoint_hour }}, of each pair with a new one.
SELECT user_id, creator_id, is_active, event_at, from_hour, {{ checkpoint_hour }} AS as_of
FROM pair_events
WHERE from_hour <= {{ checkpoint_hour }}
QUALIFY row_number() OVER (PARTITION BY user_id, creator_id ORDER BY from_hour DESC, event_at DESC, event_id DESC) = 1
    AND from_hour >= {{ first_hour }}
