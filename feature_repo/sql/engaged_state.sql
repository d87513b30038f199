-- The new entries up to hour {{ checkpoint_hour }}, to be kept beside the former ones.
SELECT *, {{ checkpoint_hour }} AS as_of
FROM entries
WHERE visible_hour BETWEEN {{ first_hour }} AND {{ checkpoint_hour }}
