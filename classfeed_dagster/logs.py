"""Structured logs: JSON lines for machines, readable lines for people, each with the correlation id.

Only declared fields are logged. Personal data has no field, so it cannot be logged by mistake.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

# Allow-list of the fields of a log line. Any other field is dropped and its name is logged.
FIELDS = frozenset(
    {
        "event", "level", "timestamp", "logger", "correlation_id", "run_id", "feed", "business_date", "asset", "check",
        "step", "revision", "portfolios", "rows", "bytes", "pages", "held_back", "seconds", "outcome", "key",
        "snapshot_id", "audience", "error_type", "attempt", "exc_info", "exception", "dropped_fields", "mode", "why",
        "unexplained", "clean_run", "differences",
    }
)  # fmt: skip


def allow_listed(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Keep the declared fields and log the names of the others (a structlog processor)."""
    unknown = sorted(set(event) - FIELDS)
    for name in unknown:
        del event[name]
    if unknown:
        event["dropped_fields"] = unknown
    return event


def configure(log_format: str, *, level: int = logging.INFO) -> None:
    """Configure logging of this process: format ``json`` or ``text``, standard error, minimum ``level``."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        allow_listed,
    ]
    render: Any = (
        structlog.processors.JSONRenderer(sort_keys=True)
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[*shared, render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )


def get_logger() -> Any:
    """Return the logger: ``get_logger().info("landed", rows=10)``."""
    return structlog.get_logger()
