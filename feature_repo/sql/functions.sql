-- SQL expressions shared by the other files.
{% macro end_hour(event_at) -%}
(epoch_us({{ event_at }}) // 3600000000 + 1)::INTEGER
{%- endmacro %}
{% macro visible_hour(event_at, known_at) -%}
greatest(epoch_us({{ event_at }}) // 3600000000 + 1, (epoch_us({{ known_at }}) + 3599999999) // 3600000000)::INTEGER
{%- endmacro %}
