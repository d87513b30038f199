"""What holds for every test."""

# Feast switches the Prometheus client to counters in shared files when it is imported first. The server imports
# its own metrics before Feast (tests/architecture/test_serving_imports.py), and so does a process of tests.
import prometheus_client  # noqa: F401
