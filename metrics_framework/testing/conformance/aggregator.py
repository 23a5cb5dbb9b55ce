"""The contract of `MetricsAggregator`, filled through the backend's collector."""

from __future__ import annotations

import json
from abc import ABC
from datetime import timedelta
from typing import Any

import pytest

from metrics_framework.clock import ManualClock
from metrics_framework.errors import InvalidInputError, UnknownMetricError
from metrics_framework.protocols import MetricCollector, MetricsAggregator
from metrics_framework.testing.conformance.base import Contract, Parts, by_name, interrupted
from metrics_framework.values import MetricType, MetricUnit, MetricValue

ALL = {
    "counter": MetricType.COUNTER,
    "gauge": MetricType.GAUGE,
    "histogram": MetricType.HISTOGRAM,
    "timer": MetricType.TIMER,
}


class MetricsAggregatorContract(Contract, ABC):
    """Every sentence of `MetricsAggregator`; ``make`` returns an aggregator and a collector that fills it."""

    @pytest.fixture
    def aggregator(self, parts: Parts) -> MetricsAggregator:
        """Return the aggregator."""
        assert parts.aggregator is not None, "make() has to return an aggregator"
        assert isinstance(parts.aggregator, MetricsAggregator)
        return parts.aggregator

    @pytest.fixture
    def collector(self, parts: Parts) -> MetricCollector:
        """Return the collector that fills it."""
        assert parts.collector is not None, "make() has to return a collector that the aggregator sees"
        return parts.collector

    # -- summaries -------------------------------------------------------------------------------------

    @pytest.mark.parametrize("metric_type", ALL)
    def test_a_summary_has_fixed_keys(
        self, collector: MetricCollector, aggregator: MetricsAggregator, parts: Parts, metric_type: str
    ) -> None:
        """Each type of metric has its own, whatever was recorded, and each is a finite number."""
        getattr(collector, f"record_{metric_type}")("m", 2)
        self.settle(parts)
        summary = aggregator.get_metric_summary("m")
        assert set(summary) == self.keys(metric_type)
        assert all(isinstance(value, (int, float)) for value in summary.values())

    @pytest.mark.parametrize("metric_type", ALL)
    def test_an_empty_window_makes_nothing_up(
        self,
        collector: MetricCollector,
        aggregator: MetricsAggregator,
        parts: Parts,
        clock: ManualClock,
        metric_type: str,
    ) -> None:
        """Without records there are no averages, extremes or quantiles; a gauge is still what it was."""
        self.need_windows()
        getattr(collector, f"record_{metric_type}")("m", 2)
        clock.advance(3_600)
        self.settle(parts)
        summary = aggregator.get_metric_summary("m", timedelta(minutes=1))
        expected = {
            "counter": {"count": 0, "sum": 0, "rate": 0, "total": 2},
            "gauge": {"count": 0, "last": 2},
            "histogram": {"count": 0, "sum": 0, "rate": 0},
            "timer": {"count": 0, "sum": 0, "rate": 0},
        }[metric_type]
        assert set(summary) - {"seconds"} == set(expected) - set(self.unknown_keys)
        self.known(summary, **expected)

    def test_a_window_says_what_it_covers(
        self, collector: MetricCollector, aggregator: MetricsAggregator, parts: Parts, clock: ManualClock
    ) -> None:
        """`seconds` is at least what was asked, at most a tenth more, and rates are divided by it."""
        self.need_windows()
        for _ in range(600):
            collector.record_counter("c", 3)
            clock.advance(1)
        self.settle(parts)
        for minutes in (1, 2, 5):
            summary = aggregator.get_metric_summary("c", timedelta(minutes=minutes))
            assert minutes * 60 <= summary["seconds"] <= minutes * 66
            assert summary["sum"] == pytest.approx(3 * summary["seconds"], abs=3)
            self.known(summary, rate=summary["sum"] / summary["seconds"])

    def test_quantiles_are_in_order(
        self, collector: MetricCollector, aggregator: MetricsAggregator, parts: Parts
    ) -> None:
        """The minimum, the quantiles and the maximum never pass one another."""
        for index in range(1_000):
            collector.record_histogram("h", (index * 7919) % 1_000 + 0.5)
        self.settle(parts)
        summary = aggregator.get_metric_summary("h")
        known = [key for key in ("min", "p50", "p90", "p95", "p99", "max") if key in summary]
        assert sorted(summary[key] for key in known) == [summary[key] for key in known]
        for key, value in {"p50": 499.5, "p90": 899.5, "p95": 949.5, "p99": 989.5}.items():
            if key in known:
                assert summary[key] == pytest.approx(value, rel=0.01)

    def test_what_was_never_recorded_is_unknown(
        self, collector: MetricCollector, aggregator: MetricsAggregator, parts: Parts
    ) -> None:
        """The error names the nearest metric that was."""
        collector.record_counter("http.requests", 1)
        self.settle(parts)
        with pytest.raises(UnknownMetricError, match=r"http\.requests"):
            aggregator.get_metric_summary("http.reqests")

    @pytest.mark.parametrize("window", [timedelta(0), timedelta(seconds=-1), 60])
    def test_a_window_is_a_positive_duration(
        self, collector: MetricCollector, aggregator: MetricsAggregator, parts: Parts, window: Any
    ) -> None:
        """Anything else is an error that quotes it."""
        self.need_windows()
        collector.record_counter("c", 1)
        self.settle(parts)
        with pytest.raises(InvalidInputError) as caught:
            aggregator.get_metric_summary("c", window)
        assert repr(window) in str(caught.value)

    # -- series ----------------------------------------------------------------------------------------

    def test_a_filter_matches_series_that_carry_all_its_tags(
        self, collector: MetricCollector, aggregator: MetricsAggregator, parts: Parts
    ) -> None:
        """More tags do no harm; another value, or a missing tag, does."""
        collector.record_counter("a", 1, {"x": "1"})
        collector.record_counter("b", 1, {"x": "1", "y": "2"})
        collector.record_gauge("c", 1, {"x": "2"})
        collector.record_gauge("d", 1)
        self.settle(parts)

        def found(**tags: str) -> set[str]:
            return {value.name for value in aggregator.get_metrics_by_tag(tags)}

        assert found(x="1") == {"a", "b"}
        assert found(x="1", y="2") == {"b"}
        assert found(x="3") == set()
        assert {"a", "b", "c", "d"} <= found()

    @pytest.mark.parametrize("metric_type", ALL)
    def test_a_series_is_a_value_with_its_summary(
        self, collector: MetricCollector, aggregator: MetricsAggregator, parts: Parts, metric_type: str
    ) -> None:
        """The value is a total, a last value or p95; the summary is in the metadata, durations in ms."""
        for number in (1, 3, 2):
            getattr(collector, f"record_{metric_type}")("m", number, tags={"x": "1"})
        self.settle(parts)
        (value,) = by_name(aggregator.get_metrics_by_tag({"x": "1"}), "m")
        assert isinstance(value, MetricValue)
        assert value.metric_type is ALL[metric_type]
        assert value.tags == {"x": "1"}
        assert value.timestamp.utcoffset() == timedelta(0)
        assert value.value == {"counter": 6, "gauge": 2}.get(metric_type, 3)
        assert value.metadata["count"] == 3
        if metric_type == "timer":
            assert value.unit is MetricUnit.MILLISECONDS

    # -- exports and tops ------------------------------------------------------------------------------

    def test_everything_can_be_exported_as_json(
        self, collector: MetricCollector, aggregator: MetricsAggregator, parts: Parts
    ) -> None:
        """The default format holds every series."""
        collector.record_counter("a", 2, {"x": "1"})
        collector.record_gauge("b", -1.5)
        self.settle(parts)
        exported = {metric["name"]: metric for metric in json.loads(aggregator.export_metrics())["metrics"]}
        assert exported["a"]["value"] == 2
        assert exported["a"]["tags"] == {"x": "1"}
        assert exported["b"]["value"] == -1.5

    @pytest.mark.parametrize("format", ["no such format", "", None])
    def test_an_unknown_format_is_an_error(self, aggregator: MetricsAggregator, format: Any) -> None:
        """It quotes the format and lists those that there are."""
        with pytest.raises(InvalidInputError) as caught:
            aggregator.export_metrics(format)
        assert repr(format) in str(caught.value)
        assert "json" in str(caught.value)

    def test_the_largest_come_first(
        self, collector: MetricCollector, aggregator: MetricsAggregator, parts: Parts
    ) -> None:
        """Of one type, in descending order, at most as many as asked for."""
        for number in (3, 9, 1, 7):
            collector.record_counter(f"c{number}", number)
            collector.record_gauge(f"g{number}", 100 + number)
        self.settle(parts)
        top = aggregator.get_top_metrics(MetricType.COUNTER, 3)
        assert [(value.name, value.value) for value in top] == [("c9", 9), ("c7", 7), ("c3", 3)]
        assert {value.metric_type for value in top} == {MetricType.COUNTER}
        assert len(aggregator.get_top_metrics(MetricType.GAUGE)) == 4

    def test_rates_come_from_counters(
        self, collector: MetricCollector, aggregator: MetricsAggregator, parts: Parts, clock: ManualClock
    ) -> None:
        """The top rates are those of counters, in events per second."""
        collector.record_counter("slow", 10)
        collector.record_counter("fast", 90)
        clock.advance(10)
        self.settle(parts)
        names = [value.name for value in aggregator.get_top_metrics(MetricType.RATE, 2)]
        assert names == ["fast", "slow"]

    @pytest.mark.parametrize("limit", [0, -1, 1.5, "3", True])
    def test_a_limit_is_a_whole_number(self, aggregator: MetricsAggregator, limit: Any) -> None:
        """Anything else is an error that quotes it."""
        with pytest.raises(InvalidInputError) as caught:
            aggregator.get_top_metrics(MetricType.COUNTER, limit)
        assert repr(limit) in str(caught.value)

    def test_a_signal_handler_may_read(
        self, collector: MetricCollector, aggregator: MetricsAggregator, parts: Parts
    ) -> None:
        """Reading everything in the middle of recording neither blocks nor loses anything."""
        collector.record_histogram("h", 1)
        done, _ = interrupted(
            lambda: collector.record_histogram("h", 1),
            lambda: (aggregator.get_metric_summary("h"), aggregator.export_metrics()),
        )
        self.settle(parts)
        self.known(aggregator.get_metric_summary("h"), count=done + 1)
