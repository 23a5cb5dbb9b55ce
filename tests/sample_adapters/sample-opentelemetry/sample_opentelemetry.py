"""Adapters over the OpenTelemetry SDK: instruments of one meter, read back cumulatively.

Durations and outcomes of operations are one instrument each, apart by the attribute `operation`.
"""

# ruff: noqa: D102, D103 - the Protocols document the methods

# Before the SDK registers its fork hook: that hook starts threads, which waits forever in a child if the
# hook of this module, which releases a lock, comes after it.
import concurrent.futures.thread  # noqa: F401
import json
import math
import threading
from itertools import count

from opentelemetry.metrics import Observation
from opentelemetry.sdk.metrics import Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource

from metrics_framework.clock import SYSTEM_CLOCK, utc
from metrics_framework.errors import InvalidInputError, UnknownMetricError, UnknownTimerError, nearest
from metrics_framework.values import MetricType, MetricUnit, MetricValue, TimingResult, to_milliseconds

DURATIONS, OUTCOMES = "metrics_framework.operation.duration", "metrics_framework.operation.outcomes"


class OpenTelemetryBackend:
    """A meter with its instruments, and the reader that gives their numbers back."""

    def __init__(self, clock=SYSTEM_CLOCK):
        self.clock = clock
        self.start_ns = clock.monotonic_ns()
        self._reader = InMemoryMetricReader()
        view = View(instrument_type=Histogram, aggregation=ExponentialBucketHistogramAggregation())
        resource = Resource.get_empty()  # detecting the process's resource is slow
        self.provider = MeterProvider([self._reader], resource, views=[view], shutdown_on_exit=False)
        self._meter = self.provider.get_meter("sample")
        self._lock = threading.Lock()
        self._spelled = {DURATIONS, OUTCOMES}
        self.metrics = {}
        self.durations = self._meter.create_histogram(DURATIONS, "ms")
        self.outcomes = self._meter.create_counter(OUTCOMES)

    def seconds(self):
        return (self.clock.monotonic_ns() - self.start_ns) / 1e9

    def instrument(self, kind, name):
        check_name(name)
        with self._lock:
            if name not in self.metrics:
                # OpenTelemetry takes two names that differ in case alone for one instrument.
                if name.lower() in self._spelled:
                    raise InvalidInputError(f"{name!r} is taken: names differ in more than their case")
                try:
                    self.metrics[name] = kind, self._create(kind, name)
                except Exception as error:
                    raise InvalidInputError(f"OpenTelemetry refuses the name {name!r}: {error}") from error
                self._spelled.add(name.lower())
            known, instrument = self.metrics[name]
        if known is not kind:
            raise InvalidInputError(f"{name!r} is a {known.value}, not a {kind.value}")
        return instrument

    def _create(self, kind, name):
        if kind is MetricType.COUNTER:
            return self._meter.create_counter(name)
        if kind is MetricType.GAUGE:
            return Levels(self._meter, name)
        return self._meter.create_histogram(name, "ms" if kind is MetricType.TIMER else "1")

    def points(self):
        """Return every data point, by the name of its instrument."""
        found, data = {}, self._reader.get_metrics_data()
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    found[metric.name] = list(metric.data.data_points)
        return found


class Levels:
    """A gauge that also goes up and down by steps, which OpenTelemetry's does not."""

    def __init__(self, meter, name):
        self._levels = {}
        self._lock = threading.Lock()
        self.latest = {}
        meter.create_observable_gauge(name, [self._observe])

    def set(self, value, attributes, step=False):
        series = tuple(sorted(attributes.items()))
        with self._lock:
            self._levels[series] = value + self._levels.get(series, 0) if step else value
            self.latest = attributes

    def _observe(self, _):
        with self._lock:
            levels = dict(self._levels)
        return [Observation(level, dict(series)) for series, level in levels.items()]


