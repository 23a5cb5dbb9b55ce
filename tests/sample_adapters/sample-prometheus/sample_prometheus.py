"""Adapters over plain prometheus_client objects on a registry of their own.

It omits what Prometheus does not keep: extremes, deviations, counts of counters, windows.
"""

# ruff: noqa: D102, D103 - the Protocols document the methods

import json
import math
import re
import threading
from itertools import count

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary, generate_latest
from prometheus_client.metrics_core import Metric

from metrics_framework.clock import SYSTEM_CLOCK, utc
from metrics_framework.errors import InvalidInputError, UnknownMetricError, UnknownTimerError, nearest
from metrics_framework.values import MetricType, MetricUnit, MetricValue, TimingResult, to_milliseconds

GROWTH = 1.2
BUCKETS = [0.0, *(1e-3 * GROWTH**step for step in range(115))]


MAKE = {
    MetricType.COUNTER: Counter,
    MetricType.GAUGE: Gauge,
    MetricType.HISTOGRAM: lambda *args, **kwargs: Histogram(*args, buckets=BUCKETS, **kwargs),
    MetricType.TIMER: Summary,
}


class PrometheusBackend:
    """A registry, and the metrics on it; the four adapters share one."""

    def __init__(self, clock=SYSTEM_CLOCK):
        self.clock = clock
        self.start_ns = clock.monotonic_ns()
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self.families = {}
        self.durations = Summary(
            "operation_duration_seconds", "How long operations take.", ["operation"], registry=self.registry
        )
        self.outcomes = Counter(
            "operation_outcomes",
            "How operations end.",
            ["operation", "outcome", "error_type"],
            registry=self.registry,
        )
        self._spelled = {"operation_duration_seconds", "operation_outcomes"}
        self._lock = threading.Lock()

    def seconds(self):
        return (self.clock.monotonic_ns() - self.start_ns) / 1e9

    def child(self, kind, name, tags):
        """Return the prometheus_client object of one series; label names are learned."""
        check_name(name)
        labels = check_tags(tags)
        with self._lock:
            family = self.families.get(name)
            if family is None:
                spelled = re.sub("[^a-zA-Z0-9_]", "_", name).removesuffix("_total")
                if spelled in self._spelled:
                    raise InvalidInputError(f"{name!r} is taken: Prometheus spells another name {spelled!r}")
                family = Family(kind, name)
                child = family.child(labels)
                self.families[name] = family
                self._spelled.add(spelled)
                return child
            if family.kind is not kind:
                raise InvalidInputError(f"{name!r} is a {family.kind.value}, not a {kind.value}")
            return family.child(labels)

    def collect(self):
        """Yield one exposition family for each name, whatever labels its series have."""
        for family in list(self.families.values()):
            yield family.merged()


class Family:
    """One metric: a prometheus_client object for each set of label names."""

    def __init__(self, kind, name):
        self.kind, self.name = kind, name
        self.metrics = {}
        self.latest = ()

    def child(self, labels):
        names = tuple(labels)
        try:
            metric = self.metrics.get(names)
            if metric is None:
                metric = MAKE[self.kind](self.name, self.name, names, registry=None)
                self.metrics[names] = metric
            self.latest = tuple(labels.items())
            return metric.labels(*labels.values()) if names else metric
        except ValueError as error:  # a reserved label
            raise InvalidInputError(f"Prometheus refuses tags={labels!r}: {error}") from error

    def merged(self):
        (first, *others) = [metric.collect()[0] for metric in list(self.metrics.values())]
        merged = Metric(first.name, first.documentation, first.type)
        for part in (first, *others):
            merged.samples += part.samples
        return merged

    def series(self):
        """Return what each series has: labels to {suffix: value} and buckets."""
        found = {}
        for sample in self.merged().samples:
            labels = {key: value for key, value in sample.labels.items() if key != "le"}
            numbers = found.setdefault(tuple(labels.items()), {"buckets": []})
            if "le" in sample.labels:
                numbers["buckets"].append((float(sample.labels["le"]), sample.value))
            else:
                numbers[sample.name.rpartition("_")[2] if self.kind is not MetricType.GAUGE else "last"] = (
                    sample.value
                )
        return found


