-- {{ view }}: counts and smoothed rates per {{ key }} and hour, over {{ windows | join(', ', attribute='name') }}.
--
-- A row is written at each entry of a tile into a window and at each leave, so counts fall again.
SELECT
    key AS {{ key }}
    {%- for window in windows %},
    impressions_{{ window.name }}::FLOAT AS num_impressions_{{ window.name }}
    {%- for kind in kinds %}
    {%- set shown = ('seen_' ~ kind if has_observed_kinds else 'impressions') ~ '_' ~ window.name %},
    did_{{ kind }}_{{ window.name }}::FLOAT AS num_{{ kind }}_{{ window.name }},
    least(1e0, (did_{{ kind }}_{{ window.name }} + {{ prior_rates[kind] * prior_impressions }}e0) / ({{ shown }} + {{ prior_impressions }}e0))::FLOAT AS rate_{{ kind }}_{{ window.name }}
    {%- endfor %}
    {%- endfor %},
    to_timestamp(hour * 3600) AS event_at,
    to_timestamp(hour * 3600) + INTERVAL {{ lag_seconds }} SECOND AS known_at
FROM counts
WHERE hour >= {{ first_hour }}
