"""The collector that forwards each record to several others.

The adapters of this library share a store and need no fan-out. Use it for third-party collectors.
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
    """A `MetricCollector` that forwards each record to several others, and isolates their failures.

    A failing member affects neither the application nor another member: its first failure is logged, and all
    are counted in ``faults``. Invalid input is passed to every member, and the first `InvalidInputError` is
    raised.

    Args:
        *members: The collectors.

    Attributes:
        faults: The number of failures of each member, by its index.

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
                    f"{member.__name__} is a class: pass an instance: {member.__name__}()"
                )
            if not isinstance(member, MetricCollector):
                raise InvalidInputError(
                    f"{safe_repr(member)} is not a MetricCollector: it lacks a method of the Protocol"
                )
        self._members = members
        self.faults: Counter[int] = Counter()

    def record_counter(self, name: str, value: int | float = 1, tags: dict[str, str] | None = None) -> None:
        """Add to a counter; see `MetricCollector.record_counter`."""
        self._each(lambda member: member.record_counter(name, value, _copied(tags)))

    def record_gauge(self, name: str, value: int | float, tags: dict[str, str] | None = None) -> None:
        """Set a gauge; see `MetricCollector.record_gauge`."""
        self._each(lambda member: member.record_gauge(name, value, _copied(tags)))

    def record_histogram(self, name: str, value: int | float, tags: dict[str, str] | None = None) -> None:
        """Add to a distribution; see `MetricCollector.record_histogram`."""
        self._each(lambda member: member.record_histogram(name, value, _copied(tags)))

    def record_timer(
        self,
        name: str,
        duration: float,
        unit: MetricUnit = MetricUnit.MILLISECONDS,
        tags: dict[str, str] | None = None,
    ) -> None:
        """Add a duration; see `MetricCollector.record_timer`."""
        self._each(lambda member: member.record_timer(name, duration, unit, _copied(tags)))

    def increment(self, name: str, tags: dict[str, str] | None = None) -> None:
        """Add 1 to a counter or gauge; see `MetricCollector.increment`."""
        self._each(lambda member: member.increment(name, _copied(tags)))

    def decrement(self, name: str, tags: dict[str, str] | None = None) -> None:
        """Subtract 1 from a gauge; see `MetricCollector.decrement`."""
        self._each(lambda member: member.decrement(name, _copied(tags)))

    def _each(self, record: Callable[[MetricCollector], Any]) -> None:
        refused: InvalidInputError | None = None
        for index, member in enumerate(self._members):
            try:
                record(member)
            except InvalidInputError as error:
                refused = refused or error
            except Exception as error:  # noqa: BLE001 - a member may raise anything
                self.faults[index] += 1
                if self.faults[index] == 1:
                    log_event(
                        "error", "a collector failed", collector=safe_repr(member), error=safe_repr(error)
                    )
        if refused is not None:
            raise refused


def _copied(tags: dict[str, str] | None) -> dict[str, str] | None:
    """Return a copy for the member. If it is not a dict, the member refuses it."""
    return dict(tags) if isinstance(tags, dict) else tags
