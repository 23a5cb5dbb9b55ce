"""Logging through structlog, without configuring it.

Where the application has configured structlog, events go through it. Where it has not, structlog's own
processors render them for the standard library's logger ``metrics_framework``: an unconfigured structlog
prints to standard output, which would spoil a pipe.
"""

from __future__ import annotations

from typing import Any


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
