"""Builds a snapshot of a system from its Protocols, so that any adapters can produce one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from metrics_framework.capabilities import DistributionAggregator
from metrics_framework.errors import UnknownNameError
from metrics_framework.health import RESOURCE_GAUGES
from metrics_framework.protocols import (
    MetricsAggregator,
    PerformanceTimer,
    ResourceMonitor,
    SuccessFailureTracker,
)
from metrics_framework.snapshots.keys import (
    STATISTICS,
    SUCCESS_RATE,
    custom_key,
    key_of_tags,
    key_of_value,
    key_stem,
)
from metrics_framework.snapshots.rules import LATENCY_FIELDS, is_measurement
from metrics_framework.snapshots.v1 import LatencyMetrics, Metrics, PerformanceSnapshot, SnapshotMetadata
from metrics_framework.values import MetricType, MetricValue, to_milliseconds

if TYPE_CHECKING:
    from metrics_framework.recording import Distribution, MetricReading

T = TypeVar("T")

MAX_CUSTOM = 200
"""Default limit of custom keys in a snapshot. A comparison reports each one that changes."""

LATENCY_TAG = "latency_metric"
"""The metadata tag that names the timer behind ``latency``."""

NOT_LATENCY = frozenset(
    f"{name}{suffix}"
    for name in (
        "event_loop.lag",
        "http.client.event_stream",
        "http.server.event_stream",
        "websocket.server.connection",
    )
    for suffix in ("", ".duration")
)
"""Timers that become ``latency`` only by name: of event streams, WebSocket connections and the event loop."""

_BYTES_IN_MEGABYTE = 1_000_000


class LeftOut(NamedTuple):
    """A recorded value that is not in the snapshot, and the reason."""

    what: str
    reason: str


@dataclass(frozen=True)
class BuildReport:
    """The omissions of a snapshot, and data that belongs beside it.

    Attributes:
        left_out: Recorded values that were left out, with reasons.
        distributions: The distributions behind the statistics, if the aggregator keeps them. A key is the
            flat key without the statistic, such as ``latency`` or ``custom.payload/size``. The statistics
            are computed from them, so both have the same records.
    """

    left_out: tuple[LeftOut, ...]
    distributions: Mapping[str, Distribution] = field(default_factory=dict, compare=False)


@dataclass
class _Latency:
    """The source of ``latency`` and ``throughput``."""

    name: str
    operation: bool
    fields: dict[str, float]
    throughput: float | None
    distribution: Distribution | None

    def is_source(self, name: str, metric_type: MetricType, operation: bool, tags: Mapping[str, str]) -> bool:
        """Return whether a series is the source. A series with tags is not: it tells more."""
        is_timer = metric_type is MetricType.TIMER and not tags
        return is_timer and (name, operation) == (self.name, self.operation)


@dataclass
class SnapshotBuilder:
    """Builds a snapshot from the four parts of a system.

    A `DistributionAggregator` is read once, and the snapshot is computed from that reading. Of any other
    aggregator, the series, the summary of the latency and the success rates are read one after the other.

    If a part fails, only its own values are left out, and the report says so.

    Attributes:
        timer: Provides the durations of an operation.
        tracker: Provides success rates.
        resource_monitor: Provides peak memory and average CPU; without one they are left out.
        aggregator: Provides all recorded values.
        seconds: The duration of the run, for adapters whose summaries have no ``rate``.
        latency_metric: The timer that becomes ``latency``; by default the one with the most records that is
            not in `NOT_LATENCY`.
        custom_metrics: Patterns such as ``http.*`` for the names of metrics and operations that become
            custom keys; all by default.
        max_custom: The maximum number of custom keys.
        constant_tags: Tags of every series. They go into the metadata instead of every key.
    """

    timer: PerformanceTimer
    tracker: SuccessFailureTracker
    resource_monitor: ResourceMonitor | None
    aggregator: MetricsAggregator
    seconds: float
    latency_metric: str | None = None
    custom_metrics: Iterable[str] | None = None
    max_custom: int = MAX_CUSTOM
    constant_tags: Mapping[str, str] = field(default_factory=dict)
    _left_out: list[LeftOut] = field(default_factory=list, init=False)

    def build(self, metadata: SnapshotMetadata) -> tuple[PerformanceSnapshot, BuildReport]:
        """Return the snapshot, and the report on what is not in it.

        Args:
            metadata: The context of the run. The tag `LATENCY_TAG` is added.

        Raises:
            SnapshotError: If there are no measurements at all.
        """
        self._left_out.clear()
        if self.custom_metrics is not None:
            self.custom_metrics = tuple(self.custom_metrics)
        aggregator = self.aggregator
        readings: list[MetricReading] | None = None
        if isinstance(aggregator, DistributionAggregator):
            readings = self._try("distributions", lambda: list(aggregator.read()))
        values: list[MetricValue] = []
        if readings is None:
            readings = []
            values = self._try("metrics", lambda: aggregator.get_metrics_by_tag({})) or []
        latency = self._try("latency", lambda: self._latency(values, readings))
        custom: dict[str, float | Distribution] = {}
        for value in values:
            self._try(repr(value.name), partial(self._add_value, custom, value, latency))
        for reading in readings:
            self._try(repr(reading.name), partial(self._add_reading, custom, reading, latency))
        kept_keys = sorted(custom)[: self.max_custom]
        if len(kept_keys) < len(custom):
            beyond = custom.keys() - kept_keys
            self._leave_out(
                filter(beyond.__contains__, custom),
                f"over the limit of {self.max_custom} custom keys: raise max_custom",
            )
        kept, distributions = _computed({key: custom[key] for key in kept_keys})
        if latency is not None and latency.distribution is not None:
            distributions = {"latency": latency.distribution, **distributions}
        tags = {**self.constant_tags, **metadata.tags}
        if latency is not None:
            tags[LATENCY_TAG] = latency.name
        snapshot = PerformanceSnapshot(
            Metrics(
                latency=LatencyMetrics(**latency.fields) if latency else None,
                throughput=latency.throughput if latency else None,
                memory_mb=self._try("memory_mb", self._memory_mb),
                cpu_percent=self._try("cpu_percent", self._cpu_percent),
                custom=kept,
            ),
            metadata=SnapshotMetadata(
                metadata.run_id,
                metadata.commit,
                metadata.branch,
                metadata.timestamp,
                metadata.environment,
                tags,
            ),
        )
        return snapshot, BuildReport(tuple(self._left_out), distributions)

    def _without_constant(self, tags: Mapping[str, str]) -> Mapping[str, str]:
        """Return the tags without the constant ones."""
        constant = self.constant_tags.items()
        return {tag: text for tag, text in tags.items() if (tag, text) not in constant} if constant else tags

    # -- latency ---------------------------------------------------------------------------------------

    def _latency(self, values: list[MetricValue], readings: list[MetricReading]) -> _Latency | None:
        records: defaultdict[tuple[str, bool], float] = defaultdict(float)
        timers = [value for value in values if value.metric_type is MetricType.TIMER]
        for value in timers:
            records[value.name, _is_operation(value)] += value.metadata.get("count", 0)
        read = {
            (reading.name, reading.operation): reading
            for reading in readings
            if reading.metric_type is MetricType.TIMER
        }
        for timer, reading in read.items():
            records[timer] = reading.records
        if self.latency_metric is None:
            # Equal counts are ordered by name, so that equal runs choose the same timer.
            timed = (timer for timer in records if timer[0] not in NOT_LATENCY)
            ranked = sorted(timed, key=lambda timer: (-records[timer], timer))
            if not ranked:
                return None
            name, operation = ranked[0]
        else:
            name = self.latency_metric
            # An aggregator may not list operations: a name that it does not list is read from the timer.
            operation = (name, True) in records or (name, False) not in records
        distribution = None
        try:
            if (name, operation) in read:
                distribution = read[name, operation].distribution()
                summary = _statistics(distribution)
                summary["rate"] = read[name, operation].rate
            else:
                summary = self._timer_summary(name, operation, timers)
        except Exception as error:  # noqa: BLE001 - a third-party adapter may raise anything
            reason = (
                "was not recorded" if isinstance(error, UnknownNameError) else f"could not be read: {error!r}"
            )
            self._leave_out([f"latency of {name!r}"], reason)
            return None
        found = {key: summary.get(STATISTICS.get(key, key)) for key in LATENCY_FIELDS}
        fields = {
            key: value
            for key, value in found.items()
            if value is not None and self._valid(f"latency.{key}", value) is not None
        }
        if not fields:
            self._leave_out([f"latency of {name!r}"], "has no valid durations")
            return None
        rate = summary.get("rate", summary.get("count", 0) / self.seconds if self.seconds > 0 else None)
        throughput = None if rate is None else self._valid("throughput", rate)
        return _Latency(name, operation, fields, throughput, distribution)

    def _timer_summary(self, name: str, operation: bool, timers: list[MetricValue]) -> dict[str, float]:
        if operation:
            return self.timer.get_timing_stats(name)
        summary = self.aggregator.get_metric_summary(name)
        unit = next(value.unit for value in timers if value.name == name and not _is_operation(value))
        return {
            key: value if key in ("count", "rate", "seconds") else to_milliseconds(value, unit)
            for key, value in summary.items()
        }

    # -- custom ----------------------------------------------------------------------------------------

    def _add_value(
        self, custom: dict[str, float | Distribution], value: MetricValue, latency: _Latency | None
    ) -> None:
        """Add the numbers of a series as an aggregator lists it."""
        tags, operation = self._without_constant(value.tags), _is_operation(value)
        if value.name in RESOURCE_GAUGES or (
            latency is not None and latency.is_source(value.name, value.metric_type, operation, tags)
        ):
            return
        is_selected = self._selects(value.name)
        for key, number in list(self._numbers(value, tags, operation)):
            self._add(custom, key, number, is_selected)

    def _numbers(
        self, value: MetricValue, tags: Mapping[str, str], operation: bool
    ) -> Iterable[tuple[str, float]]:
        name = value.name
        if value.metric_type in (MetricType.HISTOGRAM, MetricType.TIMER):
            stem = key_stem(name, tags, operation)
            for statistic, source in STATISTICS.items():
                if source in value.metadata:
                    number = value.metadata[source]
                    if value.metric_type is MetricType.TIMER and statistic != "count":
                        number = to_milliseconds(number, value.unit)
                    yield f"{stem}/{statistic}", number
        elif value.metric_type is not MetricType.RATE:
            yield custom_key(name, tags), value.value
        elif operation:
            key = custom_key(name, tags, statistic=SUCCESS_RATE, operation=True)
            # A tracker has no tags, so it cannot give the rate of one tagged series.
            rate = value.metadata.get(SUCCESS_RATE)
            if rate is None and not tags:
                rate = self._try(key, lambda: self.tracker.get_success_rate(name))
            if rate is not None:
                yield key, rate

    def _add_reading(
        self, custom: dict[str, float | Distribution], reading: MetricReading, latency: _Latency | None
    ) -> None:
        """Add the numbers of a metric, or one half of an operation, of a `DistributionAggregator`."""
        name, metric_type, operation = reading.name, reading.metric_type, reading.operation
        if name in RESOURCE_GAUGES:
            return
        is_selected = self._selects(name)
        name_stem = key_stem(name, None, operation)
        for every_tag, aggregate in reading.series:
            tags = self._without_constant(every_tag)
            if latency is not None and latency.is_source(name, metric_type, operation, tags):
                continue
            stem = f"{name_stem}{key_of_tags(tags)}" if tags else name_stem
            if metric_type is MetricType.COUNTER:
                self._add(custom, stem if tags else key_of_value(stem), aggregate.value, is_selected)
            elif metric_type is MetricType.GAUGE:
                self._add(custom, stem if tags else key_of_value(stem), aggregate.last, is_selected)
            elif metric_type is MetricType.RATE:
                self._add(custom, f"{stem}/{SUCCESS_RATE}", aggregate.success_rate, is_selected)
            elif is_selected and aggregate.min >= 0:  # all statistics are valid
                for statistic in STATISTICS:
                    custom[f"{stem}/{statistic}"] = aggregate
            else:
                numbers = _statistics(aggregate)
                for statistic, source in STATISTICS.items():
                    key = f"{stem}/{statistic}"
                    self._add(custom, key, numbers[source], is_selected)
                    if key in custom:
                        custom[key] = aggregate

    def _selects(self, name: str) -> bool:
        patterns = self.custom_metrics
        return patterns is None or any(fnmatchcase(name, pattern) for pattern in patterns)

    def _add(
        self, custom: dict[str, float | Distribution], key: str, number: float, is_selected: bool
    ) -> None:
        if not is_selected:
            self._leave_out([key], "not matched by custom_metrics")
        elif not is_measurement(number):
            self._leave_out([key], f"v1 stores only finite numbers of 0 or more, got {number!r}")
        else:
            custom[key] = number

    # -- resources -------------------------------------------------------------------------------------

    def _memory_mb(self) -> float | None:
        if self.resource_monitor is None:
            return None
        memory = self.resource_monitor.get_memory_usage()
        peak = memory.get("process_peak_rss", memory.get("process_rss"))
        return None if peak is None else self._valid("memory_mb", peak / _BYTES_IN_MEGABYTE)

    def _cpu_percent(self) -> float | None:
        if self.resource_monitor is None:
            return None
        cpu = self.resource_monitor.get_cpu_usage()
        percent = cpu.get("process_average_percent", cpu.get("process_percent"))
        if percent is None:
            return None
        share = self._valid("cpu_percent", percent / (cpu.get("count") or 1))
        # CPU time and wall time may differ by a tick, which can put the share above 100.
        return None if share is None else min(share, 100.0)

    def _valid(self, what: str, number: float) -> float | None:
        if is_measurement(number):
            return number
        self._leave_out([what], f"v1 stores only finite numbers of 0 or more, got {number!r}")
        return None

    # -- the report ------------------------------------------------------------------------------------

    def _try(self, what: str, read: Callable[[], T]) -> T | None:
        try:
            return read()
        except Exception as error:  # noqa: BLE001 - a third-party adapter may raise anything
            self._leave_out([what], f"could not be read: {error!r}")
            return None

    def _leave_out(self, what: Iterable[str], reason: str) -> None:
        self._left_out.extend(LeftOut(name, reason) for name in what)


def _is_operation(value: MetricValue) -> bool:
    return bool(value.metadata.get("operation", False))


def _statistics(distribution: Distribution) -> dict[str, float]:
    """Return the statistics of a snapshot by their keys in a summary."""
    p50, p95, p99 = distribution.quantiles(0.50, 0.95, 0.99)
    return {"count": distribution.count, "avg": distribution.mean, "p50": p50, "p95": p95, "p99": p99}


def _computed(
    custom: Mapping[str, float | Distribution],
) -> tuple[dict[str, float], dict[str, Distribution]]:
    """Return the numbers of custom keys, and the distributions of those that are statistics of one.

    Statistics are computed only here, for the keys that are in the snapshot.
    """
    numbers: dict[str, float] = {}
    distributions: dict[str, Distribution] = {}
    statistics: dict[str, dict[str, float]] = {}
    for key, number in custom.items():
        if isinstance(number, int | float):
            numbers[key] = number
            continue
        stem, _, statistic = key.rpartition("/")
        if stem not in statistics:
            statistics[stem] = _statistics(number)
            distributions[f"custom.{stem}"] = number
        numbers[key] = statistics[stem][STATISTICS[statistic]]
    return numbers, distributions
