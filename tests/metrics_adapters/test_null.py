"""The null adapter accepts everything, keeps nothing, and measures timings."""

from __future__ import annotations

import asyncio
import csv
import gc
import io
import json
import math
import threading
import time
import weakref
from datetime import UTC, datetime, timedelta

import pytest
from typing_extensions import get_protocol_members

from metrics_adapters.null import NullAggregator, NullCollector, NullMonitor, NullTimer, NullTracker
from metrics_framework import MetricsSystem, protocols
from metrics_framework.errors import InvalidInputError, SnapshotError, UnknownMetricError, UnknownTimerError
from metrics_framework.plugins import load_adapter
from metrics_framework.values import MetricType, MetricUnit, TimingResult

PARTS = {
    "null.collector": (NullCollector, protocols.MetricCollector),
    "null.timer": (NullTimer, protocols.PerformanceTimer),
    "null.tracker": (NullTracker, protocols.SuccessFailureTracker),
    "null.monitor": (NullMonitor, protocols.ResourceMonitor),
    "null.aggregator": (NullAggregator, protocols.MetricsAggregator),
}


class Output:
    """An output that lists its snapshots."""

    name = "output"

    def __init__(self) -> None:
        self.written = []

    def write(self, snapshot):
        """List the snapshot."""
        self.written.append(snapshot)


@pytest.fixture
def null() -> MetricsSystem:
    """Return a system of null adapters."""
    return MetricsSystem(
        collector=NullCollector(),
        timer=NullTimer(),
        tracker=NullTracker(),
        resource_monitor=NullMonitor(),
        aggregator=NullAggregator(),
    )


@pytest.mark.parametrize("name", PARTS)
def test_each_part_is_in_the_table_of_adapters(name):
    """An adapter's name loads its class, which needs no arguments."""
    expected, _ = PARTS[name]
    assert load_adapter(name) is expected
    assert isinstance(load_adapter(name)(), expected)


@pytest.mark.parametrize(("part", "protocol"), PARTS.values())
def test_each_part_fulfils_its_protocol(part, protocol):
    """Each class has every method of its Protocol."""
    assert isinstance(part(), protocol)
    assert all(callable(getattr(part(), name)) for name in get_protocol_members(protocol))


# -- the collector and the tracker -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["requests", "", None, 3, object()])
@pytest.mark.parametrize("tags", [None, {}, {"a": "b"}, {"": 3}, "a=b"])
def test_a_collector_accepts_anything(name, tags):
    """Valid and invalid input is dropped without an error, and names have no type."""
    collector = NullCollector()
    for number in (1, -1, math.nan, math.inf, 10**400, "many", None):
        assert collector.record_counter(name, number, tags) is None
        assert collector.record_gauge(name, number, tags) is None
        assert collector.record_histogram(name, number, tags) is None
        assert collector.record_timer(name, number, MetricUnit.BYTES, tags) is None
    assert collector.increment(name, tags) is None
    assert collector.decrement(name, tags) is None


def test_a_collector_has_the_defaults_of_the_protocol():
    """The same arguments are optional."""
    collector = NullCollector()
    collector.record_counter("x")
    collector.record_gauge("x", 1)
    collector.record_histogram("x", value=1)
    collector.record_timer(name="x", duration=1.0)
    collector.increment("x")
    collector.decrement("x")


@pytest.mark.parametrize("operation", ["push", "", None, 3])
def test_a_tracker_accepts_anything(operation):
    """Outcomes are dropped without an error, and the operation stays unknown."""
    tracker = NullTracker()
    assert tracker.record_success(operation) is None
    assert tracker.record_success(operation, {"a": object()}) is None
    assert tracker.record_failure(operation, "timeout") is None
    assert tracker.record_failure(operation, None, {"a": object()}) is None
    for ask in (tracker.get_success_rate, tracker.get_failure_breakdown):
        for window in (None, timedelta(minutes=5)):
            with pytest.raises(UnknownMetricError, match="keeps nothing") as caught:
                ask(operation, window)
            assert repr(operation) in str(caught.value)


