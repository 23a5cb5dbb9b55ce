"""Recording by name and tags: the hot path, and nothing else.

Together with `instruments` this is all that runs on nearly every record. It knows nothing of metrics, budgets
and windows: what it does not find, it asks a `Finder` for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from metrics_framework.recording.instruments import MAX, MILLISECONDS, MINUS_SMALL, SMALL
from metrics_framework.values import MetricType, MetricUnit

ByNumber = dict[int, tuple[Callable[[Any], Any], Mapping[Any, Any]]]


NOBODY: Any = object()
"""Stands where no tags are tried first: nothing is equal to it."""


class Lookup:
    """Finds the series of one kind by name and tags, as fast as Python can.

    The tag names of a metric are learned at their first use. From then on the values, in that order, are the
    key, whichever order they are given in. Only strings are ever learned: ``True``, ``1`` and ``1.0`` are
    equal as keys, and become different strings on the slow path.

    Attributes:
        untagged: Name to series.
        tagged: Name to the tags and the series that were busy last, which are tried first; and, by number of
            tags, a getter of their values and the series by them.
    """

    __slots__ = ("tagged", "untagged")

    def __init__(self) -> None:
        self.untagged: dict[str, Any] = {}
        self.tagged: dict[str, tuple[Mapping[str, str], Any, ByNumber]] = {}

    def get(self, name: Any, tags: Any) -> Any:
        """Return the series of a name and tags, or ``None`` where it is not known yet: for what is less hot.

        Args:
            name: The name; anything at all.
            tags: The tags as they were given; what is no dict is not known.
        """
        try:
            if tags is None:
                return self.untagged[name]
            usual, series, by_number = self.tagged[name]
            if tags != usual:
                if tags.__class__ is not dict:
                    return None
                values_of, known = by_number[len(tags)]
                series = known[values_of(tags)]
            return series
        except (KeyError, TypeError, ValueError):
            return None


class Finder(Protocol):
    """Where a `Recorder` finds series, and where it asks for those that are not found."""

    @property
    def lookups(self) -> Mapping[MetricType, Lookup]:
        """The series by their type."""
        ...

    def find(self, metric_type: MetricType, name: object, tags: object) -> Any:
        """Return the series, a new one if need be, or ``None`` where the input was refused and counted."""
        ...


class Recorder:
    """Records by name and tags: the recording half of the in-memory `MetricCollector`."""

    def __init__(self, finder: Finder) -> None:
        self._finder = finder
        self._counters = finder.lookups[MetricType.COUNTER]
        self._gauges = finder.lookups[MetricType.GAUGE]
        self._histograms = finder.lookups[MetricType.HISTOGRAM]
        self._timers = finder.lookups[MetricType.TIMER]

    # The bodies below are those of the series' own methods, written out: a call less is a tenth of the cost.

    def record_counter(self, name: str, value: int | float = 1, tags: dict[str, str] | None = None) -> None:
        """Add to a counter; see `MetricCollector.record_counter`."""
        lookup = self._counters
        try:
            if tags is None:
                series = lookup.untagged[name]
            else:
                usual, series, by_number = lookup.tagged[name]
                if tags != usual:
                    if tags.__class__ is not dict:  # another mapping may make up what it is asked for
                        raise TypeError
                    values_of, known = by_number[len(tags)]
                    series = known[values_of(tags)]
        except (KeyError, TypeError, ValueError):
            series = self._finder.find(MetricType.COUNTER, name, tags)
            if series is None:
                return
        if (value.__class__ is int and 0 <= value <= SMALL) or (
            value.__class__ is float and 0.0 <= value <= MAX
        ):
            ledger = series.ledger
            clock = ledger.now  # what is called as a method is looked up as one: much slower for a slot
            now = clock()
            if now < series.slot_end:
                buffer = series.buffer
                buffer.append(value)
                if len(buffer) > ledger.limit:
                    ledger.relieve(series)
            else:
                series.enter(value, now)
            return
        series.add(value)

    def record_gauge(self, name: str, value: int | float, tags: dict[str, str] | None = None) -> None:
        """Set a gauge; see `MetricCollector.record_gauge`."""
        lookup = self._gauges
        try:
            if tags is None:
                series = lookup.untagged[name]
            else:
                usual, series, by_number = lookup.tagged[name]
                if tags != usual:
                    if tags.__class__ is not dict:  # another mapping may make up what it is asked for
                        raise TypeError
                    values_of, known = by_number[len(tags)]
                    series = known[values_of(tags)]
        except (KeyError, TypeError, ValueError):
            series = self._finder.find(MetricType.GAUGE, name, tags)
            if series is None:
                return
        if (value.__class__ is float and value - value == 0.0) or (
            value.__class__ is int and MINUS_SMALL <= value <= SMALL
        ):
            ledger = series.ledger
            clock = ledger.now  # what is called as a method is looked up as one: much slower for a slot
            now = clock()
            if now < series.slot_end:
                buffer = ledger.buffer
                buffer += (series, value, now)
                if len(buffer) > ledger.limit:
                    ledger.relieve(ledger)
            else:
                series.enter(value, now)
            return
        series.set(value)

    def record_histogram(self, name: str, value: int | float, tags: dict[str, str] | None = None) -> None:
        """Add to a distribution; see `MetricCollector.record_histogram`."""
        lookup = self._histograms
        try:
            if tags is None:
                series = lookup.untagged[name]
            else:
                usual, series, by_number = lookup.tagged[name]
                if tags != usual:
                    if tags.__class__ is not dict:  # another mapping may make up what it is asked for
                        raise TypeError
                    values_of, known = by_number[len(tags)]
                    series = known[values_of(tags)]
        except (KeyError, TypeError, ValueError):
            series = self._finder.find(MetricType.HISTOGRAM, name, tags)
            if series is None:
                return
        if (value.__class__ is float and value - value == 0.0) or (
            value.__class__ is int and MINUS_SMALL <= value <= SMALL
        ):
            ledger = series.ledger
            clock = ledger.now  # what is called as a method is looked up as one: much slower for a slot
            now = clock()
            if now < series.slot_end:
                buffer = series.buffer
                buffer.append(value)
                if len(buffer) > ledger.limit:
                    ledger.relieve(series)
            else:
                series.enter(value, now)
            return
        series.observe(value)

    def record_timer(
        self,
        name: str,
        duration: float,
        unit: MetricUnit = MetricUnit.MILLISECONDS,
        tags: dict[str, str] | None = None,
    ) -> None:
        """Add a duration; see `MetricCollector.record_timer`."""
        lookup = self._timers
        try:
            if tags is None:
                series = lookup.untagged[name]
            else:
                usual, series, by_number = lookup.tagged[name]
                if tags != usual:
                    if tags.__class__ is not dict:  # another mapping may make up what it is asked for
                        raise TypeError
                    values_of, known = by_number[len(tags)]
                    series = known[values_of(tags)]
        except (KeyError, TypeError, ValueError):
            series = self._finder.find(MetricType.TIMER, name, tags)
            if series is None:
                return
        if duration.__class__ is float and 0.0 <= duration <= MAX and unit is MILLISECONDS:
            ledger = series.ledger
            clock = ledger.now  # what is called as a method is looked up as one: much slower for a slot
            now = clock()
            if now < series.slot_end:
                buffer = series.buffer
                buffer.append(duration)
                if len(buffer) > ledger.limit:
                    ledger.relieve(series)
            else:
                series.enter(duration, now)
            return
        series.observe(duration, unit)
