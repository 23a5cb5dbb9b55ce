"""Logging through structlog, without configuring it.

Where the application has configured structlog, events go through it. Where it has not, structlog's own
processors render them for the standard library's logger ``metrics_framework``: an unconfigured structlog
prints to standard output, which would spoil a pipe.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def log_event(level: str, event: str, **fields: Any) -> None:
    """Log one event.

    structlog is imported here and not before: importing it costs more than the rest of the library.

    Args:
        level: ``"debug"``, ``"info"``, ``"warning"`` or ``"error"``.
        event: What happened, in a few lower-case words.
        **fields: Its details.
    """
    import structlog

    if structlog.is_configured():
        logger = structlog.get_logger("metrics_framework")
    else:
        import logging

        logger = structlog.wrap_logger(
            logging.getLogger("metrics_framework"),
            processors=[
                structlog.stdlib.filter_by_level,
                structlog.processors.KeyValueRenderer(key_order=["event"]),
            ],
            wrapper_class=structlog.stdlib.BoundLogger,
        )
    getattr(logger, level)(event, **fields)


class Isolation:
    """Isolates failures, and logs each kind of them once until the same work succeeds again."""

    def __init__(self) -> None:
        self._failing: set[str] = set()

    def call(self, event: str, work: Callable[[], T], **fields: Any) -> T | None:
        """Do some work.

        Args:
            event: What the log calls its failure.
            work: What to do.
            **fields: Details for the log; with the event they tell one kind of failure from another.

        Returns:
            What the work returned, or ``None`` where it failed.
        """
        kind = f"{event} {fields}"
        try:
            result = work()
        except Exception as error:  # noqa: BLE001 - a part of someone else's may raise anything
            if kind not in self._failing:
                self._failing.add(kind)
                log_event("error", event, **fields, error=repr(error))
            return None
        self._failing.discard(kind)
        return result
