"""A snapshot is built from third-party parts, by their Protocols alone."""

from __future__ import annotations

import math
import shlex
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_adapters.in_memory import InMemoryAggregator, InMemoryCollector
from metrics_framework import MetricsSystem
from metrics_framework.clock import ManualClock
from metrics_framework.errors import SnapshotError, UnknownMetricError
from metrics_framework.health import RESOURCE_GAUGES
from metrics_framework.protocols import (
    MetricsAggregator,
    PerformanceTimer,
    ResourceMonitor,
    SuccessFailureTracker,
)
from metrics_framework.recording import Store
from metrics_framework.snapshots import (
    BuildReport,
    Environment,
    LatencyMetrics,
    LeftOut,
    PerformanceSnapshot,
    SnapshotBuilder,
    SnapshotMetadata,
    custom_key,
    document_violations,
)
from metrics_framework.snapshots.build import LATENCY_TAG, MAX_CUSTOM
from metrics_framework.snapshots.provenance import Provenance
from metrics_framework.values import MetricType, MetricUnit, MetricValue, TimingResult
from tests.threads import switching

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
DURATIONS = {"count": 10, "avg": 1.0, "p50": 2.0, "p95": 3.0, "p99": 4.0, "max": 5.0}


# -- third-party parts: without our store, with nothing beyond the Protocols --------------------------------


@dataclass
class _Timer:
    stats: dict[str, dict[str, float]]

    def start_timer(self, operation_name: str, metadata: dict[str, Any] | None = None) -> str:
        raise NotImplementedError

    def stop_timer(self, timer_id: str, success: bool = True) -> TimingResult:
        raise NotImplementedError

    def time_operation(
        self, operation_name: str, operation: Callable[[], Any], metadata: dict[str, Any] | None = None
    ) -> TimingResult:
        raise NotImplementedError

    def get_timing_stats(self, operation_name: str) -> dict[str, float]:
        if operation_name not in self.stats:
            raise UnknownMetricError(operation_name)
        return self.stats[operation_name]


@dataclass
class _Tracker:
    rates: dict[str, float]

    def record_success(self, operation: str, metadata: dict[str, Any] | None = None) -> None:
        raise NotImplementedError

    def record_failure(self, operation: str, error_type: str, metadata: dict[str, Any] | None = None) -> None:
        raise NotImplementedError

    def get_success_rate(self, operation: str, time_window: timedelta | None = None) -> float:
        return self.rates[operation]

    def get_failure_breakdown(self, operation: str, time_window: timedelta | None = None) -> dict[str, int]:
        raise NotImplementedError


@dataclass
class _Monitor:
    memory: dict[str, float]
    cpu: dict[str, float]

    def get_memory_usage(self) -> dict[str, float]:
        return self.memory

    def get_cpu_usage(self) -> dict[str, float]:
        return self.cpu

    def get_disk_usage(self, path: str = "/") -> dict[str, float]:
        raise NotImplementedError

    def get_network_stats(self) -> dict[str, int]:
        raise NotImplementedError

    def start_resource_monitoring(self, interval: float = 60.0) -> None:
        raise NotImplementedError

    def stop_resource_monitoring(self) -> None:
        raise NotImplementedError


@dataclass
class _Aggregator:
    values: list[MetricValue]
    summaries: dict[str, dict[str, float]]

    def get_metric_summary(self, metric_name: str, time_window: timedelta | None = None) -> dict[str, float]:
        if metric_name not in self.summaries:
            raise UnknownMetricError(metric_name)
        return self.summaries[metric_name]

    def get_metrics_by_tag(self, tag_filter: dict[str, str]) -> list[MetricValue]:
        return [value for value in self.values if tag_filter.items() <= value.tags.items()]

    def export_metrics(self, format: str = "json") -> str:
        raise NotImplementedError

    def get_top_metrics(self, metric_type: MetricType, limit: int = 10) -> list[MetricValue]:
        raise NotImplementedError


class _Broken(_Timer, _Tracker, _Monitor, _Aggregator):
    """Raises an error of its own on every call."""

    def __init__(self) -> None:
        pass

    def _fail(self, *arguments: object) -> Any:
        raise ConnectionError("the backend is away")

    get_timing_stats = get_success_rate = get_memory_usage = get_cpu_usage = _fail
    get_metric_summary = get_metrics_by_tag = _fail


@dataclass
class _Parts:
    """Recorded values; `build` makes a snapshot of them."""

    values: list[MetricValue] = field(default_factory=list)
    summaries: dict[str, dict[str, float]] = field(default_factory=dict)
    timings: dict[str, dict[str, float]] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)
    seconds: float = 2.0

    def builder(self, **options: Any) -> SnapshotBuilder:
        parts = {
            "timer": _Timer(self.timings),
            "tracker": _Tracker(self.rates),
            "resource_monitor": _Monitor(self.memory, self.cpu),
            "aggregator": _Aggregator(self.values, self.summaries),
            "seconds": self.seconds,
        }
        return SnapshotBuilder(**{**parts, **options})

    def build(self, **options: Any) -> tuple[PerformanceSnapshot, BuildReport]:
        return self.builder(**options).build(SnapshotMetadata("run", timestamp=NOON))


def _value(
    name: str,
    metric_type: MetricType,
    value: float = 1.0,
    *,
    unit: MetricUnit = MetricUnit.COUNT,
    tags: dict[str, str] | None = None,
    **metadata: Any,
) -> MetricValue:
    return MetricValue(name, value, metric_type, unit, NOON, tags or {}, metadata)


def _counter(name: str, value: float = 1.0, **tags: str) -> MetricValue:
    return _value(name, MetricType.COUNTER, value, tags=tags)


def _gauge(name: str, value: Any, **tags: str) -> MetricValue:
    return _value(name, MetricType.GAUGE, value, tags=tags)


def _timer(
    name: str, count: float = 10, *, unit: MetricUnit = MetricUnit.MILLISECONDS, **tags: str
) -> MetricValue:
    return _value(name, MetricType.TIMER, 3.0, unit=unit, tags=tags, **{**DURATIONS, "count": count})


def _operation(name: str, count: float = 10) -> MetricValue:
    return _value(
        name,
        MetricType.TIMER,
        3.0,
        unit=MetricUnit.MILLISECONDS,
        **{**DURATIONS, "count": count, "operation": True},
    )


