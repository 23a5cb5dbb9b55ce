"""Builds a snapshot of a system from its Protocols, so that any adapters can produce one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from metrics_framework.capabilities import DistributionAggregator
from metrics_framework.errors import UnknownNameError
from metrics_framework.health import RESOURCE_GAUGES
from metrics_framework.protocols import (
    MetricsAggregator,
    PerformanceTimer,
    ResourceMonitor,
    SuccessFailureTracker,
)
from metrics_framework.snapshots.keys import STATISTICS, SUCCESS_RATE, custom_key, key_stem
from metrics_framework.snapshots.rules import LATENCY_FIELDS, is_measurement
from metrics_framework.snapshots.v1 import LatencyMetrics, Metrics, PerformanceSnapshot, SnapshotMetadata
from metrics_framework.values import MetricType, MetricValue, to_milliseconds

if TYPE_CHECKING:
    from metrics_framework.recording import Distribution

T = TypeVar("T")

MAX_CUSTOM = 200
"""Default limit of custom keys in a snapshot. A comparison reports each one that changes."""

LATENCY_TAG = "latency_metric"
"""The metadata tag that names the timer behind ``latency``."""

_BYTES_IN_MEGABYTE = 1_000_000


@dataclass(frozen=True)
class LeftOut:
    """A recorded value that is not in the snapshot, and the reason."""

    what: str
    reason: str


@dataclass(frozen=True)
class BuildReport:
    """The omissions of a snapshot, and data that belongs beside it.

    Attributes:
        left_out: Recorded values that were left out, with reasons.
        distributions: The distributions behind the statistics, if the aggregator keeps them. A key is the
            flat key without the statistic, such as ``latency`` or ``custom.payload/size``. They are read
            after the statistics, so a running application may have recorded more by then.
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


@dataclass
class SnapshotBuilder:
    """Builds a snapshot from the four parts of a system.

    If a part fails, only its own values are left out, and the report says so.

    Attributes:
        timer: Provides the durations of an operation.
        tracker: Provides success rates.
        resource_monitor: Provides peak memory and average CPU; without one they are left out.
        aggregator: Provides all recorded values.
        seconds: The duration of the run, for adapters whose summaries have no ``rate``.
        latency_metric: The timer that becomes ``latency``; by default the one with the most records.
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
        values = self._try("metrics", self._values) or []
        timers = [value for value in values if value.metric_type is MetricType.TIMER]
        latency = self._try("latency", lambda: self._latency(timers))
        custom = dict(self._custom(values, latency))
        kept = dict(sorted(custom.items())[: self.max_custom])
        beyond = (key for key in custom if key not in kept)
        self._leave_out(beyond, f"over the limit of {self.max_custom} custom keys: raise max_custom")
        distributions = self._try("distributions", lambda: dict(self._distributions(kept, latency))) or {}
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

    def _values(self) -> list[MetricValue]:
        values = self.aggregator.get_metrics_by_tag({})
        if not self.constant_tags:
            return values
        return [replace(value, tags=self._without_constant(value.tags)) for value in values]

    def _without_constant(self, tags: Mapping[str, str]) -> dict[str, str]:
        """Return the tags without the constant ones."""
        constant = self.constant_tags.items()
        return {tag: text for tag, text in tags.items() if (tag, text) not in constant}

    # -- latency ---------------------------------------------------------------------------------------

    def _latency(self, timers: list[MetricValue]) -> _Latency | None:
        records: defaultdict[tuple[str, bool], float] = defaultdict(float)
        for value in timers:
            records[value.name, _is_operation(value)] += value.metadata.get("count", 0)
        if self.latency_metric is None:
            # Equal counts are ordered by name, so that equal runs choose the same timer.
            ranked = sorted(records, key=lambda timer: (-records[timer], timer))
            if not ranked:
                return None
            name, operation = ranked[0]
        else:
            name = self.latency_metric
            # An aggregator may not list operations: a name that it does not list is read from the timer.
            operation = (name, True) in records or (name, False) not in records
        try:
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
        return _Latency(name, operation, fields, None if rate is None else self._valid("throughput", rate))

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

    def _custom(self, values: list[MetricValue], latency: _Latency | None) -> Iterable[tuple[str, float]]:
        patterns = None if self.custom_metrics is None else tuple(self.custom_metrics)
        for value in values:
            # memory_mb and cpu_percent cover the run; other resource gauges describe the machine.
            if value.name in RESOURCE_GAUGES or (latency is not None and _is_source(value, latency)):
                continue
            is_selected = patterns is None or any(fnmatchcase(value.name, pattern) for pattern in patterns)
            numbers: Iterable[tuple[str, float]] | None = self._try(
                repr(value.name), partial(list, self._numbers(value))
            )
            for key, number in numbers or ():
                if not is_selected:
                    self._leave_out([key], "not matched by custom_metrics")
                elif not is_measurement(number):
                    self._leave_out([key], f"v1 stores only finite numbers of 0 or more, got {number!r}")
                else:
                    yield key, number

    def _numbers(self, value: MetricValue) -> Iterable[tuple[str, float]]:
        name, tags, operation = value.name, value.tags, _is_operation(value)
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

    # -- distributions ---------------------------------------------------------------------------------

    def _distributions(
        self, kept: Mapping[str, float], latency: _Latency | None
    ) -> Iterable[tuple[str, Distribution]]:
        if not isinstance(self.aggregator, DistributionAggregator):
            return
        if latency is not None:
            with suppress(UnknownNameError):  # another timer has its own numbers
                yield "latency", self.aggregator.get_distribution(latency.name, operation=latency.operation)
        statistics = (key.rpartition("/") for key in kept)
        stems = {stem for stem, _, statistic in statistics if statistic in STATISTICS}
        for series in self.aggregator.get_distributions():
            stem = key_stem(series.name, self._without_constant(series.tags), series.operation)
            if stem in stems:
                yield f"custom.{stem}", series.distribution

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
        share = self._valid("cpu_percent", percent / max(cpu.get("count", 1), 1))
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


def _is_source(value: MetricValue, latency: _Latency) -> bool:
    """Return whether a value is the source of ``latency``. A series with tags is kept: it tells more."""
    is_timer = value.metric_type is MetricType.TIMER and not value.tags
    return is_timer and (value.name, _is_operation(value)) == (latency.name, latency.operation)