class PrometheusCollector:
    """A `MetricCollector` whose series are prometheus_client's."""

    def __init__(self, backend=None):
        self.backend = backend or PrometheusBackend()

    def record_counter(self, name, value=1, tags=None):
        check_number(value, lowest=0)
        self.backend.child(MetricType.COUNTER, name, tags).inc(value)

    def record_gauge(self, name, value, tags=None):
        check_number(int(value) if isinstance(value, bool) else value)
        self.backend.child(MetricType.GAUGE, name, tags).set(value)

    def record_histogram(self, name, value, tags=None):
        check_number(value, lowest=0)  # with buckets below zero prometheus_client gives no sum
        self.backend.child(MetricType.HISTOGRAM, name, tags).observe(value)

    def record_timer(self, name, duration, unit=MetricUnit.MILLISECONDS, tags=None):
        check_number(duration, lowest=0)
        seconds = to_milliseconds(duration, unit) / 1e3
        self.backend.child(MetricType.TIMER, name, tags).observe(seconds)

    def increment(self, name, tags=None):
        check_name(name)
        family = self.backend.families.get(name)
        is_gauge = family is not None and family.kind is MetricType.GAUGE
        self.backend.child(MetricType.GAUGE if is_gauge else MetricType.COUNTER, name, tags).inc()

    def decrement(self, name, tags=None):
        self.backend.child(MetricType.GAUGE, name, tags).dec()


class PrometheusTimer:
    """A `PerformanceTimer` into one summary of seconds."""

    def __init__(self, backend=None):
        self.backend = backend or PrometheusBackend()
        self._ids = count(1)
        self._running = {}

    def start_timer(self, operation_name, metadata=None):
        check_name(operation_name)
        timer_id = f"{operation_name}/{next(self._ids)}"
        began = self.backend.clock.monotonic_ns(), utc(self.backend.clock)
        self._running[timer_id] = (operation_name, dict(metadata or {}), *began)
        return timer_id

    def stop_timer(self, timer_id, success=True):
        now = self.backend.clock.monotonic_ns()
        try:
            name, metadata, began_ns, began = self._running.pop(timer_id)
        except KeyError:
            raise UnknownTimerError(f"no timer {timer_id!r} is running") from None
        seconds = (now - began_ns) / 1e9
        self.backend.durations.labels(name).observe(seconds)
        end = utc(self.backend.clock)
        return TimingResult(name, seconds * 1e3, MetricUnit.MILLISECONDS, began, end, success, metadata)

    def time_operation(self, operation_name, operation, metadata=None):
        timer_id = self.start_timer(operation_name, metadata)
        try:
            outcome = operation()
        except BaseException:
            self.stop_timer(timer_id, success=False)
            raise
        result = self.stop_timer(timer_id)
        result.metadata["result"] = outcome
        return result

    def get_timing_stats(self, operation_name):
        known = timings(self.backend)
        if operation_name not in known:
            raise UnknownMetricError(f"{operation_name!r} was never timed.{nearest(operation_name, known)}")
        return known[operation_name]


class PrometheusTracker:
    """A `SuccessFailureTracker` into one counter; without windows, as PromQL is where those are."""

    def __init__(self, backend=None):
        self.backend = backend or PrometheusBackend()

    def record_success(self, operation, metadata=None):
        check_name(operation)
        self.backend.outcomes.labels(operation, "success", "").inc()

    def record_failure(self, operation, error_type, metadata=None):
        check_name(operation)
        check_name(error_type)
        self.backend.outcomes.labels(operation, "failure", error_type).inc()

    def get_success_rate(self, operation, time_window=None):
        successes, failures = self._outcomes(operation)
        return successes / (successes + sum(failures.values()))

    def get_failure_breakdown(self, operation, time_window=None):
        return self._outcomes(operation)[1]

    def _outcomes(self, operation):
        known = outcomes(self.backend)
        if operation not in known:
            raise UnknownMetricError(f"{operation!r} was never tracked.{nearest(operation, known)}")
        return known[operation]


