"""Logging through structlog, without configuring it, and the isolation of faults.

If the application has configured structlog, events go through it. If not, structlog's own processors render
them for the standard library's logger ``metrics_framework``: an unconfigured structlog prints to standard
output, which would corrupt a pipe. If the application's logging raises, the event is dropped.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Any, TypeVar

from metrics_framework.validation import safe_repr

T = TypeVar("T")

MAX_LOGGED_ONCE = 1_000
"""How many different events a `LogOnce` logs."""


_dropped = count(1)


def log_event(level: str, event: str, **fields: Any) -> None:
    """Log one event. An exception of the application's logging costs one line on standard error.

    The line has the number of the events that were dropped so far.

    Args:
        level: ``"debug"``, ``"info"``, ``"warning"`` or ``"error"``.
        event: What happened, in a few lower-case words.
        **fields: Its details.
    """
    try:
        if _is_logged(level):
            getattr(_logger(), level)(event, **fields)
    except Exception as error:  # noqa: BLE001 - a handler or processor may raise anything
        with suppress(Exception):  # standard error may be closed or missing
            line = (
                f"metrics_framework: logging raised {safe_repr(error)}, dropped the {level} {event!r};"
                f" dropped so far: {next(_dropped)}"
            )
            sys.stderr.write(" ".join(line.splitlines()) + "\n")


def prepare() -> None:
    """Import what the first event needs, so that it is logged at once."""
    with suppress(Exception):
        _logger()


def _is_logged(level: str) -> bool:
    """Return whether the level is enabled, or an application that has imported structlog decides that."""
    import logging

    return "structlog" in sys.modules or logging.getLogger("metrics_framework").isEnabledFor(
        getattr(logging, level.upper())
    )


def _logger() -> Any:
    import structlog  # here, because importing it takes longer than importing the rest of the library

    if structlog.is_configured():
        return structlog.get_logger("metrics_framework")
    import logging

    return structlog.wrap_logger(
        logging.getLogger("metrics_framework"),
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.processors.KeyValueRenderer(key_order=["event"]),
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def raise_interrupt(error: BaseException) -> None:
    """Raise a `KeyboardInterrupt` of the main thread: Ctrl-C is meant for the program, not for a collector.

    `SystemExit` and any other exception of code that collects is a failure of that code only.
    """
    if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
        raise error


class LogOnce:
    """Logs each event once, up to `MAX_LOGGED_ONCE` events. Thread-safe.

    Args:
        **fields: Details of all events, such as the name of an output.
    """

    def __init__(self, **fields: Any) -> None:
        self._fields = fields
        self._logged: set[object] = set()

    def log(self, level: str, event: str, *, once_for: object = None, **fields: Any) -> None:
        """Log an event unless it was logged before with the same fields.

        Args:
            level: As for `log_event`.
            event: What happened.
            once_for: Identifies the event, in place of all its fields.
            **fields: Its details.
        """
        key = (event, safe_repr(fields) if once_for is None else once_for)
        if key not in self._logged and len(self._logged) < MAX_LOGGED_ONCE:
            self._logged.add(key)
            log_event(level, event, **self._fields, **fields)


class Isolation:
    """Isolates faults: an exception is logged instead of raised, once until the same call succeeds again."""

    def __init__(self) -> None:
        self._failing: set[str] = set()

    def call(self, event: str, function: Callable[[], T], **fields: Any) -> T | None:
        """Call a function.

        Args:
            event: The log event of a failure.
            function: What may fail.
            **fields: Details for the log. Calls with the same event and fields are the same kind of call.

        Returns:
            The result of the function, or ``None`` if it raised an exception.
        """
        kind = f"{event} {fields}"
        try:
            result = function()
        except Exception as error:  # noqa: BLE001 - code of the application or of an adapter may raise anything
            if kind not in self._failing:
                self._failing.add(kind)
                log_event("error", event, **fields, error=safe_repr(error))
            return None
        self._failing.discard(kind)
        return result
