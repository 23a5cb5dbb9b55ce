"""Meters that record into a system or a collector, and the gauge of requests in flight."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import partial
from typing import Any

from metrics_framework.capabilities import BindsInstruments, DescribesMetrics, HasCollector, HasFailureRule
from metrics_framework.clock import SYSTEM_CLOCK, Clock
from metrics_framework.error_types import DEFAULT_RULE
from metrics_framework.errors import InvalidInputError
from metrics_framework.log import Isolation
from metrics_framework.measure import ProtocolMeter, StoreMeter, meter_of
from metrics_framework.protocols import MetricCollector, MetricsSystem
from metrics_framework.recording.store import store_of

SystemOrCollector = MetricsSystem | MetricCollector
"""The target of the measurements.

A system records each measurement as an *operation*, as `MetricsSystem.measure` does: with durations, a
success rate and error types. A collector records only the timer ``<name>.duration``, with the tag
``error.type``.
"""

MAX_CACHED_GAUGES = 1_000
"""The number of gauges that one `InFlight` caches. Further ones are looked up each time."""


def collector_of(metrics: SystemOrCollector) -> MetricCollector:
    """Return the collector of a system, or the collector itself.

    Raises:
        InvalidInputError: If ``metrics`` is neither a system nor a collector.
    """
    collector = metrics.collector if isinstance(metrics, HasCollector) else metrics
    if not isinstance(collector, MetricCollector):
        raise InvalidInputError(f"metrics={metrics!r} is neither a MetricsSystem nor a MetricCollector")
    return collector


class CollectorMeter:
    """Records operations into a collector: as a timer whose tags contain the error type."""

    def __init__(self, collector: MetricCollector, clock: Clock) -> None:
        self._collector = collector
        self.now_ns = clock.monotonic_ns

    def begin(self, operation: str, tags: dict[str, str]) -> None:
        """Start an operation. There is nothing to record yet."""

    def end(
        self, begun: object, operation: str, tags: dict[str, str], spent_ns: int, error_type: str | None
    ) -> None:
        """Record the duration and the error type of an operation."""
        tags = {**tags, "error.type": error_type or ""}
        self._collector.record_timer(f"{operation}.duration", spent_ns / 1e6, tags=tags)


class SafeMeter:
    """Records operations through another meter, and logs its exceptions instead of raising them.

    Args:
        metrics: A system or a collector.

    Raises:
        InvalidInputError: If ``metrics`` is neither.
    """

    def __init__(self, metrics: SystemOrCollector) -> None:
        collector = collector_of(metrics)
        store = store_of(collector)
        clock = SYSTEM_CLOCK if store is None else store.clock
        self._meter: CollectorMeter | StoreMeter | ProtocolMeter = (
            CollectorMeter(collector, clock)
            if collector is metrics
            else meter_of(metrics.timer, metrics.tracker, clock)  # type: ignore[union-attr]
        )
        self.now_ns = self._meter.now_ns
        self.rule = metrics.failure_rule if isinstance(metrics, HasFailureRule) else DEFAULT_RULE
        """Decides which exceptions are failures."""
        self._isolation = Isolation()

    def begin(self, operation: str, tags: dict[str, str]) -> object:
        """Start an operation. Pass the result to `end`."""
        return self._isolation.call("not measured", partial(self._meter.begin, operation, tags))

    def end(
        self,
        begun: object,
        operation: str,
        tags: dict[str, str],
        spent_ns: int,
        error_type: str | None,
        is_counted: bool = True,
    ) -> None:
        """Record the duration and the outcome of an operation.

        Args:
            begun: The result of `begin`.
            operation: The name of the operation.
            tags: Its tags.
            spent_ns: The duration.
            error_type: The error type; ``None`` is a success.
            is_counted: Whether it is a success or a failure. Otherwise only the duration is recorded.
        """
        meter = self._meter
        if is_counted or isinstance(meter, CollectorMeter):
            record = partial(meter.end, begun, operation, tags, spent_ns, error_type)
        else:
            record = partial(meter.skip, begun, operation, tags, spent_ns)
        self._isolation.call("not recorded", record)


class InFlight:
    """Counts requests in flight in a gauge. The values of several processes are summed.

    Args:
        metrics: A system or a collector.
        name: The gauge's name.
        help: The help text of the gauge.

    Raises:
        InvalidInputError: If ``metrics`` is neither, or the name is taken by a metric of another type.
    """

    def __init__(self, metrics: SystemOrCollector, name: str, help: str) -> None:
        collector = collector_of(metrics)
        if isinstance(collector, DescribesMetrics):
            collector.describe(name, merge="sum", help=help)
        self._collector = collector
        self._binds = collector if isinstance(collector, BindsInstruments) else None
        self._name = name
        self._gauges: dict[tuple[tuple[str, str], ...], Any] = {}
        self._lock = threading.Lock()
        self._isolation = Isolation()

    def increment(self, tags: Mapping[str, str]) -> None:
        """Count one more."""
        self._isolation.call("in-flight gauge not moved", lambda: self._gauge(tags).increment())

    def decrement(self, tags: Mapping[str, str]) -> None:
        """Count one less."""
        self._isolation.call("in-flight gauge not moved", lambda: self._gauge(tags).decrement())

    def _gauge(self, tags: Mapping[str, str]) -> Any:
        key = tuple(tags.items())
        gauge = self._gauges.get(key)
        if gauge is not None:
            return gauge
        if self._binds is not None:
            gauge = self._binds.gauge(self._name, tags)
            if len(self._gauges) < MAX_CACHED_GAUGES:
                self._gauges[key] = gauge
            return gauge
        with self._lock:  # the Protocol makes a name a gauge by setting it, once
            if key not in self._gauges:
                self._collector.record_gauge(self._name, 0, dict(tags))
                self._gauges[key] = _NamedGauge(self._collector, self._name, dict(tags))
            return self._gauges[key]


class _NamedGauge:
    """A gauge of a collector that has no gauge objects."""

    def __init__(self, collector: MetricCollector, name: str, tags: dict[str, str]) -> None:
        self.increment = partial(collector.increment, name, tags)
        self.decrement = partial(collector.decrement, name, tags)
