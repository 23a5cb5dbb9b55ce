"""The aggregator: answers queries about the numbers of a store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from metrics_adapters.in_memory.timer import InMemoryTimer
from metrics_adapters.in_memory.tracker import InMemoryTracker
from metrics_adapters.ranking import largest
from metrics_framework.clock import utc
from metrics_framework.exposition import formats
from metrics_framework.recording import Distribution, Interval, Store
from metrics_framework.recording.results import SeriesDistribution
from metrics_framework.validation import plain_tags
from metrics_framework.values import MetricType, MetricUnit, MetricValue

_VALUE_KEY = {
    MetricType.COUNTER: "sum",
    MetricType.GAUGE: "last",
    MetricType.HISTOGRAM: "p95",
    MetricType.TIMER: "p95",
}


class InMemoryAggregator:
    """A `MetricsAggregator` over a store, with time series and distributions.

    It is a `metrics_framework.dashboard.HistoryAggregator`, a
    `metrics_framework.snapshots.DistributionAggregator` and a
    `metrics_framework.capabilities.SummariesByTag`.

    Operations are listed beside metrics, with ``metadata["operation"]`` true: their durations as a timer,
    their outcomes as a rate whose metadata holds ``successes``, ``failures`` and ``success_rate``.

    Args:
        store: The store; a collector on the same store fills it.
    """

    def __init__(self, store: Store | None = None) -> None:
        self.store = Store() if store is None else store

    def get_metric_summary(
        self,
        metric_name: str,
        time_window: timedelta | None = None,
        *,
        tags: Mapping[str, str] | None = None,
    ) -> dict[str, float]:
        """Summarize a metric; see `MetricsAggregator.get_metric_summary`.

        Args:
            metric_name: The metric.
            time_window: How far back; since the start by default.
            tags: Tags of the series to summarize; all series together by default. See
                `metrics_framework.capabilities.SummariesByTag`.
        """
        return self.store.summary(metric_name, time_window, tags)

    def get_metric_history(self, metric_name: str, time_window: timedelta, points: int) -> list[Interval]:
        """Return a metric's time series; see `metrics_framework.recording.Store.history`."""
        return self.store.history(metric_name, time_window, points)

    def get_timing_history(self, operation: str, time_window: timedelta, points: int) -> list[Interval]:
        """Return the time series of an operation's durations; see `get_metric_history`."""
        return self.store.timing_history(operation, time_window, points)

    def get_outcome_history(self, operation: str, time_window: timedelta, points: int) -> list[Interval]:
        """Return the time series of how an operation ended; see `get_metric_history`."""
        return self.store.outcome_history(operation, time_window, points)

    def get_metrics_by_tag(self, tag_filter: dict[str, str]) -> list[MetricValue]:
        """Return the matching series; see `MetricsAggregator.get_metrics_by_tag`."""
        wanted = plain_tags(tag_filter).items()
        return [value for value in self.iter_metrics() if wanted <= value.tags.items()]

    def iter_metrics(self) -> Iterator[MetricValue]:
        """Yield every series, one at a time, which saves memory."""
        now = utc(self.store.clock)
        yield from self._metrics(now)
        yield from self._timed(now)
        yield from self._tracked(now)

    def get_distributions(self) -> list[SeriesDistribution]:
        """Return the values of every distribution; see `metrics_framework.recording.Store.distributions`."""
        return self.store.distributions()

    def get_distribution(self, name: str, *, operation: bool = False) -> Distribution:
        """Return the values of one name; see `metrics_framework.recording.Store.distribution`."""
        return self.store.distribution(name, operation=operation)

    def export_metrics(self, format: str = "json") -> str:
        """Return everything in a text format; see `MetricsAggregator.export_metrics`.

        Args:
            format: ``json``, ``jsonl``, ``csv``, ``prometheus`` (text format 0.0.4) or ``snapshot`` (a v1
                performance snapshot, without the readings of a resource monitor).
        """
        known = {**formats.FORMATS, "snapshot": self._to_snapshot}
        return formats.render(self.iter_metrics(), format, known)

    def get_top_metrics(self, metric_type: MetricType, limit: int = 10) -> list[MetricValue]:
        """Return the largest of a type; see `MetricsAggregator.get_top_metrics`.

        `MetricType.RATE` lists counters and operations by events per second.
        """
        return largest(self.get_metrics_by_tag({}), metric_type, limit)

    def _to_snapshot(self, _: object) -> str:
        from metrics_framework.snapshots import Environment, SnapshotBuilder, SnapshotMetadata, dump_snapshot
        from metrics_framework.snapshots.provenance import find_provenance

        store, found = self.store, find_provenance()
        seconds = (store.clock.monotonic_ns() - store.start_ns) / 1e9
        builder = SnapshotBuilder(
            InMemoryTimer(store), InMemoryTracker(store), None, aggregator=self, seconds=seconds
        )
        snapshot, _report = builder.build(
            SnapshotMetadata(
                commit=found.commit,
                branch=found.branch,
                timestamp=utc(store.clock),
                environment=Environment(found.environment),
            )
        )
        return dump_snapshot(snapshot)

    def _metrics(self, now: datetime) -> Iterator[MetricValue]:
        for reading in self.store.iter_readings():
            description = self.store.description(reading.name)
            metadata: dict[str, Any] = reading.summary  # made for this call
            if description.help:
                metadata["help"] = description.help
            buckets = reading.buckets
            if description.buckets and buckets is not None:
                metadata["buckets"] = {
                    "counts": {str(bound): count for bound, count in buckets.cumulated().items()},
                    "sum": buckets.total,
                }
            unit = description.unit or MetricUnit.COUNT
            if reading.metric_type is MetricType.TIMER:
                unit = MetricUnit.MILLISECONDS
            elif reading.metric_type is MetricType.COUNTER:
                metadata["total"] = metadata["sum"]  # a reading is since the start
            value = reading.summary[_VALUE_KEY[reading.metric_type]]
            yield MetricValue(reading.name, value, reading.metric_type, unit, now, reading.tags, metadata)

    def _timed(self, now: datetime) -> Iterator[MetricValue]:
        for reading in self.store.iter_timing_readings():
            metadata = {**reading.summary, "operation": True}
            yield MetricValue(
                reading.name,
                reading.summary["p95"],
                MetricType.TIMER,
                MetricUnit.MILLISECONDS,
                now,
                reading.tags,
                metadata,
            )

    def _tracked(self, now: datetime) -> Iterator[MetricValue]:
        for reading in self.store.iter_outcome_readings():
            rate = reading.count / reading.seconds if reading.seconds > 0 else 0.0
            metadata: dict[str, Any] = {
                "operation": True,
                "count": reading.count,
                "seconds": reading.seconds,
                "successes": reading.successes,
                "failures": reading.failures,
                "success_rate": reading.success_rate,
            }
            yield MetricValue(
                reading.name,
                rate,
                MetricType.RATE,
                MetricUnit.OPERATIONS_PER_SECOND,
                now,
                reading.tags,
                metadata,
            )
