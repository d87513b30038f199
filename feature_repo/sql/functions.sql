-- SQL expressions shared by the other files.
{% macro end_hour(event_at) -%}
(epoch_us({{ event_at }}) // 3600000000 + 1)::INTEGER
{%- endmacro %}
{% macro visible_hour(event_at, known_at) -%}
greatest(epoch_us({{ event_at }}) // 3600000000 + 1, (epoch_us({{ known_at }}) + 3599999999) // 3600000000)::INTEGER
{%- endmacro %}
{% macro hour_start(hour) -%}
make_timestamptz({{ hour }}::BIGINT * 3600000000)
{%- endmacro %}
-- Whole numbers, so that a sum is the same in any order and can be continued. 2^52 keeps every float down to 2^-29
-- whole; what is no number, or above 2^9, counts as missing.
{% macro fixed(x) -%}
TRY_CAST({{ x }} * 4503599627370496e0 AS BIGINT)
{%- endmacro %}
{% macro unfixed(x) -%}
({{ x }}::DOUBLE / 4503599627370496e0)
{%- endmacro %}
