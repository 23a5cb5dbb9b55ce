"""The libraries that are measured, each behind the same few calls.

Every function returns what is called in a loop, prepared as its own documentation advises. ``values`` and
``tag_sets`` are made before the clock starts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

Call = Callable[[Any], object]
TAGS = {"method": "GET", "status": "200"}


class Peer(Protocol):
    """A library; a case that it has no way to do is ``None``."""

    def counter(self, name: str) -> Call:
        """Return what adds 1 to a counter, given its tags."""
        ...

    def gauge(self, name: str) -> Call:
        """Return what sets a gauge, given its tags."""
        ...

    def gauge_step(self, name: str) -> Call | None:
        """Return what moves a gauge up by 1, given its tags."""
        ...

    def histogram(self, name: str) -> Call:
        """Return what adds a value to a histogram, given its tags."""
        ...

    def bound_counter(self) -> Callable[[], object] | None:
        """Return what adds 1 to a counter that was looked up before."""
        ...

    def bound_histogram(self) -> Callable[[float], object] | None:
        """Return what adds a value to a histogram that was looked up before."""
        ...

    def timer(self) -> Callable[[], object] | None:
        """Return what starts and stops a timer that was looked up before."""
        ...

    def settle(self) -> None:
        """Do what was put off while recording."""
        ...


class Ours:
    """This library."""

    def __init__(self) -> None:
        from metrics_adapters.in_memory import InMemoryCollector, InMemoryTimer
        from metrics_framework.recording import Budgets, Store

        # The peers have no budgets, so that ours must not save anything here.
        self.collector = InMemoryCollector(Store(budgets=Budgets(series_per_name=10**6, series=10**6)))
        self.timing = InMemoryTimer(self.collector.store)

    def counter(self, name: str) -> Call:
        record = self.collector.record_counter
        return lambda tags: record(name, 1, tags)

    def gauge(self, name: str) -> Call:
        record = self.collector.record_gauge
        return lambda tags: record(name, 1.5, tags)

    def gauge_step(self, name: str) -> Call:
        self.collector.record_gauge(name, 0, TAGS)
        increment = self.collector.increment
        return lambda tags: increment(name, tags)

    def histogram(self, name: str) -> Call:
        record, value = self.collector.record_histogram, values()
        return lambda tags: record(name, value(), tags)

    def bound_counter(self) -> Callable[[], object]:
        return self.collector.counter("bound", TAGS).add

    def bound_histogram(self) -> Callable[[float], object]:
        return self.collector.histogram("bound", TAGS).observe

    def timer(self) -> Callable[[], object]:
        timer = self.collector.timer("bound")

        def call() -> None:
            with timer.time():
                pass

        return call

    def measure(self) -> Callable[[], object]:
        from metrics_framework import MetricsSystem

        measure = MetricsSystem(collector=self.collector).measure

        def call() -> None:
            with measure("operation"):
                pass

        return call

    def timer_by_id(self) -> Callable[[], object]:
        start, stop = self.timing.start_timer, self.timing.stop_timer
        return lambda: stop(start("operation"))

    def settle(self) -> None:
        self.collector.store.recorded  # noqa: B018 - folds what is in the buffers of every series


class PrometheusClient:
    """prometheus_client, with ``labels(**tags)``."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self._registry = CollectorRegistry()
        self._Counter, self._Gauge, self._Histogram = Counter, Gauge, Histogram

    def counter(self, name: str, labels: tuple[str, ...] = tuple(TAGS)) -> Call:
        metric = self._Counter(name, "help", labels, registry=self._registry)
        if not labels:
            return lambda _: metric.inc()
        return lambda tags: metric.labels(**tags).inc()

    def gauge(self, name: str) -> Call:
        metric = self._Gauge(name, "help", list(TAGS), registry=self._registry)
        return lambda tags: metric.labels(**tags).set(1.5)

    def gauge_step(self, name: str) -> Call:
        metric = self._Gauge(name, "help", list(TAGS), registry=self._registry)
        return lambda tags: metric.labels(**tags).inc()

    def histogram(self, name: str) -> Call:
        metric, value = self._Histogram(name, "help", list(TAGS), registry=self._registry), values()
        return lambda tags: metric.labels(**tags).observe(value())

    def bound_counter(self) -> Callable[[], object]:
        return self._Counter("bound_c", "help", list(TAGS), registry=self._registry).labels(**TAGS).inc

    def bound_histogram(self) -> Callable[[float], object]:
        return self._Histogram("bound_h", "help", list(TAGS), registry=self._registry).labels(**TAGS).observe

    def timer(self) -> Callable[[], object]:
        metric = self._Histogram("timer", "help", registry=self._registry)

        def call() -> None:
            with metric.time():
                pass

        return call

    def settle(self) -> None:
        pass


