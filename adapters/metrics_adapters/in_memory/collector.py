"""The collector: checks what it is given and puts it into the store."""

from __future__ import annotations

from metrics_framework.recording import Store
from metrics_framework.recording.series import check_name, check_number, tag_key
from metrics_framework.values import MetricType, MetricUnit, to_milliseconds


class InMemoryCollector:
    """A `MetricCollector` that keeps what it is given in a store.

    Args:
        store: Where to keep it; a store of its own by default.

    Example:
        >>> collector = InMemoryCollector()
        >>> collector.record_counter("git.commits.created", 1, {"branch": "main"})
    """

    def __init__(self, store: Store | None = None) -> None:
        self.store = Store() if store is None else store

    def record_counter(self, name: str, value: int | float = 1, tags: dict[str, str] | None = None) -> None:
        """Add to a counter; see `MetricCollector.record_counter`."""
        self.store.add(check_name(name), check_number(name, value, signed=False), tag_key(tags))

    def record_gauge(self, name: str, value: int | float, tags: dict[str, str] | None = None) -> None:
        """Set a gauge; see `MetricCollector.record_gauge`."""
        self.store.set(check_name(name), check_number(name, value, signed=True), tag_key(tags))

    def record_histogram(self, name: str, value: int | float, tags: dict[str, str] | None = None) -> None:
        """Add to a distribution; see `MetricCollector.record_histogram`."""
        number = check_number(name, value, signed=True)
        self.store.observe(check_name(name), number, tag_key(tags), MetricType.HISTOGRAM)

    def record_timer(
        self,
        name: str,
        duration: float,
        unit: MetricUnit = MetricUnit.MILLISECONDS,
        tags: dict[str, str] | None = None,
    ) -> None:
        """Add a duration; see `MetricCollector.record_timer`."""
        number = to_milliseconds(check_number(name, duration, signed=False), unit)
        # Seconds near the largest float overflow as milliseconds.
        number = check_number(name, number, signed=False)
        self.store.observe(check_name(name), number, tag_key(tags), MetricType.TIMER)

    def increment(self, name: str, tags: dict[str, str] | None = None) -> None:
        """Add 1 to a counter or gauge; see `MetricCollector.increment`."""
        self.store.shift(check_name(name), 1, tag_key(tags))

    def decrement(self, name: str, tags: dict[str, str] | None = None) -> None:
        """Take 1 from a gauge; see `MetricCollector.decrement`."""
        self.store.shift(check_name(name), -1, tag_key(tags))
