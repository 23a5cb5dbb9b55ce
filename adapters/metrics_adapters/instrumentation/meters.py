"""Where the numbers of a service go: a whole system, or a collector alone."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import partial
from typing import Any

from metrics_framework.capabilities import BindsInstruments, DescribesMetrics, HasCollector
from metrics_framework.clock import SYSTEM_CLOCK, Clock
from metrics_framework.errors import InvalidInputError
from metrics_framework.log import Isolation
from metrics_framework.measure import Meter, meter_of
from metrics_framework.protocols import MetricCollector, MetricsSystem
from metrics_framework.recording.store import store_of

Metrics = MetricsSystem | MetricCollector
"""What takes the numbers.

With a system each thing that is measured is an *operation*, as with `MetricsSystem.measure`: it has
durations, a success rate and kinds of failures. A collector alone gets its durations, as the timer
``<name>.duration``, and the kind of a failure as the tag ``error.type``.
"""

MAX_GAUGES = 1_000
"""How many gauges one `InFlight` remembers; any further one is looked up each time."""


def collector_of(metrics: Metrics) -> MetricCollector:
    """Return what takes single numbers.

    Raises:
        InvalidInputError: If it is neither a system nor a collector.
    """
    collector = metrics.collector if isinstance(metrics, HasCollector) else metrics
    if not isinstance(collector, MetricCollector):
        raise InvalidInputError(f"{metrics!r} is no MetricsSystem and no MetricCollector to record into")
    return collector


class CollectorMeter:
    """Measures by a collector alone: a timer, whose tags say how it ended too."""

    def __init__(self, collector: MetricCollector, clock: Clock) -> None:
        self._collector = collector
        self.now_ns = clock.monotonic_ns

    def begin(self, operation: str, tags: dict[str, str]) -> None:
        """Begin; there is nothing to keep."""

    def end(
        self, begun: object, operation: str, tags: dict[str, str], spent_ns: int, error_type: str | None
    ) -> None:
        """Record how long an operation took and how it ended."""
        tags = {**tags, "error.type": error_type or ""}
        self._collector.record_timer(f"{operation}.duration", spent_ns / 1e6, tags=tags)


class SafeMeter:
    """Measures by another meter, whose failures are logged and spoil nobody's work.

    Args:
        metrics: A system or a collector.

    Raises:
        InvalidInputError: If ``metrics`` is neither.
    """

    def __init__(self, metrics: Metrics) -> None:
        collector = collector_of(metrics)
        store = store_of(collector)
        clock = SYSTEM_CLOCK if store is None else store.clock
        self._meter: Meter = (
            CollectorMeter(collector, clock)
            if collector is metrics
            else meter_of(metrics.timer, metrics.tracker, clock)  # type: ignore[union-attr]
        )
        self.now_ns = self._meter.now_ns
        self._isolation = Isolation()

    def begin(self, operation: str, tags: dict[str, str]) -> object:
        """Begin to time an operation; what is returned comes back at its end."""
        return self._isolation.call("not measured", partial(self._meter.begin, operation, tags))

    def end(
        self, begun: object, operation: str, tags: dict[str, str], spent_ns: int, error_type: str | None
    ) -> None:
        """Record how long an operation took and how it ended; ``None`` is success."""
        self._isolation.call(
            "not recorded", partial(self._meter.end, begun, operation, tags, spent_ns, error_type)
        )


class InFlight:
    """Counts what is going on now, in a gauge; for several processes it is their sum.

    Args:
        metrics: A system or a collector.
        name: The gauge's name.
        help: What it counts, in a sentence.

    Raises:
        InvalidInputError: If ``metrics`` is neither, or the name is another type of metric.
    """

    def __init__(self, metrics: Metrics, name: str, help: str) -> None:
        collector = collector_of(metrics)
        if isinstance(collector, DescribesMetrics):
            collector.describe(name, merge="sum", help=help)
        self._collector = collector
        self._binds = collector if isinstance(collector, BindsInstruments) else None
        self._name = name
        self._gauges: dict[tuple[tuple[str, str], ...], Any] = {}
        self._lock = threading.Lock()
        self._isolation = Isolation()

    def up(self, tags: Mapping[str, str]) -> None:
        """One more is going on."""
        self._isolation.call("in-flight gauge not moved", lambda: self._gauge(tags).increment())

    def down(self, tags: Mapping[str, str]) -> None:
        """One has ended."""
        self._isolation.call("in-flight gauge not moved", lambda: self._gauge(tags).decrement())

    def _gauge(self, tags: Mapping[str, str]) -> Any:
        key = tuple(tags.items())
        gauge = self._gauges.get(key)
        if gauge is not None:
            return gauge
        if self._binds is not None:
            gauge = self._binds.gauge(self._name, tags)
            if len(self._gauges) < MAX_GAUGES:
                self._gauges[key] = gauge
            return gauge
        with self._lock:  # by the contract alone, a name is a gauge once it was set; and it is set once
            if key not in self._gauges:
                self._collector.record_gauge(self._name, 0, dict(tags))
                self._gauges[key] = _NamedGauge(self._collector, self._name, dict(tags))
            return self._gauges[key]


class _NamedGauge:
    """A gauge of a collector that knows it by its name only."""

    def __init__(self, collector: MetricCollector, name: str, tags: dict[str, str]) -> None:
        self.increment = partial(collector.increment, name, tags)
        self.decrement = partial(collector.decrement, name, tags)
