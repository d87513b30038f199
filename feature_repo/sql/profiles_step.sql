-- Changes of profiles, follows and publications in hours {{ first_hour }} to {{ last_hour }}, with what they continue.
--
-- Of two events about one pair the later holds; one that arrives after a later one was already visible changes nothing.
CREATE OR REPLACE TEMP TABLE pair_events AS
WITH fresh AS (
    SELECT * FROM follow_arrivals WHERE from_hour BETWEEN {{ first_hour }} AND {{ last_hour }}
), former AS (
    SELECT user_id, creator_id, is_active, event_at, '' AS event_id, from_hour -- alone in its hour
    FROM stored_pairs
    SEMI JOIN fresh USING (user_id, creator_id)
    QUALIFY row_number() OVER (PARTITION BY user_id, creator_id ORDER BY as_of DESC) = 1
)
SELECT *
FROM (SELECT * FROM former UNION ALL BY NAME SELECT * FROM fresh)
QUALIFY event_at >= max(event_at) OVER (
    PARTITION BY user_id, creator_id ORDER BY from_hour, event_at, event_id ROWS UNBOUNDED PRECEDING
);

-- Follows as spans [from_hour, until_hour) of the pairs that changed.
CREATE OR REPLACE TEMP TABLE changed_spans AS
SELECT user_id, creator_id, event_at, from_hour, until_hour
FROM (
    SELECT *, coalesce(lead(from_hour) OVER (PARTITION BY user_id, creator_id ORDER BY from_hour, event_at, event_id), 2147483647) AS until_hour
    FROM pair_events
)
WHERE is_active AND from_hour < until_hour;

CREATE OR REPLACE TEMP TABLE follow_hours AS
SELECT user_id, creator_id, from_hour AS hour, 1 AS change FROM changed_spans WHERE from_hour >= {{ first_hour }}
UNION ALL
SELECT user_id, creator_id, until_hour, -1 FROM changed_spans WHERE until_hour <= {{ last_hour }};

{% for of in ('user', 'creator') %}
CREATE OR REPLACE TEMP TABLE fresh_{{ of }}s AS
SELECT
    {{ of }}_id, country, language {{- ', profile_codes' if of == 'user' }}, known_at,
    min(epoch_us(event_at) // 1000000) OVER (PARTITION BY {{ of }}_id ORDER BY known_at) AS registered_at
FROM {{ of }}s
WHERE known_at > {{ known_after }} AND known_at <= {{ known_until }}
QUALIFY row_number() OVER (PARTITION BY {{ of }}_id, known_at ORDER BY event_at DESC) = 1;
{% endfor %}
CREATE OR REPLACE TEMP TABLE moved_users AS
SELECT user_id FROM follow_hours UNION SELECT user_id FROM fresh_users;

CREATE OR REPLACE TEMP TABLE follow_spans AS
SELECT *, row_number() OVER (PARTITION BY user_id ORDER BY event_at, creator_id) AS place
FROM (
    SELECT user_id, creator_id, event_at, from_hour, until_hour FROM changed_spans
    UNION ALL
    SELECT user_id, creator_id, event_at, from_hour, 2147483647
    FROM (
        SELECT *
        FROM stored_pairs SEMI JOIN moved_users USING (user_id) ANTI JOIN pair_events USING (user_id, creator_id)
        QUALIFY row_number() OVER (PARTITION BY user_id, creator_id ORDER BY as_of DESC) = 1
    )
    WHERE is_active
);

-- The followed creators' content: sums so far, and after every hour in which they changed.
CREATE OR REPLACE TEMP TABLE content_sums AS
WITH former AS (
    SELECT * EXCLUDE (as_of)
    FROM stored_contents
    SEMI JOIN (
        SELECT creator_id, max(as_of) AS as_of
        FROM stored_contents
        SEMI JOIN (SELECT creator_id FROM follow_spans UNION SELECT creator_id FROM contents) AS needed USING (creator_id)
        GROUP BY creator_id
    ) AS newest USING (creator_id, as_of)
), hourly AS (
    SELECT creator_id, {{ first_hour - 1 }} AS hour, num_posts {%- for i in dims %}, e{{ i }}::HUGEINT AS e{{ i }}{% endfor %}
    FROM former
    UNION ALL
    SELECT creator_id, hour, count(*) {%- for i in dims %}, sum(e{{ i }}){% endfor %}
    FROM contents
    WHERE hour BETWEEN {{ first_hour }} AND {{ last_hour }}
    GROUP BY creator_id, hour
)
SELECT * FROM hourly ANTI JOIN contents USING (creator_id)
UNION ALL BY NAME
{%- if last_hour - first_hour < 2 %} -- of few hours sums do; so many windows take longer
SELECT
    moments.creator_id, moments.hour, sum(num_posts) AS num_posts {%- for i in dims %}, sum(e{{ i }}) AS e{{ i }}{% endfor %}
FROM (SELECT DISTINCT creator_id, hour FROM hourly SEMI JOIN contents USING (creator_id)) AS moments
JOIN hourly ON moments.creator_id = hourly.creator_id AND hourly.hour <= moments.hour
GROUP BY moments.creator_id, moments.hour;
{%- else %}
SELECT
    creator_id, hour,
    sum(num_posts) OVER in_order AS num_posts
    {%- for i in dims %},
    sum(e{{ i }}) OVER in_order AS e{{ i }}
    {%- endfor %}
FROM hourly SEMI JOIN contents USING (creator_id)
WINDOW in_order AS (PARTITION BY creator_id ORDER BY hour);
{%- endif %}

-- Followers and posts of the creators that moved: counts so far, and after every hour in which they changed.
CREATE OR REPLACE TEMP TABLE creator_counts AS
WITH tallies AS (
    SELECT creator_id, hour, change AS followers, 0 AS posts, 0 AS posts_7d FROM follow_hours
    UNION ALL
    SELECT creator_id, visible_hour, 0, 1, (end_hour + 168 > visible_hour)::INTEGER FROM publications
    UNION ALL
    SELECT creator_id, end_hour + 168, 0, 0, -1 FROM publications WHERE end_hour + 168 > visible_hour
), hourly AS (
    SELECT creator_id, hour, sum(followers) AS followers, sum(posts) AS posts, sum(posts_7d) AS posts_7d
    FROM tallies
    WHERE hour BETWEEN {{ first_hour }} AND {{ last_hour }}
    GROUP BY ALL
), former AS (
    SELECT creator_id, {{ first_hour - 1 }} AS hour, num_followers, num_posts, num_posts_7d
    FROM stored_creator_counts
    SEMI JOIN (SELECT creator_id FROM hourly UNION SELECT creator_id FROM fresh_creators) AS moved USING (creator_id)
    QUALIFY row_number() OVER (PARTITION BY creator_id ORDER BY as_of DESC) = 1
)
SELECT
    creator_id, hour,
    sum(followers) OVER in_order AS num_followers,
    sum(posts) OVER in_order AS num_posts,
    sum(posts_7d) OVER in_order AS num_posts_7d
FROM (SELECT * FROM hourly UNION ALL SELECT * FROM former)
WINDOW in_order AS (PARTITION BY creator_id ORDER BY hour)
