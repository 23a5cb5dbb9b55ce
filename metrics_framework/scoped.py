"""A collector that adds tags, over any other one."""

from __future__ import annotations

from collections.abc import Mapping

from metrics_framework.protocols import MetricCollector
from metrics_framework.validation import plain_tags
from metrics_framework.values import MetricUnit


class ScopedCollector:
    """Adds tags to what is recorded, by the Protocol alone; our own collectors have a way that costs nothing.

    Args:
        collector: Where it is recorded.
        tags: The tags; a record's own of the same name counts.

    Raises:
        InvalidInputError: If ``tags`` is no mapping of strings.
    """

    def __init__(self, collector: MetricCollector, tags: Mapping[str, str]) -> None:
        self._collector = collector
        self._tags = plain_tags(tags)

    def record_counter(self, name: str, value: int | float = 1, tags: dict[str, str] | None = None) -> None:
        """Add to a counter; see `MetricCollector.record_counter`."""
        self._collector.record_counter(name, value, {**self._tags, **(tags or {})})

    def record_gauge(self, name: str, value: int | float, tags: dict[str, str] | None = None) -> None:
        """Set a gauge; see `MetricCollector.record_gauge`."""
        self._collector.record_gauge(name, value, {**self._tags, **(tags or {})})

    def record_histogram(self, name: str, value: int | float, tags: dict[str, str] | None = None) -> None:
        """Add to a distribution; see `MetricCollector.record_histogram`."""
        self._collector.record_histogram(name, value, {**self._tags, **(tags or {})})

    def record_timer(
        self,
        name: str,
        duration: float,
        unit: MetricUnit = MetricUnit.MILLISECONDS,
        tags: dict[str, str] | None = None,
    ) -> None:
        """Add a duration; see `MetricCollector.record_timer`."""
        self._collector.record_timer(name, duration, unit, {**self._tags, **(tags or {})})

    def increment(self, name: str, tags: dict[str, str] | None = None) -> None:
        """Add 1 to a counter or gauge; see `MetricCollector.increment`."""
        self._collector.increment(name, {**self._tags, **(tags or {})})

    def decrement(self, name: str, tags: dict[str, str] | None = None) -> None:
        """Take 1 from a gauge; see `MetricCollector.decrement`."""
        self._collector.decrement(name, {**self._tags, **(tags or {})})

    def with_tags(self, tags: Mapping[str, str]) -> ScopedCollector:
        """Return a collector that adds these tags as well."""
        return ScopedCollector(self._collector, {**self._tags, **plain_tags(tags)})