class OpenTelemetry:
    """The OpenTelemetry SDK; histograms are exponential, as ours are."""

    def __init__(self) -> None:
        from opentelemetry.sdk.metrics import Histogram, MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation

        reader = InMemoryMetricReader(
            preferred_aggregation={Histogram: ExponentialBucketHistogramAggregation()}
        )
        self._provider = MeterProvider(metric_readers=[reader])
        self._meter = self._provider.get_meter("benchmark")

    def counter(self, name: str) -> Call:
        metric = self._meter.create_counter(name)
        return lambda tags: metric.add(1, tags)

    def gauge(self, name: str) -> Call:
        metric = self._meter.create_gauge(name)
        return lambda tags: metric.set(1.5, tags)

    def gauge_step(self, name: str) -> Call:
        metric = self._meter.create_up_down_counter(name)
        return lambda tags: metric.add(1, tags)

    def histogram(self, name: str) -> Call:
        metric, value = self._meter.create_histogram(name), values()
        return lambda tags: metric.record(value(), tags)

    def bound_counter(self) -> None:
        return None

    def bound_histogram(self) -> None:
        return None

    def timer(self) -> None:
        return None

    def settle(self) -> None:
        pass


class Pyformance:
    """pyformance, which has no tags: they go into the name."""

    def __init__(self) -> None:
        from pyformance import MetricsRegistry

        self._registry = MetricsRegistry()

    def counter(self, name: str) -> Call:
        counter = self._registry.counter
        return lambda tags: counter(f"{name}{tags['method']}{tags['status']}" if tags else name).inc()

    def gauge(self, name: str) -> Call:
        gauge = self._registry.gauge
        return lambda tags: gauge(f"{name}{tags['method']}{tags['status']}").set_value(1.5)

    def gauge_step(self, name: str) -> None:
        return None

    def histogram(self, name: str) -> Call:
        histogram, value = self._registry.histogram, values()
        return lambda tags: histogram(f"{name}{tags['method']}{tags['status']}").add(value())

    def bound_counter(self) -> Callable[[], object]:
        return self._registry.counter("bound").inc  # type: ignore[no-any-return]

    def bound_histogram(self) -> Callable[[float], object]:
        return self._registry.histogram("bound").add  # type: ignore[no-any-return]

    def timer(self) -> Callable[[], object]:
        timer = self._registry.timer("timer")

        def call() -> None:
            with timer.time():
                pass

        return call

    def settle(self) -> None:
        pass


PEERS: dict[str, Callable[[], Any]] = {
    "prometheus_client": PrometheusClient,
    "metrics_framework": Ours,
    "OpenTelemetry SDK": OpenTelemetry,
    "pyformance": Pyformance,
}


def values() -> Callable[[], float]:
    """Return what yields lognormal values again and again, for the price of one call."""
    import itertools
    import random

    chosen = random.Random(1)
    return itertools.cycle([chosen.lognormvariate(0, 1) for _ in range(1_000)]).__next__