class OpenTelemetryCollector:
    """A `MetricCollector` over OpenTelemetry's synchronous instruments."""

    def __init__(self, backend=None):
        self.backend = backend or OpenTelemetryBackend()

    def record_counter(self, name, value=1, tags=None):
        attributes = check_tags(tags)
        check_number(value, lowest=0)
        self.backend.instrument(MetricType.COUNTER, name).add(value, attributes)

    def record_gauge(self, name, value, tags=None):
        attributes = check_tags(tags)
        check_number(int(value) if isinstance(value, bool) else value)
        self.backend.instrument(MetricType.GAUGE, name).set(value, attributes)

    def record_histogram(self, name, value, tags=None):
        attributes = check_tags(tags)
        check_number(value, lowest=0)  # OpenTelemetry drops negative values
        self.backend.instrument(MetricType.HISTOGRAM, name).record(value, attributes)

    def record_timer(self, name, duration, unit=MetricUnit.MILLISECONDS, tags=None):
        attributes = check_tags(tags)
        check_number(duration, lowest=0)
        milliseconds = to_milliseconds(duration, unit)
        self.backend.instrument(MetricType.TIMER, name).record(milliseconds, attributes)

    def increment(self, name, tags=None):
        check_name(name)
        if self.backend.metrics.get(name, (MetricType.COUNTER,))[0] is MetricType.GAUGE:
            self.backend.instrument(MetricType.GAUGE, name).set(1, check_tags(tags), step=True)
        else:
            self.record_counter(name, 1, tags)

    def decrement(self, name, tags=None):
        attributes = check_tags(tags)
        self.backend.instrument(MetricType.GAUGE, name).set(-1, attributes, step=True)


class OpenTelemetryTimer:
    """A `PerformanceTimer` into one histogram of milliseconds."""

    def __init__(self, backend=None):
        self.backend = backend or OpenTelemetryBackend()
        self._ids = count(1)
        self._running = {}

    def start_timer(self, operation_name, metadata=None):
        check_name(operation_name)
        timer_id = f"{operation_name}-{next(self._ids)}"
        start = self.backend.clock.monotonic_ns(), utc(self.backend.clock)
        self._running[timer_id] = operation_name, dict(metadata or {}), start
        return timer_id

    def stop_timer(self, timer_id, success=True):
        if timer_id not in self._running:
            raise UnknownTimerError(f"no timer {timer_id!r} is running")
        name, metadata, (start_ns, start) = self._running.pop(timer_id)
        duration = (self.backend.clock.monotonic_ns() - start_ns) / 1e6
        self.backend.durations.record(duration, {"operation": name})
        end = utc(self.backend.clock)
        return TimingResult(name, duration, MetricUnit.MILLISECONDS, start, end, success, metadata)

    def time_operation(self, operation_name, operation, metadata=None):
        timer_id, returned, success = self.start_timer(operation_name, metadata), None, False
        try:
            returned = operation()
            success = True
        finally:
            result = self.stop_timer(timer_id, success)
        result.metadata["result"] = returned
        return result

    def get_timing_stats(self, operation_name):
        known = timings(self.backend.points(), self.backend.seconds())
        if operation_name not in known:
            raise UnknownMetricError(f"{operation_name!r} was never timed.{nearest(operation_name, known)}")
        return known[operation_name]


class OpenTelemetryTracker:
    """A `SuccessFailureTracker` into one counter; an SDK keeps no windows."""

    def __init__(self, backend=None):
        self.backend = backend or OpenTelemetryBackend()

    def record_success(self, operation, metadata=None):
        check_name(operation)
        self.backend.outcomes.add(1, {"operation": operation})

    def record_failure(self, operation, error_type, metadata=None):
        check_name(operation)
        check_name(error_type)
        self.backend.outcomes.add(1, {"operation": operation, "error.type": error_type})

    def get_success_rate(self, operation, time_window=None):
        return self._outcomes(operation, time_window)["success_rate"]

    def get_failure_breakdown(self, operation, time_window=None):
        return self._outcomes(operation, time_window)["failures"]

    def _outcomes(self, operation, window):
        no_windows(window)
        known = outcomes(self.backend.points())
        if operation not in known:
            raise UnknownMetricError(f"{operation!r} was never tracked.{nearest(operation, known)}")
        return known[operation]


