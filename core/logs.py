"""Structured logs: one line per event, values as fields, nothing personal.

A traceback is written as its frames and the error's type. Messages of errors are left out there: they quote
what a client sent.
"""

import logging
import sys
import traceback
from typing import Any, Literal

import orjson
import structlog
from structlog.typing import EventDict, Processor

CHATTY = ("feast.infra.registry",)
"""Loggers whose every refresh of a cache is INFO."""
MAX_FRAMES = 12

LogFormat = Literal["auto", "console", "json"]


def configure_logs(level: str = "INFO", form: LogFormat = "console") -> None:
    """Sends structlog and stdlib records to stderr, as `time level event key=value` or as JSON. Once per process."""
    is_json = form == "json" or (form == "auto" and not sys.stderr.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _frames,
    ]
    render: Processor = (
        structlog.processors.JSONRenderer(serializer=_json) if is_json else structlog.dev.ConsoleRenderer(colors=False)
    )
    foreign = logging.StreamHandler(sys.stderr)
    foreign.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    logging.basicConfig(level=level, handlers=[foreign], force=True)
    for name in CHATTY:
        logging.getLogger(name).setLevel("WARNING" if level == "INFO" else level)
    structlog.configure(
        processors=[*shared, render],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        # Looked up per logger: a test or a daemon may have replaced the stream since.
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )


def logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger that carries the room's name."""
    bound: structlog.stdlib.BoundLogger = structlog.get_logger().bind(room=name)
    return bound


def _frames(log: Any, method: str, event: EventDict) -> EventDict:
    """`exc_info` as the error's type and where it was raised, outermost first."""
    given = event.pop("exc_info", None)
    error = sys.exc_info()[1] if given is True else given[1] if isinstance(given, tuple) else given
    if isinstance(error, BaseException):
        frames = traceback.extract_tb(error.__traceback__)[-MAX_FRAMES:]
        event["error"] = type(error).__name__
        event["frames"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
    return event


def _json(event: EventDict, **_: Any) -> str:
    return orjson.dumps(event, default=str).decode()
