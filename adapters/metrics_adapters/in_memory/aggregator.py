"""The aggregator: answers questions about what is in the store."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from metrics_framework import formats
from metrics_framework.clock import utc
from metrics_framework.errors import InvalidInputError
from metrics_framework.recording import SeriesReading, Store
from metrics_framework.recording.series import tag_key
from metrics_framework.values import MetricType, MetricUnit, MetricValue

_VALUE_KEY = {
    MetricType.COUNTER: "sum",
    MetricType.GAUGE: "last",
    MetricType.HISTOGRAM: "p95",
    MetricType.TIMER: "p95",
}


class InMemoryAggregator:
    """A `MetricsAggregator` over a store.

    Operations are listed beside metrics, with ``metadata["operation"]`` true: their durations as a timer,
    their outcomes as a rate whose metadata holds ``successes``, ``failures`` and ``success_rate``.

    Args:
        store: What to ask; a collector on the same store fills it.
    """

    def __init__(self, store: Store | None = None) -> None:
        self.store = Store() if store is None else store

    def get_metric_summary(self, metric_name: str, time_window: timedelta | None = None) -> dict[str, float]:
        """Summarize a metric; see `MetricsAggregator.get_metric_summary`."""
        return self.store.summary(metric_name, time_window)

    def get_metrics_by_tag(self, tag_filter: dict[str, str]) -> list[MetricValue]:
        """Return the matching series; see `MetricsAggregator.get_metrics_by_tag`."""
        wanted = set(tag_key(tag_filter))
        now = utc(self.store.clock)
        found = [
            _value(series, now) for series in self.store.readings() if wanted <= set(series.tags.items())
        ]
        return found if wanted else [*found, *self._timed(now), *self._tracked(now)]

    def export_metrics(self, format: str = "json") -> str:
        """Return everything as ``json``, ``jsonl`` or ``csv``; see `MetricsAggregator.export_metrics`."""
        return formats.render(self.get_metrics_by_tag({}), format)

    def get_top_metrics(self, metric_type: MetricType, limit: int = 10) -> list[MetricValue]:
        """Return the largest of a type; see `MetricsAggregator.get_top_metrics`.

        `MetricType.RATE` lists counters and operations by events per second.
        """
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise InvalidInputError(f"limit={limit!r} is not a whole number of 1 or more")
        if not isinstance(metric_type, MetricType):
            raise InvalidInputError(f"metric_type={metric_type!r} is not a MetricType, like MetricType.TIMER")
        values = self.get_metrics_by_tag({})
        if metric_type is MetricType.RATE:
            values = [
                _as_rate(value) if value.metric_type is MetricType.COUNTER else value for value in values
            ]
        chosen = [value for value in values if value.metric_type is metric_type]
        return sorted(chosen, key=lambda value: value.value, reverse=True)[:limit]

    def _timed(self, now: datetime) -> list[MetricValue]:
        operations = ((name, self.store.timing_summary(name)) for name in self.store.timed_operations())
        return [
            MetricValue(
                name,
                summary["p95"],
                MetricType.TIMER,
                MetricUnit.MILLISECONDS,
                now,
                {},
                {**summary, "operation": True},
            )
            for name, summary in operations
        ]

    def _tracked(self, now: datetime) -> list[MetricValue]:
        found: list[MetricValue] = []
        for name in self.store.tracked_operations():
            outcomes = self.store.outcomes(name)
            rate = outcomes.count / outcomes.seconds if outcomes.seconds else 0.0
            metadata: dict[str, Any] = {
                "operation": True,
                "count": outcomes.count,
                "seconds": outcomes.seconds,
                "successes": outcomes.successes,
                "failures": outcomes.failures,
                "success_rate": outcomes.success_rate,
            }
            found.append(
                MetricValue(name, rate, MetricType.RATE, MetricUnit.OPERATIONS_PER_SECOND, now, {}, metadata)
            )
        return found


def _value(series: SeriesReading, now: datetime) -> MetricValue:
    unit = MetricUnit.MILLISECONDS if series.metric_type is MetricType.TIMER else MetricUnit.COUNT
    value = series.summary[_VALUE_KEY[series.metric_type]]
    return MetricValue(series.name, value, series.metric_type, unit, now, series.tags, dict(series.summary))


def _as_rate(counter: MetricValue) -> MetricValue:
    return MetricValue(
        counter.name,
        counter.metadata["rate"],
        MetricType.RATE,
        MetricUnit.OPERATIONS_PER_SECOND,
        counter.timestamp,
        counter.tags,
        counter.metadata,
    )