class OpenTelemetryAggregator:
    """A `MetricsAggregator` over what the reader collects."""

    def __init__(self, backend=None):
        self.backend = backend or OpenTelemetryBackend()

    def get_metric_summary(self, metric_name, time_window=None):
        no_windows(time_window)
        if metric_name not in self.backend.metrics:
            hint = nearest(str(metric_name), self.backend.metrics)
            raise UnknownMetricError(f"no metric was recorded as {metric_name!r}.{hint}")
        kind, instrument = self.backend.metrics[metric_name]
        points = self.backend.points().get(metric_name, [])
        if kind is MetricType.GAUGE:
            points = [point for point in points if dict(point.attributes) == instrument.latest]
        return summarize(kind, points, self.backend.seconds())

    def get_metrics_by_tag(self, tag_filter):
        points, seconds = self.backend.points(), self.backend.seconds()
        found = []
        for name, (kind, _) in list(self.backend.metrics.items()):
            for point in points.get(name, []):
                summary = summarize(kind, [point], seconds)
                key = {MetricType.COUNTER: "total", MetricType.GAUGE: "last"}.get(kind, "p95")
                found.append(self._value(name, summary[key], kind, dict(point.attributes), summary))
        for name, stats in timings(points, seconds).items():
            found.append(self._value(name, stats["p95"], MetricType.TIMER, {}, {**stats, "operation": True}))
        for name, outcome in outcomes(points).items():
            rate = outcome["count"] / seconds if seconds else 0.0
            found.append(self._value(name, rate, MetricType.RATE, {}, {**outcome, "operation": True}))
        return [value for value in found if tag_filter.items() <= value.tags.items()]

    def export_metrics(self, format="json"):
        if format != "json":
            raise InvalidInputError(f"format {format!r} is unknown; use json")
        lines = [
            {"metric": value.name, "attributes": value.tags, "value": value.value}
            for value in self.get_metrics_by_tag({})
        ]
        return json.dumps(lines)

    def get_top_metrics(self, metric_type, limit=10):
        if limit < 1:
            raise InvalidInputError(f"limit={limit!r} shows nothing; use 1 or more")
        values = self.get_metrics_by_tag({})
        if metric_type is MetricType.RATE:
            values += [
                self._value(value.name, value.metadata["rate"], metric_type, value.tags, value.metadata)
                for value in values
                if value.metric_type is MetricType.COUNTER
            ]
        chosen = [value for value in values if value.metric_type is metric_type]
        return sorted(chosen, key=lambda value: value.value, reverse=True)[:limit]

    def _value(self, name, number, kind, tags, metadata):
        unit = {MetricType.TIMER: MetricUnit.MILLISECONDS, MetricType.RATE: MetricUnit.OPERATIONS_PER_SECOND}
        now = utc(self.backend.clock)
        return MetricValue(name, number, kind, unit.get(kind, MetricUnit.COUNT), now, tags, metadata)


def summarize(kind, points, seconds):
    if kind is MetricType.GAUGE:
        return {"seconds": seconds, "last": points[0].value}
    if kind is MetricType.COUNTER:
        total = sum(point.value for point in points)
        rate = total / seconds if seconds else 0.0
        return {"seconds": seconds, "sum": total, "total": total, "rate": rate}
    records, total = sum(point.count for point in points), math.fsum(point.sum for point in points)
    lowest, highest = min(point.min for point in points), max(point.max for point in points)
    ranked = sorted(pair for point in points for pair in buckets(point))
    rate = records / seconds if seconds else 0.0
    summary = {"count": records, "seconds": seconds, "sum": total, "rate": rate, "avg": total / records}
    for percent in (50, 90, 95, 99):
        rank = math.ceil(records * percent / 100)
        for value, number in ranked:
            rank -= number
            if rank <= 0:
                summary[f"p{percent}"] = min(max(value, lowest), highest)
                break
    return summary | {"min": lowest, "max": highest}


def buckets(point):
    """Yield the middle of each bucket, and how many values are in it."""
    if point.zero_count:
        yield 0.0, point.zero_count
    base = 2.0 ** (2.0**-point.scale)
    for index, number in enumerate(point.positive.bucket_counts, start=point.positive.offset):
        if number:
            yield base ** (index + 0.5), number


def timings(points, seconds):
    by_operation = {point.attributes["operation"]: point for point in points.get(DURATIONS, [])}
    return {name: summarize(MetricType.TIMER, [point], seconds) for name, point in by_operation.items()}


def outcomes(points):
    found = {}
    for point in points.get(OUTCOMES, []):
        outcome = found.setdefault(point.attributes["operation"], {"successes": 0, "failures": {}})
        if "error.type" in point.attributes:
            outcome["failures"][point.attributes["error.type"]] = point.value
        else:
            outcome["successes"] = point.value
    for outcome in found.values():
        outcome["count"] = outcome["successes"] + sum(outcome["failures"].values())
        outcome["success_rate"] = outcome["successes"] / outcome["count"]
    return found


def no_windows(window):
    if window is not None:
        raise InvalidInputError(f"time_window={window!r}: an SDK keeps no windows; use None")


def check_name(name):
    if not isinstance(name, str) or not name:
        raise InvalidInputError(f"{name!r} is not a non-empty string")


def check_number(value, lowest=-math.inf):
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InvalidInputError(f"{value!r} is not a finite number")
    if value < lowest:
        raise InvalidInputError(f"{value!r} is less than {lowest}; a gauge takes it")


def check_tags(tags):
    if tags is not None and not isinstance(tags, dict):
        raise InvalidInputError(f"tags={tags!r} is not a dict")
    for key, value in (tags or {}).items():
        check_name(key)
        if not isinstance(value, str):
            raise InvalidInputError(f"tag {key!r} is {value!r}, which is not a string")
    return dict(tags or {})