# -- the timer ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("success", [True, False])
def test_a_timing_is_real(success):
    """A result has the real duration and times, and the metadata of the start."""
    timer, metadata = NullTimer(), {"branch": "main"}
    before, began = datetime.now(UTC), time.perf_counter_ns()
    timer_id = timer.start_timer("push", metadata)
    metadata["branch"] = "changed"
    inner = time.perf_counter_ns()
    time.sleep(0.03)
    waited = (time.perf_counter_ns() - inner) / 1e6
    result = timer.stop_timer(timer_id, success)
    passed = (time.perf_counter_ns() - began) / 1e6
    assert isinstance(result, TimingResult)
    assert 20 < waited <= result.duration <= passed
    assert (result.operation_name, result.unit) == ("push", MetricUnit.MILLISECONDS)
    assert type(result.operation_name) is str
    assert result.success is success
    assert result.metadata == {"branch": "main"}
    assert result.end_time - result.start_time == timedelta(milliseconds=result.duration)
    assert before <= result.end_time <= datetime.now(UTC)
    assert result.start_time.tzinfo is UTC


def test_an_id_can_be_stopped_once():
    """A second stop is an error that quotes the id."""
    timer = NullTimer()
    timer_id = timer.start_timer("push")
    assert timer.stop_timer(timer_id).success
    with pytest.raises(UnknownTimerError, match="no timer 'push' is running"):
        timer.stop_timer(timer_id)


@pytest.mark.parametrize("timer_id", ["push", "", None, 3])
def test_only_ids_of_start_timer_can_be_stopped(timer_id):
    """An equal string is an error too."""
    timer = NullTimer()
    timer.start_timer("push")
    with pytest.raises(UnknownTimerError):
        timer.stop_timer(timer_id)


def test_timers_of_one_operation_are_apart():
    """Two running timers of one operation are stopped independently, in any order."""
    timer = NullTimer()
    first, second = timer.start_timer("push", {"n": 1}), timer.start_timer("push", {"n": 2})
    assert isinstance(first, str)
    time.sleep(0.002)
    assert timer.stop_timer(first).metadata == {"n": 1}
    assert timer.stop_timer(second).metadata == {"n": 2}


def test_an_id_may_be_stopped_by_another_thread():
    """An id is valid in every thread."""
    timer, results = NullTimer(), []
    timer_id = timer.start_timer("push")
    thread = threading.Thread(target=lambda: results.append(timer.stop_timer(timer_id)))
    thread.start()
    thread.join()
    assert results[0].operation_name == "push"


def test_a_timer_that_is_never_stopped_leaves_nothing():
    """The timer does not reference ids."""

    class Kept:
        pass

    timer, kept = NullTimer(), Kept()
    gone = weakref.ref(kept)
    timer.start_timer("push", {"kept": kept})
    del kept
    gc.collect()
    assert gone() is None
    before = len(gc.get_objects())
    for _ in range(1000):
        timer.start_timer("push", {"n": 1})
    gc.collect()
    assert len(gc.get_objects()) - before < 100
    assert vars(timer) == {}


@pytest.mark.parametrize("name", ["", None, 3])
def test_a_timer_accepts_any_name(name):
    """Names that other timers refuse are timed."""
    timer = NullTimer()
    assert timer.stop_timer(timer.start_timer(name)).duration >= 0
    assert timer.time_operation(name, lambda: 7).metadata == {"result": 7}


def test_an_operation_is_timed():
    """`time_operation` calls once. The result has the duration, the metadata and the return value."""
    calls, metadata = [], {"a": 1}

    def operation():
        began = time.perf_counter_ns()
        time.sleep(0.03)
        calls.append((time.perf_counter_ns() - began) / 1e6)
        return "done"

    result = NullTimer().time_operation("push", operation, metadata)
    assert len(calls) == 1
    assert result.duration >= calls[0] > 20
    assert result.success
    assert result.metadata == {"a": 1, "result": "done"}
    assert metadata == {"a": 1}


def test_an_exception_of_an_operation_propagates():
    """The caller gets the same exception."""
    error = ValueError("no")

    def operation():
        raise error

    with pytest.raises(ValueError, match="no") as caught:
        NullTimer().time_operation("push", operation)
    assert caught.value is error


def test_a_timer_has_no_statistics():
    """A timed operation is unknown."""
    timer = NullTimer()
    timer.time_operation("push", lambda: None)
    with pytest.raises(UnknownMetricError, match="'push'"):
        timer.get_timing_stats("push")


# -- the monitor and the aggregator ------------------------------------------------------------------------


