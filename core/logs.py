"""Structured logs: one line per event, values as fields, nothing personal."""

import logging
import sys

import structlog

CHATTY = ("feast.infra.registry",)
"""Loggers whose every refresh of a cache is INFO."""


def configure_logs(level: str = "INFO") -> None:
    """Sends structlog and stdlib records to stderr as `time level event key=value`. Once per process."""
    logging.basicConfig(level=level, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s", force=True)
    for name in CHATTY:
        logging.getLogger(name).setLevel("WARNING" if level == "INFO" else level)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer(colors=False),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        # Looked up per logger: a test or a daemon may have replaced the stream since.
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )


def logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger that carries the room's name."""
    bound: structlog.stdlib.BoundLogger = structlog.get_logger().bind(room=name)
    return bound