class PrometheusAggregator:
    """A `MetricsAggregator` that reads the prometheus_client objects back."""

    def __init__(self, backend=None):
        self.backend = backend or PrometheusBackend()

    def get_metric_summary(self, metric_name, time_window=None):
        families = self.backend.families
        if metric_name not in families:
            hint = nearest(str(metric_name), families)
            raise UnknownMetricError(f"no metric was recorded as {metric_name!r}.{hint}")
        family = families[metric_name]
        series = family.series()
        chosen = [series[family.latest]] if family.kind is MetricType.GAUGE else series.values()
        return summarize(family.kind, chosen, self.backend.seconds())

    def get_metrics_by_tag(self, tag_filter):
        return [
            value
            for value in (*self._metrics(), *self._operations())
            if tag_filter.items() <= value.tags.items()
        ]

    def export_metrics(self, format="json"):
        if format == "prometheus":
            return generate_latest(self.backend.registry).decode()
        if format != "json":
            raise InvalidInputError(f"format {format!r} is unknown; use json or prometheus")
        values = self.get_metrics_by_tag({})
        return json.dumps(
            {value.name: [value.metric_type.value, value.tags, value.value] for value in values}
        )

    def get_top_metrics(self, metric_type, limit=10):
        values = self.get_metrics_by_tag({})
        if metric_type is MetricType.RATE:
            counters = [value for value in values if value.metric_type is MetricType.COUNTER]
            values += [
                self._value(value.name, value.metadata["rate"], metric_type, value.tags, value.metadata)
                for value in counters
            ]
        chosen = [value for value in values if value.metric_type is metric_type]
        return sorted(chosen, key=lambda value: value.value, reverse=True)[: max(0, limit)]

    def _value(self, name, number, kind, tags, metadata):
        unit = {MetricType.TIMER: MetricUnit.MILLISECONDS, MetricType.RATE: MetricUnit.OPERATIONS_PER_SECOND}
        now = utc(self.backend.clock)
        return MetricValue(name, number, kind, unit.get(kind, MetricUnit.COUNT), now, tags, metadata)

    def _metrics(self):
        seconds = self.backend.seconds()
        for name, family in list(self.backend.families.items()):
            for labels, numbers in family.series().items():
                summary = summarize(family.kind, [numbers], seconds)
                key = {MetricType.COUNTER: "total", MetricType.GAUGE: "last", MetricType.HISTOGRAM: "p95"}
                number = summary.get(key.get(family.kind, "avg"), 0)
                yield self._value(name, number, family.kind, dict(labels), summary)

    def _operations(self):
        for name, stats in timings(self.backend).items():
            yield self._value(name, stats["avg"], MetricType.TIMER, {}, {**stats, "operation": True})
        seconds = self.backend.seconds()
        for name, (successes, failures) in outcomes(self.backend).items():
            events = successes + sum(failures.values())
            metadata = {"operation": True, "count": events, "success_rate": successes / events}
            metadata |= {"successes": successes, "failures": failures}
            rate = events / seconds if seconds else 0.0
            yield self._value(name, rate, MetricType.RATE, {}, metadata)


def summarize(kind, series, seconds):
    series = list(series)
    if kind is MetricType.GAUGE:
        return {"seconds": seconds, "last": series[0]["last"]}
    if kind is MetricType.COUNTER:
        total = math.fsum(numbers["total"] for numbers in series)
        rate = total / seconds if seconds else 0.0
        return {"seconds": seconds, "sum": total, "total": total, "rate": rate}
    scale = 1e3 if kind is MetricType.TIMER else 1.0
    records = round(sum(numbers["count"] for numbers in series))
    total = scale * math.fsum(numbers["sum"] for numbers in series)
    rate = records / seconds if seconds else 0.0
    summary = {"count": records, "seconds": seconds, "sum": total, "rate": rate}
    if not records:  # another thread has created the series, but not recorded yet
        return summary
    summary["avg"] = total / records
    if kind is MetricType.HISTOGRAM:
        buckets = {}
        for numbers in series:
            for bound, below in numbers["buckets"]:
                buckets[bound] = buckets.get(bound, 0) + below
        for percent in (50, 90, 95, 99):
            summary[f"p{percent}"] = quantile(sorted(buckets.items()), math.ceil(records * percent / 100))
    return summary


def quantile(buckets, rank):
    lower = 0.0
    for bound, below in buckets:
        if below >= rank:
            return lower if math.isinf(bound) else math.sqrt(lower * bound)
        lower = bound
    raise AssertionError("the last bucket holds everything")


def timings(backend):
    found = {}
    for sample in backend.durations.collect()[0].samples:
        numbers = found.setdefault(sample.labels["operation"], {})
        numbers[sample.name.rpartition("_")[2]] = sample.value
    return {
        name: summarize(MetricType.TIMER, [numbers], backend.seconds())
        for name, numbers in found.items()
        if numbers["count"]
    }


def outcomes(backend):
    found = {}
    for sample in backend.outcomes.collect()[0].samples:
        if sample.name.endswith("_total") and sample.value:
            successes, failures = found.get(sample.labels["operation"], (0, {}))
            if sample.labels["outcome"] == "success":
                successes = int(sample.value)
            else:
                failures[sample.labels["error_type"]] = int(sample.value)
            found[sample.labels["operation"]] = successes, failures
    return found


def check_name(name):
    if not isinstance(name, str) or not name:
        raise InvalidInputError(f"{name!r} is not a non-empty string")


def check_number(value, lowest=-math.inf):
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InvalidInputError(f"{value!r} is not a finite number")
    if value < lowest:
        raise InvalidInputError(f"{value!r} is less than {lowest}; only a gauge goes down")


def check_tags(tags):
    if tags is not None and not isinstance(tags, dict):
        raise InvalidInputError(f"tags={tags!r} is not a dict")
    for key in tags or ():
        check_name(key)
    return {key: str(value) for key, value in sorted((tags or {}).items())}