def _outcomes(name: str) -> MetricValue:
    return _value(name, MetricType.RATE, 5.0, unit=MetricUnit.OPERATIONS_PER_SECOND, operation=True)


def _summaries(*names: str, **more: float) -> dict[str, dict[str, float]]:
    return {name: {**DURATIONS, **more} for name in names}


def _reasons(report: BuildReport) -> dict[str, str]:
    assert len({item.what for item in report.left_out}) == len(report.left_out)
    return {item.what: item.reason for item in report.left_out}


def test_the_parts_of_these_tests_fulfil_the_protocols() -> None:
    """The parts have all methods of the Protocols, as third-party parts have."""
    assert isinstance(_Timer({}), PerformanceTimer)
    assert isinstance(_Tracker({}), SuccessFailureTracker)
    assert isinstance(_Monitor({}, {}), ResourceMonitor)
    assert isinstance(_Aggregator([], {}), MetricsAggregator)


# -- complete snapshots ------------------------------------------------------------------------------------


def test_any_parts_become_a_snapshot() -> None:
    """Parts that only implement the Protocols give a valid, complete snapshot."""
    parts = _Parts(
        values=[
            _timer("http.request", 100),
            _timer("db.query", 5),
            _counter("git.commits.created", 3, branch="main"),
            _gauge("queue.length", 7),
            _value("payload", MetricType.HISTOGRAM, count=2, avg=10.0, p95=19.0, p99=20.0, p50=9.0),
            _operation("parse", 4),
            _outcomes("parse"),
        ],
        summaries=_summaries("http.request", "db.query", rate=50.0),
        timings=_summaries("parse"),
        rates={"parse": 0.75},
        memory={"process_peak_rss": 512_000_000.0, "process_rss": 1.0},
        cpu={"process_average_percent": 150.0, "process_percent": 1.0, "count": 2},
    )
    snapshot, report = parts.build()
    assert document_violations(snapshot.to_dict()) == []
    assert report == BuildReport(())
    assert list(snapshot.metrics.flat().items()) == [
        ("latency.mean", 1.0),
        ("latency.p50", 2.0),
        ("latency.p95", 3.0),
        ("latency.p99", 4.0),
        ("throughput", 50.0),
        ("memory_mb", 512.0),
        ("cpu_percent", 75.0),
        ("custom.db/query/count", 5.0),
        ("custom.db/query/mean", 1.0),
        ("custom.db/query/p95", 3.0),
        ("custom.db/query/p99", 4.0),
        ("custom.git/commits/created[branch:main]", 3.0),
        ("custom.operation:parse/count", 4.0),
        ("custom.operation:parse/mean", 1.0),
        ("custom.operation:parse/p95", 3.0),
        ("custom.operation:parse/p99", 4.0),
        ("custom.operation:parse/success_rate", 0.75),
        ("custom.payload/count", 2.0),
        ("custom.payload/mean", 10.0),
        ("custom.payload/p95", 19.0),
        ("custom.payload/p99", 20.0),
        ("custom.queue/length", 7.0),
    ]


def test_metadata_are_kept_with_the_latency_tag_added() -> None:
    """The context of the run is unchanged, and a tag names the timer of the latency."""
    metadata = SnapshotMetadata("run", "abc", "main", NOON, Environment.STAGING, {"pr": "42"})
    builder = _Parts([_timer("t")], _summaries("t")).builder()
    built = builder.build(metadata)[0].metadata
    assert built == SnapshotMetadata(
        "run", "abc", "main", NOON, Environment.STAGING, {"pr": "42", LATENCY_TAG: "t"}
    )
    assert metadata.tags == {"pr": "42"}


def test_a_run_without_measurements_is_an_error() -> None:
    """A snapshot needs at least one measurement."""
    with pytest.raises(SnapshotError, match="metrics: must hold at least one of"):
        _Parts().build()


def test_a_builder_can_build_again() -> None:
    """A second snapshot has a report of its own."""
    builder = _Parts([_gauge("drift", -1), _counter("hits")]).builder()
    first, second = (builder.build(SnapshotMetadata("run", timestamp=NOON)) for _ in range(2))
    assert first == second


# -- latency and throughput --------------------------------------------------------------------------------


def _latency_of(snapshot: PerformanceSnapshot) -> str | None:
    return snapshot.metadata.tags.get(LATENCY_TAG)


def test_the_timer_with_the_most_records_becomes_latency() -> None:
    """By default, the busiest timer is the latency, over all of its series."""
    values = [_timer("alone", 5), _timer("split", 3, a="1"), _timer("split", 3, a="2"), _operation("op", 5)]
    snapshot, _ = _Parts(values, _summaries("alone", "split"), _summaries("op")).build()
    assert _latency_of(snapshot) == "split"
    assert snapshot.metrics.latency == LatencyMetrics(1.0, 2.0, 3.0, 4.0)


def test_a_long_lived_connection_does_not_become_latency() -> None:
    """The durations of event streams, WebSockets and stalls of the event loop stay custom values."""
    busy = [
        _operation("http.server.event_stream", 90),
        _timer("http.client.event_stream.duration", 90),
        _operation("websocket.server.connection", 90),
        _timer("event_loop.lag", 90),
    ]
    names = [value.name for value in busy]
    parts = _Parts([*busy, _operation("op", 1)], _summaries(*names), _summaries("op", *names))
    snapshot, _ = parts.build()
    assert _latency_of(snapshot) == "op"
    assert any("event_stream" in key for key in snapshot.metrics.custom)
    snapshot, report = _Parts(busy, _summaries(*names), _summaries(*names)).build()
    assert snapshot.metrics.latency is None
    assert report.left_out == ()
    snapshot, _ = parts.build(latency_metric="http.server.event_stream")
    assert _latency_of(snapshot) == "http.server.event_stream"


def test_the_name_decides_between_equally_busy_timers() -> None:
    """The first by name is chosen, for any order of the listing."""
    for values in ([_timer("b"), _operation("a")], [_operation("a"), _timer("b")]):
        snapshot, _ = _Parts(values, _summaries("b"), _summaries("a")).build()
        assert _latency_of(snapshot) == "a"


