-- user_affinity: shares of each user's last {{ affinity_events }} engagements by creator, topic and media type after every
-- hour with a new one. An engagement weighs its strength, halved every {{ half_life_hours }} hours of its age. Weights
-- are whole numbers, so that their sums are the same in any order: 2^96 is about the weight of the newest engagement.
WITH windows AS (
    SELECT
        user_id, visible_hour, newest_at,
        unnest(range(greatest(last_place - {{ affinity_events - 1 }}, 1), last_place + 1)) AS place
    FROM engaged_hours
), weighed AS (
    SELECT
        user_id, windows.visible_hour, place, creator_id, topic_id, media_type,
        (
            strength::DOUBLE * pow(2, (at_seconds / 3600.0 - windows.visible_hour) / {{ half_life_hours }})
            * pow(2, 96 - floor((newest_at / 3600.0 - windows.visible_hour) / {{ half_life_hours }}))
        )::HUGEINT AS weight
    FROM windows JOIN engaged USING (user_id, place)
), totals AS (
    SELECT
        user_id, visible_hour,
        sum(weight)::DOUBLE AS total
        {%- for media_type in media_types %},
        coalesce(sum(weight) FILTER (media_type = '{{ media_type }}'), 0)::DOUBLE AS {{ media_type }}
        {%- endfor %}
    FROM weighed
    GROUP BY ALL
)
{%- for of in ('creator', 'topic') %}
, {{ of }}_shares AS (
    SELECT user_id, visible_hour, {{ of }}_id, sum(weight)::DOUBLE AS weight, max(place) AS last_place
    FROM weighed
    WHERE {{ of }}_id >= 0
    GROUP BY ALL
), {{ of }}_ranked AS (
    SELECT *, row_number() OVER (PARTITION BY user_id, visible_hour ORDER BY weight DESC, last_place DESC) AS rank
    FROM {{ of }}_shares
    QUALIFY rank <= {{ affinity_length }}
), {{ of }}_lists AS (
    SELECT
        user_id, visible_hour,
        list({{ of }}_id ORDER BY rank) AS ids,
        list(weight ORDER BY rank) AS weights
    FROM {{ of }}_ranked
    GROUP BY ALL
)
{%- endfor %}
SELECT
    totals.user_id,
    coalesce(creator_lists.ids, []) AS top_creator_ids,
    coalesce(list_transform(creator_lists.weights, lambda w: (w / total)::FLOAT), []) AS top_creator_affinities,
    coalesce(topic_lists.ids, []) AS top_topic_ids,
    coalesce(list_transform(topic_lists.weights, lambda w: (w / total)::FLOAT), []) AS top_topic_affinities,
    [{% for media_type in media_types %}({{ media_type }} / total)::FLOAT{{ ', ' if not loop.last }}{% endfor %}] AS media_type_affinities,
    to_timestamp(totals.visible_hour * 3600) AS event_at,
    to_timestamp(totals.visible_hour * 3600) + INTERVAL {{ lag_seconds }} SECOND AS known_at
FROM totals
LEFT JOIN creator_lists USING (user_id, visible_hour)
LEFT JOIN topic_lists USING (user_id, visible_hour)
