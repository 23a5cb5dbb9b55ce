"""How a system becomes a snapshot, by the Protocols alone: whatever the adapters are, they can emit one."""

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
"""How many custom keys a snapshot holds unless it is told otherwise: a comparison flags each that moves."""

LATENCY_TAG = "latency_metric"
"""The metadata tag that names the timer which ``latency`` was taken from."""

_BYTES_IN_MEGABYTE = 1_000_000


@dataclass(frozen=True)
class LeftOut:
    """Something that was recorded and is not in the snapshot."""

    what: str
    reason: str


@dataclass(frozen=True)
class BuildReport:
    """What a snapshot could not hold.

    Attributes:
        left_out: What was recorded and is not in it.
        distributions: The values behind the statistics that are in it, where the aggregator knows them: by
            the flat keys of those without the statistic, such as ``latency`` or ``custom.payload/size``. They
            are read a moment after the statistics, so a running application may have recorded more.
    """

    left_out: tuple[LeftOut, ...]
    distributions: Mapping[str, Distribution] = field(default_factory=dict, compare=False)


@dataclass
class _Latency:
    """What ``latency`` and ``throughput`` are taken from."""

    name: str
    operation: bool
    fields: dict[str, float]
    throughput: float | None


@dataclass
class SnapshotBuilder:
    """Reads the four parts that a snapshot is made of.

    A part that fails costs its own values only; the report says so.

    Attributes:
        timer: Asked for the durations of an operation.
        tracker: Asked for success rates.
        resource_monitor: Asked for peak memory and average CPU; without one they are left out.
        aggregator: Asked for everything that was recorded.
        seconds: How long the run has lasted, for adapters whose summaries have no ``rate``.
        latency_metric: The timer that becomes ``latency``; the one with the most records by default.
        custom_metrics: Patterns like ``http.*``: only metrics and operations whose names match become
            custom keys; all by default.
        max_custom: How many custom keys to hold at most.
        constant_tags: What every series bears: it goes into the metadata, and not into every key.
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
        """Return the snapshot and what it could not hold.

        Args:
            metadata: The run's context; the tag `LATENCY_TAG` is added.

        Raises:
            SnapshotError: If there is nothing at all to put into it.
        """
        self._left_out.clear()
        values = self._ask("metrics", self._values) or []
        timers = [value for value in values if value.metric_type is MetricType.TIMER]
        latency = self._ask("latency", lambda: self._latency(timers))
        custom = dict(self._custom(values, latency))
        kept = dict(sorted(custom.items())[: self.max_custom])
        beyond = (key for key in custom if key not in kept)
        self._leave_out(beyond, f"over the limit of {self.max_custom} custom keys")
        distributions = self._ask("distributions", lambda: dict(self._distributions(kept, latency))) or {}
        tags = {**self.constant_tags, **metadata.tags}
        if latency is not None:
            tags[LATENCY_TAG] = latency.name
        snapshot = PerformanceSnapshot(
            Metrics(
                latency=LatencyMetrics(**latency.fields) if latency else None,
                throughput=latency.throughput if latency else None,
                memory_mb=self._ask("memory_mb", self._memory_mb),
                cpu_percent=self._ask("cpu_percent", self._cpu_percent),
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
        return [replace(value, tags=self._own(value.tags)) for value in values]

    def _own(self, tags: Mapping[str, str]) -> dict[str, str]:
        """Return the tags without those that every series bears."""
        constant = self.constant_tags.items()
        return {tag: text for tag, text in tags.items() if (tag, text) not in constant}

    # -- latency ---------------------------------------------------------------------------------------

    def _latency(self, timers: list[MetricValue]) -> _Latency | None:
        records: defaultdict[tuple[str, bool], float] = defaultdict(float)
        for value in timers:
            records[value.name, _is_operation(value)] += value.metadata.get("count", 0)
        if self.latency_metric is None:
            # The name decides between equals, so that the same run always chooses the same timer.
            ranked = sorted(records, key=lambda timer: (-records[timer], timer))
            if not ranked:
                return None
            name, operation = ranked[0]
        else:
            name = self.latency_metric
            # An aggregator that does not list operations leaves the timer to be asked.
            operation = (name, True) in records or (name, False) not in records
        try:
            summary = self._timer_summary(name, operation, timers)
        except Exception as error:  # noqa: BLE001 - a foreign adapter may raise anything; the rest goes on
            reason = (
                "was not recorded" if isinstance(error, UnknownNameError) else f"could not be read: {error!r}"
            )
            self._leave_out([f"latency of {name!r}"], reason)
            return None
        found = {key: summary.get(STATISTICS.get(key, key)) for key in LATENCY_FIELDS}
        fields = {
            key: value
            for key, value in found.items()
            if value is not None and self._measured(f"latency.{key}", value) is not None
        }
        if not fields:
            self._leave_out([f"latency of {name!r}"], "has no durations")
            return None
        rate = summary.get("rate", summary.get("count", 0) / self.seconds if self.seconds > 0 else None)
        return _Latency(name, operation, fields, None if rate is None else self._measured("throughput", rate))

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
            # What they say of the run is in memory_mb and cpu_percent; the rest is the machine's.
            if value.name in RESOURCE_GAUGES or (latency is not None and _is_source(value, latency)):
                continue
            chosen = patterns is None or any(fnmatchcase(value.name, pattern) for pattern in patterns)
            numbers: Iterable[tuple[str, float]] | None = self._ask(
                repr(value.name), partial(list, self._numbers(value))
            )
            for key, number in numbers or ():
                if not chosen:
                    self._leave_out([key], "not among custom_metrics")
                elif not is_measurement(number):
                    self._leave_out([key], f"v1 cannot hold {number!r}")
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
            # A tracker knows nothing of the tags that an aggregator may keep operations apart by.
            rate = value.metadata.get(SUCCESS_RATE)
            if rate is None and not tags:
                rate = self._ask(key, lambda: self.tracker.get_success_rate(name))
            if rate is not None:
                yield key, rate

    # -- distributions ---------------------------------------------------------------------------------

    def _distributions(
        self, kept: Mapping[str, float], latency: _Latency | None
    ) -> Iterable[tuple[str, Distribution]]:
        if not isinstance(self.aggregator, DistributionAggregator):
            return
        if latency is not None:
            with suppress(UnknownNameError):  # a timer of someone else keeps its own
                yield "latency", self.aggregator.get_distribution(latency.name, operation=latency.operation)
        statistics = (key.rpartition("/") for key in kept)
        stems = {stem for stem, _, statistic in statistics if statistic in STATISTICS}
        for series in self.aggregator.get_distributions():
            stem = key_stem(series.name, self._own(series.tags), series.operation)
            if stem in stems:
                yield f"custom.{stem}", series.distribution

    # -- resources -------------------------------------------------------------------------------------

    def _memory_mb(self) -> float | None:
        if self.resource_monitor is None:
            return None
        memory = self.resource_monitor.get_memory_usage()
        peak = memory.get("process_peak_rss", memory.get("process_rss"))
        return None if peak is None else self._measured("memory_mb", peak / _BYTES_IN_MEGABYTE)

    def _cpu_percent(self) -> float | None:
        if self.resource_monitor is None:
            return None
        cpu = self.resource_monitor.get_cpu_usage()
        percent = cpu.get("process_average_percent", cpu.get("process_percent"))
        if percent is None:
            return None
        share = self._measured("cpu_percent", percent / max(cpu.get("count", 1), 1))
        # Two clocks, of the CPU and of the wall, may disagree by a tick: full is full.
        return None if share is None else min(share, 100.0)

    def _measured(self, what: str, number: float) -> float | None:
        if is_measurement(number):
            return number
        self._leave_out([what], f"v1 cannot hold {number!r}")
        return None

    # -- the report ------------------------------------------------------------------------------------

    def _ask(self, what: str, question: Callable[[], T]) -> T | None:
        try:
            return question()
        except Exception as error:  # noqa: BLE001 - a foreign adapter may raise anything; the rest goes on
            self._leave_out([what], f"could not be read: {error!r}")
            return None

    def _leave_out(self, what: Iterable[str], reason: str) -> None:
        self._left_out.extend(LeftOut(name, reason) for name in what)


def _is_operation(value: MetricValue) -> bool:
    return bool(value.metadata.get("operation", False))


def _is_source(value: MetricValue, latency: _Latency) -> bool:
    """Say whether a value is what ``latency`` holds already; a series with tags says more."""
    is_timer = value.metric_type is MetricType.TIMER and not value.tags
    return is_timer and (value.name, _is_operation(value)) == (latency.name, latency.operation)
