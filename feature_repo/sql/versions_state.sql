-- The versions of posts that became known after hour {{ first_hour - 1 }}, up to the end of hour {{ checkpoint_hour }}.
SELECT *, {{ checkpoint_hour }} AS as_of
FROM fresh_versions
WHERE version <= {{ hour_start(checkpoint_hour) }} AND version > {{ hour_start(first_hour - 1) }}
