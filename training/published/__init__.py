"""Published splits and protocols: the production trainers on public data, beside published figures."""