def test_an_operation_can_be_latency() -> None:
    """Its durations come from the timer, and the tag has its name."""
    parts = _Parts([_operation("git.push")], timings={"git.push": {**DURATIONS, "p95": 30.0, "rate": 4.0}})
    snapshot, report = parts.build()
    assert snapshot.metrics.latency == LatencyMetrics(1.0, 2.0, 30.0, 4.0)
    assert snapshot.metrics.throughput == 4.0
    assert _latency_of(snapshot) == "git.push"
    assert report.left_out == ()


@pytest.mark.parametrize("name", ["quiet", "op"])
def test_a_named_timer_becomes_latency(name: str) -> None:
    """It may be a metric or an operation, with any number of records."""
    values = [_timer("busy", 100), _timer("quiet", 1), _operation("op", 1)]
    snapshot, report = _Parts(values, _summaries("busy", "quiet"), _summaries("op")).build(
        latency_metric=name
    )
    assert _latency_of(snapshot) == name
    assert "busy/p95" in snapshot.metrics.custom
    assert report.left_out == ()


def test_an_unlisted_operation_can_be_latency() -> None:
    """The timer is read even if the aggregator does not list operations."""
    snapshot, _ = _Parts([_counter("hits")], timings=_summaries("op")).build(latency_metric="op")
    assert snapshot.metrics.latency == LatencyMetrics(1.0, 2.0, 3.0, 4.0)


def test_an_operation_comes_before_a_metric_of_its_name() -> None:
    """The operation is the latency, and the metric remains a custom key."""
    timings = {"x": {"p95": 30.0}}
    snapshot, _ = _Parts([_timer("x"), _operation("x")], _summaries("x"), timings).build(latency_metric="x")
    assert snapshot.metrics.latency == LatencyMetrics(p95=30.0)
    assert {"x/count", "x/mean", "x/p95", "x/p99"} == set(snapshot.metrics.custom)


def test_a_named_timer_that_was_not_recorded_is_reported() -> None:
    """The latency is left out and reported, and no other timer replaces it."""
    parts = _Parts([_timer("busy")], _summaries("busy"))
    snapshot, report = parts.build(latency_metric="missing")
    assert snapshot.metrics.latency is None
    assert snapshot.metrics.throughput is None
    assert _latency_of(snapshot) is None
    assert "busy/p95" in snapshot.metrics.custom
    assert report.left_out == (LeftOut("latency of 'missing'", "was not recorded"),)


def test_a_timer_without_durations_is_reported() -> None:
    """A summary without quantiles gives no latency."""
    parts = _Parts([_counter("hits"), _value("t", MetricType.TIMER, unit=MetricUnit.MILLISECONDS, count=0)])
    parts.summaries = {"t": {"count": 0, "seconds": 2.0}}
    snapshot, report = parts.build()
    assert snapshot.metrics.latency is None
    assert _latency_of(snapshot) is None
    assert report.left_out == (LeftOut("latency of 't'", "has no valid durations"),)


def test_the_numbers_of_latency_are_not_custom_keys() -> None:
    """They are not stored twice. Its tagged series and its outcomes remain."""
    values = [_operation("op", 50), _outcomes("op"), _timer("t", 1), _timer("t", 99, a="1")]
    parts = _Parts(values, _summaries("t"), _summaries("op"), {"op": 1.0})
    assert {key.rpartition("/")[0] for key in parts.build()[0].metrics.custom} == {"operation:op", "t[a:1]"}
    chosen = parts.build(latency_metric="op")[0].metrics.custom
    assert {"t/p95", "t[a:1]/p95", "operation:op/success_rate"} < set(chosen)
    assert "operation:op/p95" not in chosen


@pytest.mark.parametrize(
    ("unit", "factor"),
    [(MetricUnit.SECONDS, 1000), (MetricUnit.MILLISECONDS, 1), (MetricUnit.MICROSECONDS, 0.001)],
)
def test_durations_become_milliseconds(unit: MetricUnit, factor: float) -> None:
    """Durations in any unit are converted; counts and rates are not."""
    values = [_timer("a", 11, unit=unit), _timer("b", 10, unit=unit)]
    snapshot, _ = _Parts(values, _summaries("a", "b", rate=5.0, seconds=2.0)).build()
    assert snapshot.metrics.latency == LatencyMetrics(1.0 * factor, 2.0 * factor, 3.0 * factor, 4.0 * factor)
    assert snapshot.metrics.throughput == 5.0
    assert snapshot.metrics.custom == {
        "b/count": 10,
        "b/mean": 1.0 * factor,
        "b/p95": 3.0 * factor,
        "b/p99": 4.0 * factor,
    }


def test_a_metric_keeps_its_unit_beside_an_operation_of_the_same_name() -> None:
    """The durations of the metric have its own unit, not that of the operation."""
    values = [_operation("x", 1), _timer("x", 9, unit=MetricUnit.SECONDS)]
    snapshot, _ = _Parts(values, _summaries("x"), _summaries("x")).build()
    assert snapshot.metrics.latency == LatencyMetrics(1000.0, 2000.0, 3000.0, 4000.0)


def test_throughput_is_the_timers_rate() -> None:
    """A rate in the summary is used instead of the length of the run."""
    assert _Parts([_timer("t")], _summaries("t", rate=7.5)).build()[0].metrics.throughput == 7.5


def test_without_a_rate_throughput_is_records_per_second() -> None:
    """It is the number of records divided by the length of the run."""
    parts = _Parts([_timer("t")], _summaries("t"), seconds=4.0)
    assert parts.build()[0].metrics.throughput == 2.5


def test_a_run_without_duration_has_no_throughput() -> None:
    """Without a rate or a length, throughput is left out, without an error."""
    snapshot, report = _Parts([_timer("t")], _summaries("t"), seconds=0.0).build()
    assert snapshot.metrics.throughput is None
    assert snapshot.metrics.latency is not None
    assert report.left_out == ()


def test_invalid_latencies_are_reported() -> None:
    """An invalid quantile or rate is left out with the reason, and the others remain."""
    parts = _Parts([_timer("t")], _summaries("t", p95=math.nan, avg=-1.0, rate=math.inf))
    snapshot, report = parts.build()
    assert snapshot.metrics.flat() == {"latency.p50": 2.0, "latency.p99": 4.0}
    assert _reasons(report) == {
        "latency.mean": "v1 stores only finite numbers of 0 or more, got -1.0",
        "latency.p95": "v1 stores only finite numbers of 0 or more, got nan",
        "throughput": "v1 stores only finite numbers of 0 or more, got inf",
    }


