"""The contract of `MetricsAggregator`, filled through the backend's collector."""

from __future__ import annotations

import json
import math
from abc import ABC
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from metrics_framework.clock import ManualClock, utc
from metrics_framework.errors import InvalidInputError, UnknownMetricError
from metrics_framework.protocols import MetricCollector, MetricsAggregator
from metrics_framework.testing.conformance.base import (
    BAD_WINDOWS,
    Contract,
    Parts,
    by_name,
    check_keys,
    check_members,
    interrupted,
)
from metrics_framework.values import MetricType, MetricUnit, MetricValue

ALL = {
    "counter": MetricType.COUNTER,
    "gauge": MetricType.GAUGE,
    "histogram": MetricType.HISTOGRAM,
    "timer": MetricType.TIMER,
}


def leaves(document: Any) -> Iterator[Any]:
    """Return every key, text and number in a JSON document."""
    if isinstance(document, dict):
        yield from document
        document = list(document.values())
    if isinstance(document, list):
        for item in document:
            yield from leaves(item)
    else:
        yield document


class MetricsAggregatorContract(Contract, ABC):
    """Every sentence of `MetricsAggregator`; ``make`` returns an aggregator and a collector that fills it."""

    @pytest.fixture
    def aggregator(self, parts: Parts) -> MetricsAggregator:
        """Return the aggregator."""
        assert parts.aggregator is not None, "make() has to return an aggregator"
        check_members(parts.aggregator, MetricsAggregator)
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
        """Each metric type has its own keys, whatever was recorded, and each value is finite."""
        self.need_type(metric_type)
        getattr(collector, f"record_{metric_type}")("m", 2)
        self.settle(parts)
        summary = aggregator.get_metric_summary("m")
        self.check_keys(metric_type, summary)
        assert all(math.isfinite(value) for value in summary.values())

    @pytest.mark.parametrize("metric_type", ["histogram", "timer"])
    def test_a_distribution_is_of_all_series(
        self, collector: MetricCollector, aggregator: MetricsAggregator, parts: Parts, metric_type: str
    ) -> None:
        """Every statistic covers the values of all series."""
        self.need_type(metric_type)
        for number, value in enumerate((1, 2, 10, 4, 8)):
            getattr(collector, f"record_{metric_type}")("m", value, tags={"number": str(number % 2)})
        self.settle(parts)
        summary = aggregator.get_metric_summary("m")
        self.known(metric_type, summary, count=5, sum=25, avg=5, min=1, max=10, stddev=12**0.5)
        self.known(metric_type, summary, p50=4, p90=10, p95=10, p99=10)

    def test_a_counter_is_of_all_series_in_the_window(
        self, collector: MetricCollector, aggregator: MetricsAggregator, parts: Parts, clock: ManualClock
    ) -> None:
        """The sum covers the window, the total everything since the start."""
        self.need_type("counter")
        for number in range(4):
            collector.record_counter("c", number, {"number": str(number)})
            clock.advance(1_800)
        self.settle(parts)
        self.known("counter", aggregator.get_metric_summary("c"), count=4, sum=6, total=6)
        self.need_windows()
        window = timedelta(seconds=3_700)
        self.known("counter", aggregator.get_metric_summary("c", window), count=2, sum=5, total=6)

    @pytest.mark.parametrize("metric_type", ALL)
    def test_an_empty_window_invents_nothing(
        self,
        collector: MetricCollector,
        aggregator: MetricsAggregator,
        parts: Parts,
        clock: ManualClock,
        metric_type: str,
    ) -> None:
        """Without records there are no averages, extremes or quantiles; a gauge keeps its value."""
        self.need_type(metric_type)
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
        check_keys(summary, set(expected) & self.keys(metric_type) | {"seconds"}, "an empty window")
        self.known(metric_type, summary, **expected)

    def test_a_window_reports_its_length(
        self, collector: MetricCollector, aggregator: MetricsAggregator, parts: Parts, clock: ManualClock
    ) -> None:
        """`seconds` is the actual length, at least the requested one, and rates are divided by it."""
        self.need_type("counter")
        self.need_windows()
        for _ in range(600):
            collector.record_counter("c", 3)
            clock.advance(1)
        self.settle(parts)
        for minutes in (1, 2, 5):
            summary = aggregator.get_metric_summary("c", timedelta(minutes=minutes))
            assert summary["seconds"] >= minutes * 60
            assert summary["sum"] == pytest.approx(3 * summary["seconds"], abs=3)
            self.known("counter", summary, rate=summary["sum"] / summary["seconds"])

    def test_without_windows_all_is_since_the_start(
        self, collector: MetricCollector, aggregator: MetricsAggregator, parts: Parts, clock: ManualClock
    ) -> None:
        """A backend without windows reports the time since the start as `seconds`, or rejects the window."""
        if self.keeps_windows:
            pytest.skip("this backend keeps windows")
        collector.record_counter("c", 1)
        clock.advance(3_600)
        self.settle(parts)
        try:
            summary = aggregator.get_metric_summary("c", timedelta(minutes=1))
        except InvalidInputError:
            return
        assert summary == aggregator.get_metric_summary("c")
        assert summary["seconds"] == pytest.approx(3_600)

    def test_quantiles_are_in_order(
        self, collector: MetricCollector, aggregator: MetricsAggregator, parts: Parts
    ) -> None:
        """The minimum, the quantiles and the maximum are in ascending order."""
        self.need_type("histogram")
        for index in range(1_000):
            collector.record_histogram("h", (index * 7919) % 1_000 + 0.5)
        self.settle(parts)
        summary = aggregator.get_metric_summary("h")
        known = [key for key in ("min", "p50", "p90", "p95", "p99", "max") if key in summary]
        assert sorted(summary[key] for key in known) == [summary[key] for key in known]
        for key, value in {"p50": 499.5, "p90": 899.5, "p95": 949.5, "p99": 989.5}.items():
            if key in known:
                assert summary[key] == pytest.approx(value, rel=self.quantile_error)

    def test_a_name_without_records_is_unknown(
        self, collector: MetricCollector, aggregator: MetricsAggregator, parts: Parts
    ) -> None:
        """The error names the nearest recorded metric."""
        collector.record_counter("http.requests", 1)
        self.settle(parts)
        with pytest.raises(UnknownMetricError, match=r"http\.requests"):
            aggregator.get_metric_summary("http.reqests")

    @pytest.mark.parametrize("window", BAD_WINDOWS, ids=repr)
    def test_a_window_is_a_positive_duration(
        self, collector: MetricCollector, aggregator: MetricsAggregator, parts: Parts, window: Any
    ) -> None:
        """Anything else raises an error that quotes it."""
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
        """A series may have more tags, but not another value or a missing tag."""
        collector.record_counter("a", 1, {"x": "1"})
        collector.record_counter("b", 1, {"x": "1", "y": "2"})
        collector.record_gauge("c", 1, {"x": "2"})
        collector.record_gauge("d", 1)
        self.settle(parts)

        def found(**tags: str) -> set[str]:
            return {value.name for value in aggregator.get_metrics_by_tag(tags)}

        assert found(x="1") == {"a", "b"}
        assert found(x="1", y="2") == {"b"}
        assert found(y="2") == {"b"}
        assert found(x="3") == set()
        assert found(z="1") == set()
        assert found() == {"a", "b", "c", "d"}

    @pytest.mark.parametrize("metric_type", ALL)
    def test_a_series_is_a_value_with_its_summary(
        self,
        collector: MetricCollector,
        aggregator: MetricsAggregator,
        parts: Parts,
        clock: ManualClock,
        metric_type: str,
    ) -> None:
        """The value is a total, last value or p95; the metadata holds the summary, durations in ms."""
        self.need_type(metric_type)
        for number in (1, 3, 2):
            getattr(collector, f"record_{metric_type}")("m", number, tags={"x": "1"})
        getattr(collector, f"record_{metric_type}")("m", 70, tags={"x": "2"})
        self.settle(parts)
        values = by_name(aggregator.get_metrics_by_tag({"x": "1"}), "m")
        assert len(values) == 1, "get_metrics_by_tag() must list each series once"
        value = values[0]
        assert isinstance(value, MetricValue)
        assert value.metric_type is ALL[metric_type]
        assert value.tags == {"x": "1"}
        assert value.timestamp == utc(clock)
        assert value.timestamp.utcoffset() == timedelta(0)
        if metric_type in ("counter", "gauge"):
            assert value.value == {"counter": 6, "gauge": 2}[metric_type]
        elif self.knows(metric_type, "p95"):
            assert value.value == pytest.approx(3, rel=self.quantile_error)
        check_keys(value.metadata, self.keys(metric_type), "the metadata of a MetricValue", only=False)
        self.known(metric_type, value.metadata, count=3, sum=6, total=6, last=2, min=1, max=3, p50=2)
        if metric_type == "timer":
            assert value.unit is MetricUnit.MILLISECONDS

    def test_changing_a_result_has_no_effect(
        self, collector: MetricCollector, aggregator: MetricsAggregator, parts: Parts
    ) -> None:
        """The caller owns each result and may change it."""
        collector.record_counter("c", 1, {"x": "1"})
        self.settle(parts)
        for _ in range(2):
            values = aggregator.get_metrics_by_tag({"x": "1"})
            assert len(values) == 1, "get_metrics_by_tag() lacks the series with this tag"
            value = values[0]
            assert value.tags == {"x": "1"}
            self.known("counter", value.metadata, sum=1)
            summary = aggregator.get_metric_summary("c")
            self.known("counter", summary, sum=1)
            for answer in (value.tags, value.metadata, summary):
                answer.clear()

    def test_operations_are_listed(
        self, collector: MetricCollector, aggregator: MetricsAggregator, parts: Parts, clock: ManualClock
    ) -> None:
        """Operations are listed beside metrics: their durations as a timer, their outcomes as a rate.

        ``metadata["operation"]`` is true for both; that of a rate holds ``count`` and ``success_rate``.
        Health checks, dashboards and snapshots find operations by these.
        """
        if parts.timer is None and parts.tracker is None:
            pytest.skip("make() returns neither a timer nor a tracker beside the aggregator")
        collector.record_gauge("op", 7)
        expected = {(MetricType.GAUGE, False)}
        if parts.timer is not None:
            expected.add((MetricType.TIMER, True))
            timer_id = parts.timer.start_timer("op")
            clock.advance(0.25)
            parts.timer.stop_timer(timer_id)
        if parts.tracker is not None:
            expected.add((MetricType.RATE, True))
            for _ in range(3):
                parts.tracker.record_success("op")
            parts.tracker.record_failure("op", "timeout")
        self.settle(parts)
        values = by_name(aggregator.get_metrics_by_tag({}), "op")
        assert {(value.metric_type, value.metadata.get("operation", False)) for value in values} == expected
        for value in values:
            if value.metric_type is MetricType.TIMER:
                self.known("timer", value.metadata, count=1, sum=250)
                assert value.unit is MetricUnit.MILLISECONDS
            elif value.metric_type is MetricType.RATE:
                assert value.metadata["count"] == 4
                assert value.metadata["success_rate"] == pytest.approx(0.75)
        assert by_name(aggregator.get_top_metrics(MetricType.GAUGE), "op")[0].value == 7
        self.known("gauge", aggregator.get_metric_summary("op"), last=7)

    # -- exports and tops ------------------------------------------------------------------------------

    def test_everything_can_be_exported_as_json(
        self, collector: MetricCollector, aggregator: MetricsAggregator, parts: Parts
    ) -> None:
        """The default format contains the name, tags and value of every series, in any form."""
        collector.record_counter("a", 2, {"x": "1"})
        collector.record_gauge("b", -1.5)
        self.settle(parts)
        exported = aggregator.export_metrics()
        assert exported == aggregator.export_metrics("json")
        missing = {"a", "b", "x", "1", 2, -1.5} - set(leaves(json.loads(exported)))
        assert not missing, f"export_metrics() lacks {missing}"

    @pytest.mark.parametrize("format", ["no such format", "", None])
    def test_an_unknown_format_is_an_error(self, aggregator: MetricsAggregator, format: Any) -> None:
        """The error quotes the format and lists the known ones."""
        with pytest.raises(InvalidInputError) as caught:
            aggregator.export_metrics(format)
        assert repr(format) in str(caught.value)
        assert "json" in str(caught.value)

    def test_the_largest_come_first(
        self, collector: MetricCollector, aggregator: MetricsAggregator, parts: Parts
    ) -> None:
        """The values have one type and descend; there are at most `limit`."""
        self.need_type("counter")
        for number in (3, 9, 1, 7):
            collector.record_counter(f"c{number}", number)
            collector.record_gauge(f"g{number}", 100 + number)
        self.settle(parts)
        top = aggregator.get_top_metrics(MetricType.COUNTER, 3)
        assert [(value.name, value.value) for value in top] == [("c9", 9), ("c7", 7), ("c3", 3)]
        assert {value.metric_type for value in top} == {MetricType.COUNTER}
        assert len(aggregator.get_top_metrics(MetricType.GAUGE)) == 4
        for number in range(12):
            collector.record_counter("tagged", number, {"number": str(number)})
        self.settle(parts)
        assert len(aggregator.get_top_metrics(MetricType.COUNTER)) == 10

    def test_rates_come_from_counters(
        self, collector: MetricCollector, aggregator: MetricsAggregator, parts: Parts, clock: ManualClock
    ) -> None:
        """The top rates are those of counters, in events per second."""
        self.need_type("counter")
        collector.record_counter("slow", 10)
        collector.record_counter("fast", 90)
        clock.advance(10)
        self.settle(parts)
        top = aggregator.get_top_metrics(MetricType.RATE, 2)
        assert [value.name for value in top] == ["fast", "slow"]
        assert [value.value for value in top] == pytest.approx([9, 1])
        assert {value.metric_type for value in top} == {MetricType.RATE}

    @pytest.mark.parametrize("limit", [0, -1])
    def test_no_more_than_the_limit(
        self, collector: MetricCollector, aggregator: MetricsAggregator, parts: Parts, limit: int
    ) -> None:
        """A limit below 1 returns nothing or raises an error."""
        for name in ("a", "b", "c"):
            collector.record_counter(name, 1)
        self.settle(parts)
        try:
            found = aggregator.get_top_metrics(MetricType.COUNTER, limit)
        except InvalidInputError:
            return
        assert found == []

    def test_a_signal_handler_may_read(
        self, collector: MetricCollector, aggregator: MetricsAggregator, parts: Parts
    ) -> None:
        """Reading in the middle of a record or a read neither blocks nor loses anything."""
        self.need_reentry()
        collector.record_histogram("h", 1)
        done, _ = interrupted(
            lambda: (collector.record_histogram("h", 1), aggregator.get_metric_summary("h")),
            lambda: (aggregator.get_metric_summary("h"), aggregator.export_metrics()),
        )
        self.settle(parts)
        self.known("histogram", aggregator.get_metric_summary("h"), count=done + 1)
