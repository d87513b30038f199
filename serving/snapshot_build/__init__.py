"""The snapshot from the log, built off-peak. The only part of serving that may import DuckDB."""