# -- tags --------------------------------------------------------------------------------------------------


def test_a_caller_cannot_set_the_latency_tag() -> None:
    """The tag always names the real timer, so that a comparison never mixes two."""
    builder = _Parts([_timer("t")], _summaries("t")).builder()
    snapshot, _ = builder.build(SnapshotMetadata(tags={"latency_metric": "other"}))
    assert snapshot.metadata.tags == {"latency_metric": "t"}


def test_more_than_50_tags_are_an_error() -> None:
    """The tag that names the timer of the latency counts among the 50 that v1 allows."""
    builder = _Parts([_timer("t")], _summaries("t")).builder()
    tags = {str(number): "" for number in range(49)}
    assert len(builder.build(SnapshotMetadata(tags=tags))[0].metadata.tags) == 50
    with pytest.raises(SnapshotError, match=r"metadata\.tags: must have at most 50 entries, got 51"):
        builder.build(SnapshotMetadata(tags={**tags, "49": ""}))


# -- memory and CPU ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("memory", "megabytes"),
    [
        ({"process_peak_rss": 2_500_000, "process_rss": 1_000_000}, 2.5),
        ({"process_rss": 1_000_000, "used": 9_000_000}, 1.0),
        ({"process_peak_rss": 0}, 0.0),
        ({"used": 9_000_000}, None),
        ({}, None),
    ],
)
def test_memory_is_the_process_peak_in_megabytes(memory: dict[str, float], megabytes: float | None) -> None:
    """A megabyte is 10^6 bytes. Without a peak, current memory is used, if there is a reading."""
    snapshot, report = _Parts([_counter("hits")], memory=memory).build()
    assert snapshot.metrics.memory_mb == megabytes
    assert report.left_out == ()


@pytest.mark.parametrize(
    ("cpu", "percent"),
    [
        ({"process_average_percent": 300.0, "process_percent": 8.0, "count": 4}, 75.0),
        ({"process_percent": 50.0, "count": 4}, 12.5),
        ({"process_percent": 50.0}, 50.0),
        ({"process_percent": 50.0, "count": 0}, 50.0),
        ({"process_percent": 400.0, "count": 4}, 100.0),
        ({"process_percent": 400.5, "count": 4}, 100.0),
        ({"process_percent": 0.0, "count": 4}, 0.0),
        ({"percent": 50.0, "count": 4}, None),
        ({}, None),
        ({"process_percent": 25.0, "count": 0.5}, 50.0),  # the limit of a container
    ],
)
def test_cpu_is_the_process_share_of_all_cores(cpu: dict[str, float], percent: float | None) -> None:
    """The average divided by the cores is at most 100. The load of the machine does not replace it."""
    snapshot, report = _Parts([_counter("hits")], cpu=cpu).build()
    assert snapshot.metrics.cpu_percent == percent
    assert report.left_out == ()


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -1.0])
def test_invalid_resources_are_reported(wrong: float) -> None:
    """An invalid reading is left out with the reason."""
    parts = _Parts([_counter("hits")], memory={"process_rss": wrong}, cpu={"process_percent": wrong})
    snapshot, report = parts.build()
    assert (snapshot.metrics.memory_mb, snapshot.metrics.cpu_percent) == (None, None)
    assert _reasons(report) == {
        "memory_mb": f"v1 stores only finite numbers of 0 or more, got {wrong / 1e6!r}",
        "cpu_percent": f"v1 stores only finite numbers of 0 or more, got {wrong!r}",
    }


@pytest.mark.parametrize("name", sorted(RESOURCE_GAUGES))
def test_resource_gauges_are_not_custom_keys(name: str) -> None:
    """Readings of the machine differ in every run, so they are not compared."""
    snapshot, report = _Parts([_gauge(name, 1.0), _counter("hits")]).build()
    assert snapshot.metrics.custom == {"hits": 1.0}
    assert report.left_out == ()


# -- custom metrics ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "shown"),
    [
        (-1, "-1"),
        (-0.5, "-0.5"),
        (math.nan, "nan"),
        (math.inf, "inf"),
        (True, "True"),
        ("1", "'1'"),
        (None, "None"),
    ],
)
def test_invalid_values_are_left_out_with_the_reason(wrong: Any, shown: str) -> None:
    """The report has the key and the quoted value."""
    snapshot, report = _Parts([_gauge("clock.drift", wrong, host="a"), _counter("hits")]).build()
    assert snapshot.metrics.custom == {"hits": 1.0}
    assert report.left_out == (
        LeftOut("clock/drift[host:a]", f"v1 stores only finite numbers of 0 or more, got {shown}"),
    )


def test_an_invalid_statistic_does_not_affect_others() -> None:
    """A distribution with a negative mean keeps its count and its quantiles."""
    values = [_value("drift", MetricType.HISTOGRAM, count=3, avg=-0.5, p95=1.0, p99=2.0)]
    snapshot, report = _Parts(values).build()
    assert snapshot.metrics.custom == {"drift/count": 3, "drift/p95": 1.0, "drift/p99": 2.0}
    assert report.left_out == (LeftOut("drift/mean", "v1 stores only finite numbers of 0 or more, got -0.5"),)


def test_a_distribution_gives_the_statistics_that_it_has() -> None:
    """An adapter without quantiles gives its other statistics."""
    snapshot, report = _Parts([_value("payload", MetricType.HISTOGRAM, count=3, avg=2.0)]).build()
    assert snapshot.metrics.custom == {"payload/count": 3, "payload/mean": 2.0}
    assert report.left_out == ()


def test_a_rate_is_not_a_custom_key() -> None:
    """A rate that is not an operation is derived from a counter, which is a key."""
    snapshot, report = _Parts([_value("hits", MetricType.RATE, 9.0), _counter("hits", 3)]).build()
    assert snapshot.metrics.custom == {"hits": 3}
    assert report.left_out == ()


