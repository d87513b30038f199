-- What becomes visible in hours {{ first_hour }} to {{ last_hour }} of follows and posts. A post counts from the version of it that
-- was known first, and its content from the first version that has one.
CREATE OR REPLACE TEMP TABLE follow_arrivals AS
SELECT user_id, creator_id, is_active, event_at, event_id, from_hour
FROM (
    SELECT *, {{ visible_hour('event_at', 'known_at') }} AS from_hour
    FROM follows
    WHERE event_at <= {{ data_end }} AND known_at >= {{ hour_start(first_hour - 1) }}
)
WHERE from_hour BETWEEN {{ first_hour }} AND {{ last_hour }};

CREATE OR REPLACE TEMP TABLE publications AS
WITH moving AS (
    SELECT post_id, creator_id
    FROM posts
    WHERE known_at >= {{ hour_start(first_hour - 1) }}
    {%- if not is_whole %}
    UNION
    SELECT post_id, creator_id
    FROM posts
    WHERE created_at >= {{ hour_start(first_hour - 169) }} AND created_at < {{ hour_start(last_hour - 168) }}
    {%- endif %}
), first_versions AS (
    SELECT post_id, creator_id, arg_min(created_at, (known_at, event_at)) AS created_at, min(known_at) AS known_at
    FROM posts {%- if not is_whole %} SEMI JOIN moving USING (post_id, creator_id){% endif %}
    GROUP BY post_id, creator_id
)
SELECT creator_id, {{ end_hour('created_at') }} AS end_hour, {{ visible_hour('created_at', 'known_at') }} AS visible_hour
FROM first_versions
WHERE created_at <= {{ data_end }};

CREATE OR REPLACE TEMP TABLE contents AS
WITH fresh AS (
    SELECT post_id, creator_id, event_at, known_at, content_embedding, {{ visible_hour('event_at', 'known_at') }} AS hour
    FROM posts
    WHERE content_embedding IS NOT NULL AND known_at >= {{ hour_start(first_hour - 1) }}
), firsts AS (
    SELECT * FROM fresh
    WHERE hour BETWEEN {{ first_hour }} AND {{ last_hour }}
    QUALIFY row_number() OVER (PARTITION BY post_id ORDER BY known_at, event_at) = 1
)
SELECT
    creator_id, hour
    {%- for i in range(1, content_dim + 1) %},
    {{ fixed('content_embedding[' ~ i ~ ']') }} AS e{{ i }}
    {%- endfor %}
FROM firsts
{%- if not is_whole %}
ANTI JOIN (
    SELECT post_id, known_at
    FROM posts
    WHERE post_id IN (SELECT post_id FROM firsts) AND content_embedding IS NOT NULL
        AND {{ visible_hour('event_at', 'known_at') }} < {{ first_hour }}
) AS former USING (post_id)
{%- endif %}