def test_a_monitor_reads_nothing_and_starts_no_thread():
    """There are no readings, and background monitoring does nothing."""
    monitor, threads = NullMonitor(), threading.active_count()
    assert monitor.get_memory_usage() == monitor.get_cpu_usage() == {}
    assert monitor.get_disk_usage() == monitor.get_disk_usage("/nowhere") == monitor.get_network_stats() == {}
    monitor.stop_resource_monitoring()
    monitor.start_resource_monitoring()
    monitor.start_resource_monitoring(-1)
    assert threading.active_count() == threads
    monitor.stop_resource_monitoring()


def test_an_aggregator_is_empty():
    """Lists are empty, and each metric is unknown."""
    aggregator = NullAggregator()
    assert aggregator.get_metrics_by_tag({}) == aggregator.get_metrics_by_tag({"a": "b"}) == []
    assert [aggregator.get_top_metrics(each, 3) for each in MetricType] == [[]] * 5
    for window in (None, timedelta(minutes=5)):
        with pytest.raises(UnknownMetricError, match="'hits'"):
            aggregator.get_metric_summary("hits", window)


def test_an_aggregator_exports_empty_documents():
    """Each format is a valid document."""
    aggregator = NullAggregator()
    assert json.loads(aggregator.export_metrics()) == {"metrics": []}
    assert json.loads(aggregator.export_metrics("json")) == {"metrics": []}
    assert aggregator.export_metrics("jsonl") == ""
    assert list(csv.DictReader(io.StringIO(aggregator.export_metrics("csv")))) == []
    assert aggregator.export_metrics("prometheus") == ""


@pytest.mark.parametrize("unknown", ["xml", "snapshot", None])
def test_an_unknown_format_is_an_error(unknown):
    """The error lists the known formats."""
    with pytest.raises(InvalidInputError, match="use one of json, jsonl, csv, prometheus"):
        NullAggregator().export_metrics(unknown)


# -- a system of nothing -----------------------------------------------------------------------------------


def test_a_system_of_nothing_is_healthy(null):
    """Without failures and readings it is healthy."""
    for _ in range(3):
        null.tracker.record_failure("push", "timeout")
    health = null.get_system_health()
    assert health.pop("uptime_seconds") > 0
    assert health == {
        "healthy": True,
        "error_rate": 0.0,
        "operations": 0,
        "series": 0,
        "recorded": 0,
        "rejected": 0,
        "overflowed": 0,
        "compiled": False,
        "memory_percent": 0.0,
        "cpu_percent": 0.0,
        "overhead_percent": 0.0,
    }


def test_a_system_of_nothing_exports_and_shows_nothing(null):
    """Exports and dashboards work. A snapshot without data is an error."""
    null.collector.increment("hits")
    assert json.loads(null.aggregator.export_metrics()) == {"metrics": []}
    assert isinstance(null.create_dashboard_data(), dict)
    with pytest.raises(SnapshotError):
        null.snapshot()


def test_a_system_of_nothing_is_configured_and_shut_down(null):
    """It can be configured, used and shut down, also twice."""
    threads = threading.active_count()
    with null:
        null.initialize_metrics({"collection_interval": 1, "retention_days": 7})
        asyncio.run(null.collect_metrics_async())
    null.shutdown_metrics()
    assert threading.active_count() == threads


def test_a_system_of_nothing_writes_no_snapshot(caplog):
    """At shutdown outputs get no snapshot, which is logged."""
    output = Output()
    null = MetricsSystem(
        collector=NullCollector(),
        timer=NullTimer(),
        tracker=NullTracker(),
        resource_monitor=NullMonitor(),
        aggregator=NullAggregator(),
        outputs=[output],
    )
    null.collector.increment("hits")
    assert asyncio.run(null.export_metrics_async(["output"])) == {"output": False}
    null.shutdown_metrics()
    assert output.written == []
    assert "snapshot not written" in caplog.text


def test_a_null_part_may_be_combined_with_others():
    """A system with the null monitor has no readings, and everything else."""
    output = Output()
    with MetricsSystem(resource_monitor=NullMonitor(), outputs=[output]) as metrics:
        metrics.collector.increment("hits")
    (snapshot,) = output.written
    assert snapshot.metrics.flat() == {"custom.hits": 1.0}