@pytest.mark.parametrize(
    ("patterns", "kept"),
    [
        (None, {"http/hits", "http/size[a:1]", "db/rows"}),
        (["*"], {"http/hits", "http/size[a:1]", "db/rows"}),
        (["http.*"], {"http/hits", "http/size[a:1]"}),
        (["http.size", "db.*"], {"http/size[a:1]", "db/rows"}),
        (iter(["db.*", "http.h?ts"]), {"http/hits", "db/rows"}),
        (["HTTP.*", "http/*", "db"], set()),
        ([], set()),
    ],
)
def test_an_allow_list_selects_custom_keys(patterns: Iterable[str] | None, kept: set[str]) -> None:
    """Patterns match recorded names, with their case. Other keys are reported."""
    values = [_counter("http.hits"), _gauge("http.size", 1, a="1"), _counter("db.rows")]
    parts = _Parts(values, memory={"process_rss": 1.0})
    snapshot, report = parts.build(custom_metrics=patterns)
    assert set(snapshot.metrics.custom) == kept
    everything = {"http/hits", "http/size[a:1]", "db/rows"}
    assert _reasons(report) == dict.fromkeys(everything - kept, "not matched by custom_metrics")


def test_an_allow_list_selects_operations_too() -> None:
    """Durations and outcomes are selected by the name of the operation."""
    parts = _Parts([_operation("parse", 1), _outcomes("parse"), _outcomes("push"), _timer("t", 99)])
    parts.summaries, parts.rates = _summaries("t"), {"parse": 1.0, "push": 1.0}
    snapshot, report = parts.build(custom_metrics=["pa*"])
    assert set(snapshot.metrics.custom) == {
        *(f"operation:parse/{statistic}" for statistic in ("count", "mean", "p95", "p99", "success_rate"))
    }
    assert _reasons(report) == {"operation:push/success_rate": "not matched by custom_metrics"}


def test_an_allow_list_does_not_affect_latency() -> None:
    """The latency is chosen among all timers."""
    assert _Parts([_timer("t")], _summaries("t")).build(custom_metrics=[])[0].metrics.latency is not None


def test_a_limit_keeps_the_first_keys_in_sorted_order() -> None:
    """The selection depends on names alone, and other keys are reported."""
    values = [_counter(name) for name in ("d", "b", "a", "c")]
    snapshot, report = _Parts(values).build(max_custom=2)
    assert list(snapshot.metrics.custom) == ["a", "b"]
    assert _reasons(report) == dict.fromkeys(("c", "d"), "over the limit of 2 custom keys: raise max_custom")


def test_a_limit_of_0_keeps_no_custom_key() -> None:
    """All other measurements are kept."""
    snapshot, report = _Parts([_counter("a")], memory={"process_rss": 1.0}).build(max_custom=0)
    assert snapshot.metrics.custom == {}
    assert _reasons(report) == {"a": "over the limit of 0 custom keys: raise max_custom"}


def test_the_default_limit_is_200_custom_keys() -> None:
    """200 keys fit, and one more is reported."""
    values = [_counter(f"m{number:03}") for number in range(201)]
    snapshot, report = _Parts(values).build()
    assert MAX_CUSTOM == len(snapshot.metrics.custom) == 200
    assert [item.what for item in report.left_out] == ["m200"]
    assert _Parts(values[:200]).build()[1].left_out == ()


@given(
    st.lists(
        st.builds(
            MetricValue,
            name=st.text(min_size=1, max_size=4),
            value=st.floats() | st.integers(),
            metric_type=st.sampled_from(MetricType),
            unit=st.sampled_from(MetricUnit),
            timestamp=st.just(NOON),
            tags=st.dictionaries(st.text(min_size=1, max_size=3), st.text(max_size=3), max_size=2),
            metadata=st.fixed_dictionaries(
                {}, optional={**{key: st.floats() for key in DURATIONS}, "operation": st.booleans()}
            ),
        ),
        max_size=5,
    )
)
def test_a_snapshot_of_any_values_is_valid(values: list[MetricValue]) -> None:
    """Any values of any adapter give a snapshot without violations."""
    summaries = {value.name: value.metadata for value in values}
    rates = {value.name: value.value for value in values}
    parts = _Parts([*values, _counter("hits")], summaries, summaries, rates)
    snapshot, _ = parts.build()
    assert document_violations(snapshot.to_dict()) == []


# -- parts that fail ---------------------------------------------------------------------------------------


def _full() -> _Parts:
    return _Parts(
        values=[_operation("op", 20), _outcomes("op"), _timer("t", 1), _counter("hits")],
        summaries=_summaries("t"),
        timings=_summaries("op"),
        rates={"op": 0.5},
        memory={"process_rss": 1_000_000},
        cpu={"process_percent": 5.0},
    )


AWAY = "could not be read: ConnectionError('the backend is away')"


@pytest.mark.parametrize(
    ("part", "reported", "lost"),
    [
        ("timer", {"latency of 'op'"}, {"latency", "throughput"}),
        ("tracker", {"operation:op/success_rate"}, {"custom.operation:op/success_rate"}),
        ("resource_monitor", {"memory_mb", "cpu_percent"}, {"memory_mb", "cpu_percent"}),
        ("aggregator", {"metrics"}, {"latency", "throughput", "custom"}),
    ],
)
def test_a_failing_part_affects_only_its_own_values(part: str, reported: set[str], lost: set[str]) -> None:
    """The rest of the snapshot is complete, and the report lists what is missing."""
    whole = _full().build()[0].metrics.flat()
    snapshot, report = _full().build(**{part: _Broken()})
    assert _reasons(report) == dict.fromkeys(reported, AWAY)
    expected = {key for key in whole if key not in lost and key.partition(".")[0] not in lost}
    assert expected <= set(snapshot.metrics.flat())
    assert not any(key in lost or key.partition(".")[0] in lost for key in snapshot.metrics.flat())


def test_an_aggregator_without_summaries_affects_only_latency() -> None:
    """Other metrics come from its listing."""
    parts = _full()

    class _ListsOnly(_Aggregator):
        def get_metric_summary(
            self, metric_name: str, time_window: timedelta | None = None
        ) -> dict[str, float]:
            raise ConnectionError("the backend is away")

    snapshot, report = parts.build(aggregator=_ListsOnly(parts.values, {}), latency_metric="t")
    assert _reasons(report) == {"latency of 't'": AWAY}
    assert {"hits", "t/p95", "operation:op/p95"} < set(snapshot.metrics.custom)


