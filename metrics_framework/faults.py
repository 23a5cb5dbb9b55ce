"""Work of parts that somebody else wrote: what it raises is logged and reaches nobody."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from metrics_framework.logs import log_event

T = TypeVar("T")


class Faults:
    """Isolates failures, and logs each kind of them once until the same work succeeds again."""

    def __init__(self) -> None:
        self._failing: set[str] = set()

    def attempt(self, event: str, work: Callable[[], T], **fields: Any) -> T | None:
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
