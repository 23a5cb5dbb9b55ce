"""One collector in front of several: what is recorded goes to each.

Adapters of this library share a store, so they need no fan-out: one record feeds all of them. This one is for
collectors of other makers, side by side or beside ours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from metrics_framework.errors import InvalidInputError
from metrics_framework.log import log_event
from metrics_framework.protocols import MetricCollector
from metrics_framework.validation import safe_repr
from metrics_framework.values import MetricUnit

__all__ = ["FanOutCollector"]


class FanOutCollector:
    """A `MetricCollector` that records into several, each on its own.

    A member that fails costs its own numbers only: its first fault is logged, all are counted in ``faults``,
    and neither the application nor another member notices. Bad input is the application's fault: every member
    is given it, and the first `InvalidInputError` is raised.

    Args:
        *members: The collectors.

    Attributes:
        faults: How often each member failed, by its place.

    Example:
        >>> from metrics_adapters.in_memory import InMemoryCollector
        >>> ours, theirs = InMemoryCollector(), InMemoryCollector()
        >>> FanOutCollector(ours, theirs).increment("orders")
        >>> ours.store.summary("orders")["total"], theirs.store.summary("orders")["total"]
        (1, 1)
    """

    def __init__(self, *members: MetricCollector) -> None:
        for member in members:
            if isinstance(member, type):
                raise InvalidInputError(
                    f"{member.__name__} is a class; pass an instance: {member.__name__}()"
                )
            if not isinstance(member, MetricCollector):
                raise InvalidInputError(
                    f"{safe_repr(member)} is no MetricCollector: it lacks a method of the Protocol"
                )
        self._members = members
        self.faults: Counter[int] = Counter()

    def record_counter(self, name: str, value: int | float = 1, tags: dict[str, str] | None = None) -> None:
        """Add to a counter; see `MetricCollector.record_counter`."""
        self._each(lambda member: member.record_counter(name, value, _own(tags)))

    def record_gauge(self, name: str, value: int | float, tags: dict[str, str] | None = None) -> None:
        """Set a gauge; see `MetricCollector.record_gauge`."""
        self._each(lambda member: member.record_gauge(name, value, _own(tags)))

    def record_histogram(self, name: str, value: int | float, tags: dict[str, str] | None = None) -> None:
        """Add to a distribution; see `MetricCollector.record_histogram`."""
        self._each(lambda member: member.record_histogram(name, value, _own(tags)))

    def record_timer(
        self,
        name: str,
        duration: float,
        unit: MetricUnit = MetricUnit.MILLISECONDS,
        tags: dict[str, str] | None = None,
    ) -> None:
        """Add a duration; see `MetricCollector.record_timer`."""
        self._each(lambda member: member.record_timer(name, duration, unit, _own(tags)))

    def increment(self, name: str, tags: dict[str, str] | None = None) -> None:
        """Add 1 to a counter or gauge; see `MetricCollector.increment`."""
        self._each(lambda member: member.increment(name, _own(tags)))

    def decrement(self, name: str, tags: dict[str, str] | None = None) -> None:
        """Take 1 from a gauge; see `MetricCollector.decrement`."""
        self._each(lambda member: member.decrement(name, _own(tags)))

    def _each(self, record: Callable[[MetricCollector], Any]) -> None:
        refused: InvalidInputError | None = None
        for place, member in enumerate(self._members):
            try:
                record(member)
            except InvalidInputError as error:
                refused = refused or error
            except Exception as error:  # noqa: BLE001 - a member of somebody else's may raise anything
                self.faults[place] += 1
                if self.faults[place] == 1:
                    log_event(
                        "error", "a collector failed", collector=safe_repr(member), error=safe_repr(error)
                    )
        if refused is not None:
            raise refused


def _own(tags: dict[str, str] | None) -> dict[str, str] | None:
    """Return a dict of the member's own; what is no dict is for the member to refuse."""
    return dict(tags) if isinstance(tags, dict) else tags