def test_parts_that_all_fail_are_an_error() -> None:
    """A snapshot needs at least one measurement."""
    broken = dict.fromkeys(("timer", "tracker", "resource_monitor", "aggregator"), _Broken())
    with pytest.raises(SnapshotError, match="metrics: must hold at least one of"):
        _full().build(**broken)


def test_a_timer_in_a_unit_that_is_not_time_is_left_out() -> None:
    """It is reported by name, and all other series are kept."""
    values = [_timer("odd", 1, unit=MetricUnit.BYTES), _timer("t", 99), _counter("hits")]
    snapshot, report = _Parts(values, _summaries("odd", "t")).build()
    assert snapshot.metrics.custom == {"hits": 1.0}
    assert snapshot.metrics.latency is not None
    (left_out,) = report.left_out
    assert left_out.what == "'odd'"
    assert left_out.reason.startswith("could not be read: InvalidInputError(")


@pytest.mark.parametrize("count", [None, "many"])
def test_a_count_that_is_not_a_number_affects_only_latency(count: Any) -> None:
    """The rest of the snapshot is complete."""
    snapshot, report = _Parts([_timer("t", count), _counter("hits")], _summaries("t")).build()
    assert snapshot.metrics.latency is None
    assert snapshot.metrics.custom["hits"] == 1.0
    assert {"latency", "t/count"} == set(_reasons(report))


def test_an_invalid_reading_affects_only_itself() -> None:
    """A reading that is not a number is left out."""
    parts = _Parts(
        [_counter("hits")], memory={"process_rss": "much"}, cpu={"process_percent": None, "count": 2}
    )
    snapshot, report = parts.build()
    assert snapshot.metrics.flat() == {"custom.hits": 1.0}
    assert set(_reasons(report)) == {"memory_mb"}


# -- the parts of the library ------------------------------------------------------------------------------


def test_the_in_memory_parts_become_a_snapshot(clock: ManualClock) -> None:
    """Records through the facade are in its snapshot, with the time of the clock."""
    monitor = _Monitor({"process_peak_rss": 5_000_000}, {"process_percent": 10.0, "count": 4})
    metrics = MetricsSystem(clock=clock, resource_monitor=monitor)
    for milliseconds in (10.0, 20.0, 30.0):
        metrics.collector.record_timer("http.request", milliseconds)
    metrics.timer.time_operation("parse", lambda: clock.advance(0.5))
    clock.advance(0.5)
    metrics.tracker.record_success("parse")
    metrics.tracker.record_failure("parse", "SyntaxError")
    metrics.collector.record_counter("http.requests", 3, {"endpoint": "/status"})
    metrics.collector.record_gauge("clock.drift", -1)
    metrics.collector.record_histogram("payload", 100.0)
    snapshot, report = metrics.build_snapshot(environment="staging", tags={"pr": "42"})

    assert document_violations(snapshot.to_dict()) == []
    assert snapshot.metadata.timestamp == datetime(2026, 1, 1, 0, 0, 1, tzinfo=UTC)
    assert snapshot.metadata.environment is Environment.STAGING
    assert snapshot.metadata.tags.items() >= {"pr": "42", LATENCY_TAG: "http.request"}.items()
    assert snapshot.metrics.latency is not None
    assert snapshot.metrics.latency.mean == pytest.approx(20.0)
    assert snapshot.metrics.latency.p50 == pytest.approx(20.0, rel=0.05)
    assert snapshot.metrics.throughput == pytest.approx(3.0)
    assert snapshot.metrics.memory_mb == 5.0
    assert snapshot.metrics.cpu_percent == 2.5
    custom = snapshot.metrics.custom
    assert custom[custom_key("http.requests", {"endpoint": "/status"})] == 3
    assert custom["operation:parse/count"] == 1
    assert custom["operation:parse/mean"] == pytest.approx(500.0)
    assert custom["operation:parse/success_rate"] == 0.5
    assert custom["payload/mean"] == pytest.approx(100.0)
    assert report.left_out == (LeftOut("clock/drift", "v1 stores only finite numbers of 0 or more, got -1"),)


