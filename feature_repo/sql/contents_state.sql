-- The sum of the content of what a creator had published after hour {{ checkpoint_hour }}, where it changed; DECIMAL, because
-- DuckDB writes a HUGEINT to Parquet as a rounded DOUBLE.
SELECT
    creator_id, num_posts::BIGINT AS num_posts
    {%- for i in dims %},
    e{{ i }}::DECIMAL(38, 0) AS e{{ i }}
    {%- endfor %},
    {{ checkpoint_hour }} AS as_of
FROM content_sums
WHERE hour <= {{ checkpoint_hour }}
QUALIFY row_number() OVER (PARTITION BY creator_id ORDER BY hour DESC) = 1 AND hour >= {{ first_hour }}
