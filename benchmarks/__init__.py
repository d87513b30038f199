"""Speed and memory as ratios: each file times one claim against the stock way and against the bare floor."""