def test_a_known_provenance_is_not_looked_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The snapshot has the given commit and job, and git, which takes time, is not started."""
    git = tmp_path / "git"
    git.write_text(f"#!/bin/sh\n: > {shlex.quote(str(tmp_path / 'started'))}\n")
    git.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with MetricsSystem() as metrics:
        metrics.collector.increment("hits")
        origin = Provenance("c1", None, Environment.STAGING)
        snapshot, _ = metrics.build_snapshot(provenance=origin)
        assert (snapshot.metadata.commit, snapshot.metadata.branch) == ("c1", None)
        assert snapshot.metadata.environment is Environment.STAGING
        assert not (tmp_path / "started").exists()
        metrics.build_snapshot()
        assert (tmp_path / "started").exists()


def test_the_facades_options_reach_the_builder(clock: ManualClock) -> None:
    """Latency, allow-list and limit of the facade apply."""
    monitor = _Monitor({}, {})
    metrics = MetricsSystem(
        clock=clock, resource_monitor=monitor, latency_metric="slow", custom_metrics=["hits.*"], max_custom=1
    )
    for name in ("fast", "fast", "slow"):
        metrics.collector.record_timer(name, 1.0)
    for name in ("hits.b", "hits.a", "misses"):
        metrics.collector.increment(name)
    snapshot, report = metrics.build_snapshot()
    assert _latency_of(snapshot) == "slow"
    assert list(snapshot.metrics.custom) == ["hits/a"]
    reasons = _reasons(report)
    assert reasons["hits/b"] == "over the limit of 1 custom keys: raise max_custom"
    assert reasons["misses"] == reasons["fast/p95"] == "not matched by custom_metrics"


def test_the_librarys_own_monitor_fills_memory_and_cpu() -> None:
    """Without adapters, a snapshot has the memory and the CPU use of this process."""
    with MetricsSystem() as metrics:
        metrics.collector.increment("hits")
        snapshot = metrics.snapshot()
    assert snapshot.metrics.memory_mb is not None
    assert snapshot.metrics.memory_mb > 1
    assert snapshot.metrics.cpu_percent is not None
    assert 0 <= snapshot.metrics.cpu_percent <= 100


# -- without a resource monitor ----------------------------------------------------------------------------


def test_without_a_monitor_there_are_no_resources() -> None:
    """Memory and CPU are left out, and not reported."""
    parts = _Parts([_timer("t"), _counter("hits", 3)], _summaries("t", rate=5.0))
    snapshot, report = parts.build(resource_monitor=None)
    assert snapshot.metrics.memory_mb is None
    assert snapshot.metrics.cpu_percent is None
    assert snapshot.metrics.latency == LatencyMetrics(1.0, 2.0, 3.0, 4.0)
    assert snapshot.metrics.throughput == 5.0
    assert snapshot.metrics.custom == {"hits": 3}
    assert report == BuildReport(())
    assert document_violations(snapshot.to_dict()) == []


def test_without_a_monitor_a_run_without_measurements_is_an_error() -> None:
    """There is still no snapshot without measurements."""
    with pytest.raises(SnapshotError, match="metrics: must hold at least one of"):
        _Parts().build(resource_monitor=None)


# -- operations with tags ----------------------------------------------------------------------------------


def _tagged_outcomes(name: str, tags: dict[str, str], **metadata: Any) -> MetricValue:
    unit = MetricUnit.OPERATIONS_PER_SECOND
    return _value(name, MetricType.RATE, 5.0, unit=unit, tags=tags, operation=True, **metadata)


def test_tagged_operations_have_the_success_rate_of_the_aggregator() -> None:
    """Each tagged series has its own rate. The rate without tags comes from the tracker."""
    values = [
        _outcomes("parse"),
        _tagged_outcomes("parse", {"kind": "xml"}, success_rate=0.25),
        _tagged_outcomes("parse", {"kind": "json"}, success_rate=1.0),
    ]
    snapshot, report = _Parts(values, rates={"parse": 0.5}).build()
    assert snapshot.metrics.custom == {
        "operation:parse/success_rate": 0.5,
        "operation:parse[kind:json]/success_rate": 1.0,
        "operation:parse[kind:xml]/success_rate": 0.25,
    }
    assert report == BuildReport(())


def test_a_tracker_is_not_read_for_an_operation_with_tags() -> None:
    """It has no tags, so its errors do not matter if the aggregator has the rate."""
    values = [_tagged_outcomes("parse", {"kind": "xml"}, success_rate=0.0)]
    snapshot, report = _Parts(values).build(tracker=_Broken())
    assert snapshot.metrics.custom == {"operation:parse[kind:xml]/success_rate": 0.0}
    assert report == BuildReport(())


def test_a_tagged_operation_without_a_rate_has_no_key() -> None:
    """The rate of another series does not replace it."""
    values = [_counter("hits"), _tagged_outcomes("parse", {"kind": "xml"}, success_rate=None)]
    values.append(_tagged_outcomes("parse", {"kind": "json"}))
    snapshot, _ = _Parts(values, rates={"parse": 0.5}).build()
    assert list(snapshot.metrics.custom) == ["hits"]


def test_measured_operations_with_tags_have_separate_keys(clock: ManualClock) -> None:
    """The durations and success rates of `measure` stay separate by tags."""
    metrics = MetricsSystem(clock=clock, resource_monitor=_Monitor({}, {}), latency_metric="other")
    metrics.collector.record_timer("other", 1.0)
    for kind, error_type in (("xml", None), ("xml", "syntax"), ("json", None)):
        with metrics.measure("parse", {"kind": kind}) as parse:
            clock.advance(0.5)
            parse.error_type = error_type
    custom = metrics.snapshot().metrics.custom
    assert custom["operation:parse[kind:xml]/success_rate"] == 0.5
    assert custom["operation:parse[kind:xml]/count"] == 2
    assert custom["operation:parse[kind:json]/success_rate"] == 1.0
    assert custom["operation:parse[kind:json]/mean"] == 500.0
    assert not any(key.startswith("operation:parse/") for key in custom)


def test_an_operation_with_and_without_tags_has_a_rate_of_each(clock: ManualClock) -> None:
    """The rate without tags is that of the untagged uses."""
    metrics = MetricsSystem(clock=clock, resource_monitor=_Monitor({}, {}), latency_metric="other")
    metrics.collector.record_timer("other", 1.0)
    with metrics.measure("op"):
        clock.advance(0.5)
    with metrics.measure("op", {"a": "1"}) as failing:
        clock.advance(0.5)
        failing.error_type = "bad"
    custom = metrics.snapshot().metrics.custom
    assert custom["operation:op/success_rate"] == 1.0
    assert custom["operation:op[a:1]/success_rate"] == 0.0


# -- distributions ------------------------------------------------------------------------------------------


def _measured(**options: Any) -> MetricsSystem:
    """Return a system with all kinds of distributions, and metrics without one."""
    system = MetricsSystem(clock=ManualClock(), **options)
    for number in range(1, 201):
        system.collector.record_timer("http.request", number, tags={"route": "/a" if number % 2 else "/b"})
        system.collector.record_timer("http.request", number)
    for number in range(5):
        system.collector.record_histogram("payload.size", number)
        system.timer.time_operation("db.query", lambda: None)
    system.collector.increment("payload.size.p95")
    system.collector.increment("orders")
    system.tracker.record_success("db.query")
    return system


def test_the_report_has_the_distributions_behind_the_statistics() -> None:
    """Each key is that of the statistics, and each distribution has as many values as they count."""
    snapshot, report = _measured().build_snapshot()
    assert {key: distribution.count for key, distribution in report.distributions.items()} == {
        "latency": 400,
        "custom.http/request[route:/a]": 100,
        "custom.http/request[route:/b]": 100,
        "custom.payload/size": 5,
        "custom.operation:db/query": 5,
    }
    for key, distribution in report.distributions.items():
        flat = snapshot.metrics.flat()
        separator = "." if key == "latency" else "/"
        assert flat.get(f"{key}/count", 400) == distribution.count
        assert flat[f"{key}{separator}mean"] == pytest.approx(distribution.mean)
        assert [flat[f"{key}{separator}{statistic}"] for statistic in ("p95", "p99")] == pytest.approx(
            distribution.quantiles(0.95, 0.99)
        )


def test_latency_may_be_an_operation() -> None:
    """The distribution is that of the chosen timer, not of a metric with the same name."""
    system = _measured(latency_metric="db.query")
    system.collector.record_histogram("db.query", 1)
    _, report = system.build_snapshot()
    assert report.distributions["latency"].count == 5
    assert report.distributions["custom.db/query"].count == 1


def test_distributions_of_keys_that_are_left_out_are_not_in_the_report() -> None:
    """Allow-list and limit apply to distributions too, so that a sidecar is bounded."""
    _, report = _measured(custom_metrics=["payload.*"]).build_snapshot()
    assert set(report.distributions) == {"latency", "custom.payload/size"}
    _, report = _measured(max_custom=1).build_snapshot()
    assert set(report.distributions) == {"latency", "custom.http/request[route:/a]"}


def test_constant_tags_are_in_no_key_of_the_report() -> None:
    """As in the snapshot, keys do not have the tags of every series."""
    _, report = _measured(tags={"service": "shop"}).build_snapshot()
    assert "custom.http/request[route:/a]" in report.distributions


def test_an_aggregator_without_distributions_affects_only_them() -> None:
    """It may not keep distributions, or fail to return them: then the listing of the contract is used."""

    class Broken(InMemoryAggregator):
        def read(self) -> Any:
            raise RuntimeError("a bug")

    store = Store(ManualClock())
    for aggregator in (_Aggregator([_counter("orders")], {}), Broken(store)):
        system = MetricsSystem(collector=InMemoryCollector(store), aggregator=aggregator)
        system.collector.record_timer("http.request", 5)
        system.collector.increment("orders")
        snapshot, report = system.build_snapshot()
        assert report.distributions == {}
        assert "orders" in snapshot.metrics.custom
    assert [item.what for item in report.left_out] == ["distributions"]


def test_statistics_belong_to_their_own_distribution() -> None:
    """A metric whose name continues another's has keys between those of the other."""
    system = MetricsSystem(clock=ManualClock())
    for name, size in (("size", 1), ("size.mean", 2), ("size.p95", 3)):
        system.collector.record_histogram(name, size)
    snapshot, report = system.build_snapshot()
    assert len(report.distributions) == 3
    for key, distribution in report.distributions.items():
        values = {snapshot.metrics.flat()[f"{key}/{statistic}"] for statistic in ("mean", "p95", "p99")}
        assert values == {distribution.max}


