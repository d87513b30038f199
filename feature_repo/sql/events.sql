-- The events that hours {{ first_hour }} to {{ last_hour }} need, with the hours that matter: those that become visible
-- in them, and those that were visible before and leave a window in them. end_hour closes the hour of the event,
-- visible_hour closes the hour in which it had arrived. Hours are counted since 1970; an hour's number names its end.
{%- macro hours_of(table, columns) %}
SELECT {{ columns }}, end_hour, visible_hour, is_dated
FROM (
    SELECT *, {{ end_hour('event_at') }} AS end_hour, {{ visible_hour('event_at', 'known_at') }} AS visible_hour, NOT is_time_imputed AS is_dated
    FROM {{ table }}
    WHERE event_at <= {{ data_end }} AND known_at >= {{ hour_start(first_hour - 1) }}
)
WHERE visible_hour BETWEEN {{ first_hour }} AND {{ last_hour }}
{%- for first, last in leaving %}
UNION ALL
SELECT {{ columns }}, end_hour, visible_hour, is_dated
FROM (
    SELECT *, {{ end_hour('event_at') }} AS end_hour, {{ visible_hour('event_at', 'known_at') }} AS visible_hour, NOT is_time_imputed AS is_dated
    FROM {{ table }}
    WHERE event_at >= {{ hour_start(first - 1) }} AND event_at < {{ hour_start(last) }}
)
WHERE is_dated AND visible_hour < {{ first_hour }}
{%- endfor %}
{%- endmacro %}
CREATE OR REPLACE {{ 'VIEW' if is_whole else 'TABLE' }} impression_hours AS
{{ hours_of('impressions', 'user_id, post_id, creator_id' ~ (', observed_kinds' if has_observed_kinds else '')) }};

CREATE OR REPLACE {{ 'VIEW' if is_whole else 'TABLE' }} engagement_hours AS
{{ hours_of('engagements', 'user_id, post_id, creator_id, kind, epoch_us(event_at) // 1000000 AS at_seconds') }};