def test_a_negative_value_leaves_out_statistics_but_not_the_distribution() -> None:
    """The statistics that v1 can hold are kept, with the distribution behind them."""
    system = MetricsSystem(clock=ManualClock())
    for value in (-9, 1, 2):
        system.collector.record_histogram("drift", value)
    snapshot, report = system.build_snapshot()
    assert {key: value for key, value in snapshot.metrics.custom.items() if key.startswith("drift")} == {
        "drift/count": 3,
        "drift/p95": 2,
        "drift/p99": 2,
    }
    assert report.distributions["custom.drift"].count == 3
    assert list(_reasons(report)) == ["drift/mean"]


def test_removed_series_are_in_the_latency() -> None:
    """The latency covers all records of its timer, as the summary does; its rate does too."""
    clock = ManualClock()
    system = MetricsSystem(clock=clock)
    for number in range(3):
        system.collector.record_timer("http.request", 10, tags={"pod": str(number)})
    system.collector.record_timer("db.query", 1)
    system.collector.record_timer("db.query", 1)
    system.collector.remove("http.request", {"pod": "0"})
    system.collector.remove("http.request", {"pod": "1"})
    clock.advance(6)
    snapshot, report = system.build_snapshot()
    assert snapshot.metadata.tags[LATENCY_TAG] == "http.request"
    assert report.distributions["latency"].count == 3
    assert snapshot.metrics.throughput == 0.5


@pytest.mark.heavy
def test_a_snapshot_and_its_distributions_have_the_same_records() -> None:
    """However much is recorded meanwhile, all numbers of a series come from one reading of it."""
    system = MetricsSystem(custom_metrics=["work", "size"], max_custom=10_000)
    done = threading.Event()

    def work() -> None:
        sizes = [system.collector.histogram("size", {"kind": kind}) for kind in "abc"]
        number = 0
        while not done.is_set():
            number += 1
            for size in sizes:
                size.observe(number % 100)
            system.collector.record_timer("http", number % 10, tags={"route": str(number % 7)})
            with system.measure("work", {"kind": str(number % 3)}) as measured:
                measured.error_type = "bad" if number % 2 else None

    threads = [threading.Thread(target=work, daemon=True) for _ in range(3)]
    try:
        with switching(1e-5):
            for thread in threads:
                thread.start()
            for _ in range(100):
                time.sleep(0.001)
                _check_one_reading(*system.build_snapshot())
    finally:
        done.set()
        for thread in threads:
            thread.join()


def _check_one_reading(snapshot: PerformanceSnapshot, report: BuildReport) -> None:
    flat = snapshot.metrics.flat()
    for key, distribution in report.distributions.items():
        separator = "." if key == "latency" else "/"
        p95, p99 = distribution.quantiles(0.95, 0.99)
        expected = {"mean": distribution.mean, "p95": p95, "p99": p99}
        if key != "latency":
            expected["count"] = distribution.count
        assert {statistic: flat[f"{key}{separator}{statistic}"] for statistic in expected} == expected


@pytest.mark.heavy
def test_the_latency_has_the_records_of_its_series() -> None:
    """While its timer is recorded with tags, the latency is the sum of the series in the snapshot."""
    system = MetricsSystem(latency_metric="http")
    done = threading.Event()

    def work() -> None:
        while not done.is_set():
            for number in range(10):
                system.collector.record_timer("http", number, tags={"route": str(number)})

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        for _ in range(100):
            time.sleep(0.001)
            snapshot, report = system.build_snapshot()
            counts = [value for key, value in snapshot.metrics.custom.items() if key.endswith("/count")]
            assert sum(counts) == report.distributions["latency"].count
    finally:
        done.set()
        thread.join()


def test_a_third_party_timer_keeps_its_distributions() -> None:
    """If the aggregator does not know the operation, the other distributions are in the report."""
    stats = {"far.away": {"count": 3.0, "avg": 1.0}}
    system = MetricsSystem(timer=_Timer(stats), clock=ManualClock(), latency_metric="far.away")
    system.collector.record_histogram("payload", 1)
    snapshot, report = system.build_snapshot()
    assert snapshot.metrics.latency == LatencyMetrics(mean=1.0)
    assert set(report.distributions) == {"custom.payload"}
