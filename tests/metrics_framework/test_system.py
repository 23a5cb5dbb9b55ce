"""The facade: five parts behind one object, with any parts that implement the Protocols."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import math
import re
import subprocess
import sys
import threading
import time
import weakref
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from metrics_adapters.in_memory import InMemoryAggregator, InMemoryCollector, InMemoryTimer, InMemoryTracker
from metrics_adapters.null import NullMonitor
from metrics_adapters.resources import PsutilMonitor
from metrics_adapters.snapshot_writer import SnapshotWriter
from metrics_framework import (
    ClosedError,
    ConfigurationError,
    Environment,
    InvalidInputError,
    MetricsSystem,
    MetricType,
    MetricUnit,
    MetricValue,
    PerformanceSnapshot,
    Rule,
    SnapshotError,
    Thresholds,
    TimingResult,
    UnknownMetricError,
    protocols,
    read_snapshot,
)
from metrics_framework.clock import ManualClock
from metrics_framework.export import exporter
from metrics_framework.recording import Store
from metrics_framework.runtime.deadline import seconds_left
from metrics_framework.snapshots.provenance import Provenance
from tests.threads import new_threads

PATIENCE = 20.0


# Foreign parts, written from the contracts alone, without a base class or a store.


class ForeignCollector:
    """A collector that remembers its calls."""

    def __init__(self):
        self.calls = []

    def record_counter(self, name, value=1, tags=None):
        """Remember the call."""
        self.calls.append(("counter", name, value, tags))

    def record_gauge(self, name, value, tags=None):
        """Remember the call."""
        self.calls.append(("gauge", name, value, tags))

    def record_histogram(self, name, value, tags=None):
        """Remember the call."""
        self.calls.append(("histogram", name, value, tags))

    def record_timer(self, name, duration, unit=MetricUnit.MILLISECONDS, tags=None):
        """Remember the call."""
        self.calls.append(("timer", name, duration, tags))

    def increment(self, name, tags=None):
        """Remember the call."""
        self.calls.append(("increment", name, 1, tags))

    def decrement(self, name, tags=None):
        """Remember the call."""
        self.calls.append(("decrement", name, -1, tags))


class ForeignTimer:
    """A timer for which everything takes 5 milliseconds."""

    def start_timer(self, operation_name, metadata=None):
        """Return the name as the id."""
        return operation_name

    def stop_timer(self, timer_id, success=True):
        """Return a fixed result."""
        now = datetime(2026, 1, 1, tzinfo=UTC)
        return TimingResult(timer_id, 5.0, MetricUnit.MILLISECONDS, now, now, success, {})

    def time_operation(self, operation_name, operation, metadata=None):
        """Call the operation and return a fixed result."""
        operation()
        return self.stop_timer(operation_name)

    def get_timing_stats(self, operation_name):
        """Return fixed statistics."""
        return {"count": 2, "avg": 5.0, "p50": 4.0, "p95": 6.0, "p99": 7.0, "rate": 0.5}


class ForeignTracker:
    """A tracker for which three of four events succeed."""

    def record_success(self, operation, metadata=None):
        """Do nothing."""

    def record_failure(self, operation, error_type, metadata=None):
        """Do nothing."""

    def get_success_rate(self, operation, time_window=None):
        """Return a fixed rate."""
        return 0.75

    def get_failure_breakdown(self, operation, time_window=None):
        """Return a fixed breakdown."""
        return {"timeout": 1}


class ForeignMonitor:
    """A monitor whose readings the test chooses, and which remembers when it was started."""

    def __init__(self, memory=None, cpu=None):
        self.memory = {"percent": 40.0, "process_rss": 50e6} if memory is None else memory
        self.cpu = {"percent": 30.0, "process_percent": 80.0, "count": 4.0} if cpu is None else cpu
        self.calls = []

    def get_memory_usage(self):
        """Return the chosen memory."""
        return self.memory

    def get_cpu_usage(self):
        """Return the chosen CPU."""
        return self.cpu

    def get_disk_usage(self, path="/"):
        """Return nothing."""
        return {}

    def get_network_stats(self):
        """Return nothing."""
        return {}

    def start_resource_monitoring(self, interval=60.0):
        """Remember the interval."""
        self.calls.append(interval)

    def stop_resource_monitoring(self):
        """Remember the stop."""
        self.calls.append("stop")


class ForeignAggregator:
    """An aggregator with values of the test's choice."""

    def __init__(self, *values):
        self.values = list(values)

    def get_metric_summary(self, metric_name, time_window=None):
        """Know no summary."""
        raise UnknownMetricError(metric_name)

    def get_metrics_by_tag(self, tag_filter):
        """Return the values."""
        return [value for value in self.values if tag_filter.items() <= value.tags.items()]

    def export_metrics(self, format="json"):
        """Return an empty text."""
        return ""

    def get_top_metrics(self, metric_type, limit=10):
        """Return the values of a type."""
        return [value for value in self.values if value.metric_type is metric_type][:limit]


FOREIGN = {
    "collector": (protocols.MetricCollector, ForeignCollector),
    "timer": (protocols.PerformanceTimer, ForeignTimer),
    "tracker": (protocols.SuccessFailureTracker, ForeignTracker),
    "resource_monitor": (protocols.ResourceMonitor, ForeignMonitor),
    "aggregator": (protocols.MetricsAggregator, ForeignAggregator),
}


class Output:
    """An output that keeps its snapshots, or fails."""

    def __init__(self, name="output", error=None):
        self.name = name
        self.error = error
        self.written: list[PerformanceSnapshot] = []

    def write(self, snapshot):
        """Keep the snapshot, or fail."""
        if self.error is not None:
            raise self.error
        self.written.append(snapshot)


def metric(name: str, value: float, metric_type: MetricType, **metadata: Any) -> MetricValue:
    """Return a value as an aggregator reports it."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return MetricValue(name, value, metric_type, MetricUnit.COUNT, now, {}, metadata)


@pytest.fixture
def system(clock: ManualClock):
    """Return a system on the test's clock with a monitor that reads the same everywhere."""
    system = MetricsSystem(resource_monitor=ForeignMonitor(), clock=clock)
    yield system
    system.shutdown_metrics()


# -- composition -------------------------------------------------------------------------------------------


@pytest.mark.smoke
def test_the_embedded_default_needs_nothing():
    """A system without arguments records in memory and builds snapshots."""
    with MetricsSystem() as metrics:
        metrics.collector.record_counter("orders", 3)
        metrics.timer.time_operation("checkout", lambda: None)
        metrics.tracker.record_success("checkout")
        snapshot = metrics.snapshot(environment="local")
    assert snapshot.metrics.custom["orders"] == 3
    assert snapshot.metrics.latency is not None
    assert snapshot.metrics.memory_mb > 1
    assert PerformanceSnapshot.from_dict(json.loads(json.dumps(snapshot.to_dict()))) == snapshot


def test_a_system_satisfies_both_contracts(system):
    """The facade is a `MetricsSystem` and an `AsyncMetricsSystem`, and its parts fit their Protocols."""
    assert isinstance(system, protocols.MetricsSystem)
    assert isinstance(system, protocols.AsyncMetricsSystem)
    for part, (protocol, _) in FOREIGN.items():
        assert isinstance(getattr(system, part), protocol)


def test_parts_cannot_be_replaced_later(system):
    """The parts of a system are set in the constructor only."""
    for part in FOREIGN:
        with pytest.raises(AttributeError):
            setattr(system, part, None)


@pytest.mark.parametrize("part", FOREIGN)
def test_any_part_may_be_foreign(part):
    """A part with the methods of its Protocol is used unchanged, beside default parts."""
    given = FOREIGN[part][1]()
    with MetricsSystem(**{part: given}) as metrics:
        assert getattr(metrics, part) is given
        metrics.collector.increment("orders")
        metrics.timer.stop_timer(metrics.timer.start_timer("work"))
        metrics.tracker.record_success("work")
        metrics.snapshot()


def foreign_system() -> MetricsSystem:
    """Return a system of foreign parts alone."""
    return MetricsSystem(
        collector=ForeignCollector(),
        timer=ForeignTimer(),
        tracker=ForeignTracker(),
        resource_monitor=ForeignMonitor(),
        aggregator=ForeignAggregator(
            metric("orders", 3, MetricType.COUNTER),
            metric("checkout", 6.0, MetricType.TIMER, count=2, operation=True),
            metric("checkout", 1.0, MetricType.RATE, count=4, success_rate=0.75, operation=True),
        ),
    )


def test_a_system_of_foreign_parts_creates_no_store(monkeypatch):
    """Without default parts no store is created, and no query needs one."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a store was made")

    monkeypatch.setattr(Store, "__init__", refuse)
    system = foreign_system()
    assert PerformanceSnapshot.from_dict(json.loads(json.dumps(system.snapshot().to_dict())))
    assert system.create_dashboard_data("performance")["panels"]
    health = system.get_system_health()
    assert {key: value for key, value in health.items() if key != "uptime_seconds"} == {
        "healthy": True,
        "error_rate": 0.25,
        "operations": 4,
        "series": 3,
        "recorded": 0,
        "rejected": 0,
        "overflowed": 0,
        "compiled": False,
        "memory_percent": 40.0,
        "cpu_percent": 30.0,
        "overhead_percent": 0.0,
    }
    system.initialize_metrics({"collection_interval": 3_600})
    system.shutdown_metrics()
    with pytest.raises(AssertionError, match="a store was made"):
        MetricsSystem()


def test_all_parts_may_be_foreign():
    """A system of foreign parts alone answers every query through the Protocols."""
    system = foreign_system()
    snapshot = system.snapshot()
    assert snapshot.metrics.flat() == {
        "latency.mean": 5.0,
        "latency.p50": 4.0,
        "latency.p95": 6.0,
        "latency.p99": 7.0,
        "throughput": 0.5,
        "memory_mb": 50.0,
        "cpu_percent": 20.0,
        **{f"custom.{key}": value for key, value in snapshot.metrics.custom.items()},
    }
    assert snapshot.metrics.custom["orders"] == 3
    assert system.get_system_health()["error_rate"] == 0.25
    assert system.create_dashboard_data()["panels"]


@pytest.mark.parametrize(
    ("part", "method"),
    [
        (part, method)
        for part, (_, kind) in FOREIGN.items()
        for method in vars(kind)
        if not method.startswith("_")
    ],
)
def test_a_part_that_lacks_a_method_is_rejected(part, method):
    """The error of the constructor names the Protocol and the missing method."""
    protocol, kind = FOREIGN[part]

    class Incomplete(kind):
        def __repr__(self) -> str:
            return "<incomplete part>"

    setattr(Incomplete, method, None)
    with pytest.raises(InvalidInputError) as caught:
        MetricsSystem(**{part: Incomplete()})
    assert str(caught.value) == f"<incomplete part> is not a {protocol.__name__}: it lacks {method}"


def test_a_part_in_the_wrong_place_is_rejected():
    """The error lists all missing methods."""
    with pytest.raises(InvalidInputError, match="record_failure, record_success"):
        MetricsSystem(tracker=ForeignTimer())


@pytest.mark.parametrize(
    "kinds",
    [
        {"collector": InMemoryCollector, "aggregator": InMemoryAggregator},
        {"timer": InMemoryTimer, "tracker": InMemoryTracker},
        {
            "collector": InMemoryCollector,
            "timer": InMemoryTimer,
            "tracker": InMemoryTracker,
            "aggregator": InMemoryAggregator,
        },
    ],
)
def test_parts_with_different_stores_are_rejected(kinds):
    """The error names the parts that cannot read each other's records, and the remedy."""
    with pytest.raises(InvalidInputError) as caught:
        MetricsSystem(**{part: kind() for part, kind in kinds.items()})
    assert " and ".join(kinds) in str(caught.value)
    assert "store=" in str(caught.value)
    store = Store()
    MetricsSystem(**{part: kind(store) for part, kind in kinds.items()}).shutdown_metrics()


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ("collector", InMemoryCollector),
        ("timer", InMemoryTimer),
        ("tracker", InMemoryTracker),
        ("aggregator", InMemoryAggregator),
    ],
)
def test_the_default_parts_share_a_given_parts_store(clock, part, kind):
    """If one part has a store, all default parts use it and its clock."""
    store = Store(clock)
    with MetricsSystem(**{part: kind(store)}, resource_monitor=ForeignMonitor()) as metrics:
        metrics.collector.increment("orders")
        metrics.timer.time_operation("work", lambda: clock.advance(2))
        metrics.tracker.record_success("work")
        assert {value.name for value in metrics.aggregator.get_metrics_by_tag({})} == {"orders", "work"}
        assert store.recorded == 3
        assert metrics.get_system_health()["uptime_seconds"] == 2.0
        assert metrics.snapshot().metadata.timestamp == datetime(2026, 1, 1, 0, 0, 2, tzinfo=UTC)


def test_the_default_monitor_records_into_the_systems_collector():
    """Readings in the background become gauges of the system's collector."""
    recorded = threading.Event()

    class Collector(ForeignCollector):
        def record_gauge(self, name, value, tags=None):
            recorded.set()

    with MetricsSystem(collector=Collector()) as metrics:
        assert isinstance(metrics.resource_monitor, PsutilMonitor)
        metrics.initialize_metrics({"collection_interval": 3_600})
        assert recorded.wait(PATIENCE)


# -- life --------------------------------------------------------------------------------------------------


def test_leaving_the_context_shuts_down(clock):
    """The end of the block writes the final snapshot, with all records of the block."""
    output, monitor = Output(), ForeignMonitor()
    with MetricsSystem(outputs=[output], resource_monitor=monitor, clock=clock) as metrics:
        metrics.collector.record_counter("orders", 3)
        assert output.written == []
    (snapshot,) = output.written
    assert snapshot.metrics.custom["orders"] == 3
    assert monitor.calls == ["stop"]


def test_leaving_the_async_context_shuts_down(clock):
    """The end of an `async with` block does the same, off the event loop."""
    threads = []

    class Here(Output):
        def write(self, snapshot):
            threads.append(threading.current_thread())
            super().write(snapshot)

    output = Here()

    async def main() -> None:
        async with MetricsSystem(outputs=[output], clock=clock) as metrics:
            metrics.collector.record_counter("orders", 3)

    asyncio.run(main())
    assert output.written[0].metrics.custom["orders"] == 3
    assert threads != [threading.main_thread()]


@pytest.mark.parametrize("error", [ValueError("the application's own"), KeyboardInterrupt()])
def test_an_error_in_the_block_propagates(clock, error):
    """Shutdown does not hide the exception, and the snapshot is still written."""
    output = Output()
    with pytest.raises(type(error)) as caught, MetricsSystem(outputs=[output], clock=clock):
        raise error
    assert caught.value is error
    assert len(output.written) == 1

    async def main() -> None:
        async with MetricsSystem(outputs=[output], clock=clock):
            raise ValueError("the application's own")

    with pytest.raises(ValueError, match="own"):
        asyncio.run(main())
    assert len(output.written) == 2


def test_a_second_shutdown_does_nothing(clock):
    """The final snapshot is written once to each output."""
    outputs, monitor = [Output("one"), Output("two")], ForeignMonitor()
    system = MetricsSystem(outputs=iter(outputs), resource_monitor=monitor, clock=clock)
    with system:
        system.shutdown_metrics()
        system.shutdown_metrics()
    assert [len(output.written) for output in outputs] == [1, 1]
    assert outputs[0].written == outputs[1].written
    assert monitor.calls == ["stop"]


@pytest.mark.parametrize("error", [OSError("the disk is full"), RuntimeError("a bug")])
def test_a_failing_output_does_not_harm_another(clock, caplog, monkeypatch, error):
    """A failing output is logged; the application and other outputs are not affected."""
    monkeypatch.setattr(exporter, "FINAL_PAUSE_SECONDS", 0)
    before, after = Output("before"), Output("after")
    outputs = [before, Output("failing", error), after]
    MetricsSystem(outputs=outputs, clock=clock).shutdown_metrics()
    assert (len(before.written), len(after.written)) == (1, 1)
    record, *lost = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "failing" in record.getMessage()
    assert ["snapshots lost" in record.getMessage() for record in lost] == [True] * isinstance(error, OSError)
    assert str(error) in record.getMessage()


def test_a_monitor_that_cannot_stop_costs_no_snapshot(clock, caplog):
    """The final snapshot is written although the monitor fails to stop, which is logged."""

    class Stuck(ForeignMonitor):
        def stop_resource_monitoring(self):
            raise RuntimeError("stuck")

    output = Output()
    MetricsSystem(resource_monitor=Stuck(), outputs=[output], clock=clock).shutdown_metrics()
    assert len(output.written) == 1
    assert ["stuck" in record.getMessage() for record in caplog.records] == [True]


def test_shutting_down_without_any_measurement_raises_nothing(clock, caplog):
    """A shutdown without a snapshot is logged."""
    output = Output()
    monitor = ForeignMonitor(memory={}, cpu={})
    MetricsSystem(resource_monitor=monitor, outputs=[output], clock=clock).shutdown_metrics()
    assert output.written == []
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_the_shutdown_ends_in_time_whatever_the_outputs_do(clock, caplog):
    """An output that hangs is named, and the others are written. The limit is an argument or a key."""
    go_on = threading.Event()

    class Hanging(Exporter):
        name = "hanging"

        def export(self, system):
            go_on.wait(PATIENCE)

    output = Output()
    system = MetricsSystem(outputs=[Hanging(), output], clock=clock, shutdown_timeout=PATIENCE)
    system.initialize_metrics({"shutdown_timeout": 0.2})
    begin = time.monotonic()
    system.shutdown_metrics()
    assert time.monotonic() - begin < PATIENCE
    assert len(output.written) == 1
    reason = system.export_failures["hanging"]
    assert re.fullmatch(r"no answer within 0\.1\d* seconds", reason)
    assert f"output='hanging' error='{reason}'" in caplog.text
    go_on.set()


def test_outputs_get_the_whole_time_of_the_shutdown(clock):
    """Also if it is longer than the default."""
    seconds: list[float] = []

    class Asking(Exporter):
        name = "asking"

        def export(self, system):
            seconds.append(seconds_left())

    MetricsSystem(outputs=[Asking()], clock=clock, shutdown_timeout=60).shutdown_metrics()
    assert seconds[0] > 50


def test_a_monitor_that_hangs_leaves_time_to_the_outputs(clock):
    """Background work gets a part of the time, and is left to its daemon thread."""
    go_on, entered, output = threading.Event(), threading.Event(), Output()

    class Hanging(ForeignMonitor):
        def get_memory_usage(self):
            entered.set()
            if threading.current_thread().name.startswith("metrics-metrics"):
                go_on.wait(PATIENCE)
            return super().get_memory_usage()

    system = MetricsSystem(resource_monitor=Hanging(), outputs=[output], clock=clock, shutdown_timeout=1)
    system.initialize_metrics({"collection_interval": 3_600})
    assert entered.wait(PATIENCE)
    system.shutdown_metrics()
    assert len(output.written) == 1
    go_on.set()


def test_a_monitor_that_does_not_stop_delays_no_shutdown(clock, caplog):
    """Its call is left to a daemon thread, and the log states it."""
    go_on, output = threading.Event(), Output()

    class Hanging(ForeignMonitor):
        def stop_resource_monitoring(self):
            go_on.wait(10 * PATIENCE)

    system = MetricsSystem(resource_monitor=Hanging(), outputs=[output], clock=clock, shutdown_timeout=1)
    begin = time.monotonic()
    system.shutdown_metrics()
    assert time.monotonic() - begin < PATIENCE
    assert len(output.written) == 1
    assert "resource monitoring not stopped" in caplog.text
    go_on.set()


def test_an_output_may_shut_down_a_system_that_shuts_down(clock):
    """It does not wait for the shutdown, which waits for it."""

    class Last(Output):
        def write(self, snapshot):
            system.shutdown_metrics()
            super().write(snapshot)

    output = Last()
    system = MetricsSystem(outputs=[output], clock=clock, shutdown_timeout=PATIENCE)
    system.shutdown_metrics()
    assert len(output.written) == 1


def test_a_system_has_one_with_block(clock):
    """A second block, inside or after the first, is an error that states the remedy."""
    system = MetricsSystem(clock=clock)
    with system, pytest.raises(InvalidInputError, match="in a with block already"), system:
        pass
    with pytest.raises(ClosedError, match="create a new one"), system:
        pass

    async def again():
        async with system:
            pass

    with pytest.raises(ClosedError):
        asyncio.run(again())


def test_work_after_the_shutdown_is_an_error(clock):
    """Nothing would be collected or exported."""
    system = MetricsSystem(outputs=[Output()], clock=clock)
    system.shutdown_metrics()
    for work in (system.collect_metrics_async, partial(system.export_metrics_async, ["output"])):
        with pytest.raises(ClosedError):
            asyncio.run(work())


@pytest.mark.parametrize(
    "use",
    [
        lambda system: system.snapshot(),
        lambda system: system.get_system_health(),
        lambda system: system.create_dashboard_data(),
        lambda system: system.measure("load"),
    ],
)
def test_use_after_the_shutdown_is_logged_once(clock, caplog, use):
    """The application goes on, and the log has the remedy."""
    system = MetricsSystem(clock=clock)
    system.timer.time_operation("load", lambda: None)
    system.measure("load")
    system.shutdown_metrics()
    assert caplog.records == []
    for _ in range(2):
        use(system)
    (record,) = [record for record in caplog.records if "after its shutdown" in record.getMessage()]
    assert "call shutdown_metrics() last" in record.getMessage()


def run_program(code):
    """Return what a program writes to standard error."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0
    return done.stderr


@pytest.mark.slow
def test_records_after_the_shutdown_are_reported_at_the_exit():
    """Without a further system on the store, these records are lost."""
    begin = "from metrics_framework import MetricsSystem\nfirst = MetricsSystem()\nfirst.shutdown_metrics()\n"
    record = "first.collector.increment('orders')\n"
    assert "use='recording'" in run_program(begin + record)
    assert run_program(begin) == ""
    assert run_program(begin + "second = MetricsSystem(collector=first.collector)\n" + record) == ""


@pytest.mark.slow
def test_outputs_that_never_receive_anything_are_reported():
    """The log has their names and the remedy, when the system is garbage or at the exit."""
    begin = (
        "import gc\nfrom metrics_framework import MetricsSystem\n"
        "from metrics_adapters.snapshot_writer import SnapshotWriter\n"
        "system = MetricsSystem(outputs=[SnapshotWriter('nowhere')])\n"
    )
    garbage = (
        "import structlog, sys, threading\nlogged = threading.Event()\n"
        "def write(logger, method, event):\n"
        "    print(event, file=sys.stderr, flush=True)\n    logged.set()\n    raise structlog.DropEvent\n"
        "structlog.configure(processors=[write])\ndel system\ngc.collect()\nassert logged.wait(60)\n"
    )
    for end in ("", garbage):
        said = run_program(begin + end)
        assert said.count("outputs never received anything") == 1
        assert "['snapshot_writer']" in said
        assert "shutdown_on_exit=True" in said


def test_records_can_be_read_after_shutdown(clock):
    """After shutdown, records can still be read for a last report."""
    system = MetricsSystem(clock=clock)
    system.collector.increment("orders")
    system.shutdown_metrics()
    assert system.aggregator.get_metric_summary("orders")["total"] == 1
    assert system.snapshot().metrics.custom["orders"] == 1


def test_streams_end_with_the_system(system):
    """`async for` over a stream yields all records until shutdown, and then ends."""

    async def main() -> list[str]:
        stream = system.metrics_stream()
        found = []
        async with asyncio.timeout(PATIENCE):
            system.collector.increment("first")
            async for value in stream:
                found.append(value.name)
                system.collector.increment("last")
                await asyncio.to_thread(system.shutdown_metrics)
            found += [f"{value.name} after the end" async for value in system.metrics_stream()]
        return found

    assert asyncio.run(main()) == ["first", "last"]


class Exporter:
    """An output that gets the system, or fails."""

    name = "exporter"

    def __init__(self, error=None):
        self.error = error
        self.systems = []

    def export(self, system):
        """Keep the system, or fail."""
        if self.error is not None:
            raise self.error
        self.systems.append(system)


def test_an_output_may_take_the_system():
    """An output with `export` gets the system at shutdown, even if there is no snapshot."""
    exporter, output = Exporter(), Output()
    made = MetricsSystem(resource_monitor=ForeignMonitor({}, {}), outputs=[exporter, output])
    with made:
        assert exporter.systems == []
    assert (exporter.systems, output.written) == ([made], [])


def test_no_snapshot_is_built_for_system_outputs(monkeypatch):
    """A snapshot is built only if an output takes snapshots."""
    exporter = Exporter()
    made = MetricsSystem(resource_monitor=ForeignMonitor(), outputs=[exporter])
    monkeypatch.setattr(made, "snapshot", lambda: pytest.fail("a snapshot was made"))
    assert asyncio.run(made.export_metrics_async(["exporter"])) == {"exporter": True}


def test_outputs_of_both_kinds_fail_independently(caplog):
    """A failing output is logged and `False`; outputs of the other kind are written."""
    exporter, output = Exporter(RuntimeError("full")), Output()
    made = MetricsSystem(resource_monitor=ForeignMonitor(), outputs=[exporter, output])
    made.timer.time_operation("load", lambda: None)
    answer = asyncio.run(made.export_metrics_async(["exporter", "output"]))
    assert answer == {"exporter": False, "output": True}
    assert len(output.written) == 1
    assert "event='metrics not exported' output='exporter' error=\"RuntimeError('full')\"" in caplog.text
    output.error, exporter.error = OSError("lost"), None
    answer = asyncio.run(made.export_metrics_async(["output", "exporter"]))
    assert answer == {"exporter": True, "output": False}


@pytest.mark.parametrize("wrong", [object(), Output(name=3), "snapshot_writer", SnapshotWriter], ids=type)
def test_an_output_without_a_name_or_a_write_method_is_rejected(wrong):
    """An invalid output is rejected by the constructor, not at shutdown."""
    if wrong is SnapshotWriter:
        wrong = type("NoWrite", (), {"name": "x", "__repr__": lambda self: "<no write>"})()
    with pytest.raises(InvalidInputError, match="is not an output"):
        MetricsSystem(outputs=[wrong])


# -- at an interval ------------------------------------------------------------------------------------------


class Counting(Output):
    """An output that signals a number of writes, and fails on demand."""

    def __init__(self, name="counting"):
        super().__init__(name)
        self.tries = 0
        self.changed = threading.Condition()

    def write(self, snapshot):
        """Count, then write."""
        with self.changed:
            self.tries += 1
            self.changed.notify_all()
        super().write(snapshot)

    def wait(self, tries):
        """Wait for a number of further attempts to write."""
        with self.changed:
            until = self.tries + tries
            assert self.changed.wait_for(lambda: self.tries >= until, PATIENCE)


def background_threads() -> list[threading.Thread]:
    """Return the threads that the library has started in this test."""
    return new_threads("metrics-")


def test_an_interval_reads_the_machine_and_writes_snapshots(clock):
    """At every interval one thread records resources and writes a snapshot to each output."""
    output, other, monitor = Counting(), Counting("other"), ForeignMonitor()
    with MetricsSystem(outputs=[output, other], resource_monitor=monitor, clock=clock) as system:
        system.initialize_metrics({"collection_interval": 0.001})
        output.wait(3)
        names = {"metrics-metrics-collection", "metrics-output counting", "metrics-output other"}
        assert {thread.name for thread in background_threads()} >= names
        assert system.aggregator.get_metric_summary("process.memory.usage")["last"] == 50e6
        assert monitor.calls == []  # one thread reads, not two
    assert ended(background_threads())
    tries = output.tries
    assert len(output.written) == tries
    # An output that is still busy is skipped, so only the final snapshot is that of both.
    assert other.written[-1] == output.written[-1]
    threading.Event().wait(0.02)
    assert output.tries == tries
    assert monitor.calls == ["stop"]


def test_resources_are_read_at_once_and_the_first_snapshot_is_an_interval_later():
    """Nothing is measured when the interval starts, so nothing is written."""
    output, read = Output(), threading.Event()

    class Monitor(ForeignMonitor):
        def get_cpu_usage(self):
            read.set()
            return {"percent": 7.0}

    system = MetricsSystem(outputs=[output], resource_monitor=Monitor())
    system.initialize_metrics({"collection_interval": 3_600})
    assert read.wait(PATIENCE)
    system.shutdown_metrics()
    assert len(output.written) == 1  # the final one


@pytest.mark.slow
def test_background_work_runs_until_the_shutdown(clock):
    """A system that the application does not keep exports until `shutdown_metrics`, and is garbage then."""
    output = Counting()

    def make():
        system = MetricsSystem(outputs=[output], resource_monitor=ForeignMonitor(), clock=clock)
        system.initialize_metrics({"collection_interval": 0.001})
        return weakref.ref(system)

    system = make()
    for _ in range(3):
        gc.collect()
        output.wait(3)
    system().shutdown_metrics()
    assert ended(background_threads())
    gc.collect()
    assert system() is None


def test_an_unused_system_is_garbage(clock):
    """Without an interval there is no background work: the threads of its outputs end with the system."""
    system = weakref.ref(MetricsSystem(outputs=[Output()], clock=clock))
    gc.collect()
    assert system() is None
    assert ended(background_threads())


def ended(threads):
    """Wait for threads to end."""
    for thread in threads:
        thread.join(PATIENCE)
    return not any(thread.is_alive() for thread in threads)


def test_a_new_interval_replaces_the_first(clock):
    """A new interval applies immediately, with one thread; the same interval changes nothing."""
    output = Counting()
    with MetricsSystem(outputs=[output], resource_monitor=ForeignMonitor(), clock=clock) as system:
        system.initialize_metrics({"collection_interval": 3_600})
        first = set(background_threads())
        system.initialize_metrics({"collection_interval": 3_600})
        system.initialize_metrics({"max_custom": 5})
        assert set(background_threads()) == first
        system.initialize_metrics({"collection_interval": 0.001})
        (gone,) = first - set(background_threads())
        assert gone.name == "metrics-metrics-collection"
        assert len(background_threads()) == len(first)
        output.wait(2)


def test_a_failing_output_is_logged_once_until_it_succeeds(clock, caplog):
    """At intervals a failing output does not affect the others or flood the log."""
    failing, good = Counting("failing"), Counting("good")

    def failures() -> list[str]:
        messages = [record.getMessage() for record in caplog.records]
        return [message for message in messages if "snapshot not written" in message]

    failing.error = OSError("the disk is full")
    with MetricsSystem(outputs=[failing, good], resource_monitor=ForeignMonitor(), clock=clock) as system:
        system.initialize_metrics({"collection_interval": 0.001})
        good.wait(5)
        wait_for_tries(failing, 3, good, clock)
        assert ["the disk is full" in failure for failure in failures()] == [True]
        failing.error = None
        wait_for_tries(failing, 2, good, clock)
        failing.error = OSError("the disk is full again")
        wait_for_tries(failing, 3, good, clock)
        assert ["again" in failure for failure in failures()] == [False, True]
        failing.error = None
        wait_for_tries(failing, 2, good, clock)
    assert len(good.written) == good.tries


def wait_for_tries(failing, tries, good, clock):
    """Wait for a number of further attempts, advancing the clock past the pauses after failures."""
    until = failing.tries + tries
    while failing.tries < until:
        clock.advance(300)
        good.wait(1)


@pytest.mark.slow
def test_logging_that_raises_stops_nothing(clock, capsys):
    """Exports, reads and the shutdown go on, and the dropped events are counted on standard error."""

    class Raising(logging.Handler):
        def emit(self, record):
            raise LookupError("request_id")

    failing, good, handler = Counting("failing"), Counting("good"), Raising()
    failing.error = OSError("the disk is full")
    logging.getLogger("metrics_framework").addHandler(handler)
    try:
        system = MetricsSystem(outputs=[failing, good], resource_monitor=ForeignMonitor(), clock=clock)
        system.initialize_metrics({"collection_interval": 0.001})
        good.wait(5)
        failing.wait(3)
        assert system.get_system_health()["healthy"]
        system.shutdown_metrics()
    finally:
        logging.getLogger("metrics_framework").removeHandler(handler)
    assert len(good.written) == good.tries
    assert "logging raised LookupError('request_id'), dropped the error 'snapshot not written'" in (
        capsys.readouterr().err
    )


def test_a_failing_monitor_costs_no_snapshot(clock, caplog):
    """Snapshots are written although resources cannot be read, which is logged once."""

    class Broken(ForeignMonitor):
        def get_memory_usage(self):
            raise RuntimeError("no memory known")

    output = Counting()
    with MetricsSystem(outputs=[output], resource_monitor=Broken(), clock=clock) as system:
        system.collector.increment("orders")
        system.initialize_metrics({"collection_interval": 0.001})
        output.wait(4)
        asyncio.run(system.collect_metrics_async())
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "no memory known" in caplog.text
    assert output.written[0].metrics.custom["orders"] == 1


def test_an_interval_without_measurements_is_not_an_error(clock, caplog):
    """Without a snapshot to write, nothing is written and nothing is logged."""
    asked = threading.Event()

    class Monitor(ForeignMonitor):
        calls_left = 5

        def get_memory_usage(self):
            self.calls_left -= 1
            if self.calls_left == 0:
                asked.set()
            return {}

    output = Counting()
    system = MetricsSystem(outputs=[output], resource_monitor=Monitor(cpu={}), clock=clock)
    system.initialize_metrics({"collection_interval": 0.001})
    assert asked.wait(PATIENCE)
    assert (output.tries, caplog.records) == (0, [])
    system.collector.increment("orders")
    output.wait(1)
    system.shutdown_metrics()
    assert caplog.records == []


def test_an_output_may_shut_the_system_down(clock):
    """The collection thread does not wait for itself."""

    class Last(Counting):
        def write(self, snapshot):
            super().write(snapshot)
            system.shutdown_metrics()

    output = Last()
    system = MetricsSystem(outputs=[output], resource_monitor=ForeignMonitor(), clock=clock)
    system.collector.increment("orders")
    system.initialize_metrics({"collection_interval": 0.001})
    output.wait(2)
    for thread in background_threads():
        thread.join(PATIENCE)
    assert output.tries == 2


# -- configuration -------------------------------------------------------------------------------------------


def test_the_second_configuration_replaces_the_firsts_keys(tmp_path, clock):
    """A repeated endpoint exists once, with its last folder; other keys keep their values."""
    system = MetricsSystem(resource_monitor=ForeignMonitor(), clock=clock)
    system.initialize_metrics({"export_endpoints": ["snapshot_writer"], "snapshot_directory": tmp_path / "a"})
    system.initialize_metrics({"export_endpoints": ["snapshot_writer", "snapshot_writer"], "max_custom": 1})
    system.initialize_metrics({"snapshot_directory": tmp_path / "b", "custom_metrics": ["kept.*"]})
    for name in ("kept.a", "kept.b", "other"):
        system.collector.increment(name)
    system.shutdown_metrics()
    (path,) = tmp_path.glob("*/*.json")
    assert path.parent.name == "b"
    assert list(read_snapshot(path).metrics.custom) == ["kept/a"]


def test_a_given_output_stays_after_any_configuration(tmp_path, monkeypatch, clock):
    """Naming a given output adds nothing, and naming none removes nothing."""
    monkeypatch.chdir(tmp_path)
    system = MetricsSystem(outputs=[SnapshotWriter("given")], resource_monitor=ForeignMonitor(), clock=clock)
    system.initialize_metrics({"export_endpoints": ["snapshot_writer"]})
    system.initialize_metrics({"export_endpoints": []})
    system.shutdown_metrics()
    assert [path.parent.name for path in tmp_path.glob("*/*.json")] == ["given"]


def test_the_latency_metric_and_thresholds_are_configured(system):
    """A configuration can override the constructor's arguments."""
    system.collector.record_timer("busy", 1)
    system.collector.record_timer("busy", 1)
    system.collector.record_timer("slow", 500)
    system.initialize_metrics({"latency_metric": "slow", "healthy_memory_percent": 39})
    assert system.snapshot().metrics.latency.p50 == 500
    assert system.get_system_health()["healthy"] is False
    system.initialize_metrics({"healthy_memory_percent": 41, "healthy_error_rate": 0.5})
    assert system.get_system_health()["healthy"] is True


def test_a_retention_applies_to_the_store_only():
    """Foreign parts accept the same configuration, without an effect."""
    with foreign_system() as system:
        system.initialize_metrics({"retention_days": 3})


def test_the_retention_bounds_windows(system):
    """The configured retention is the longest window."""
    system.collector.increment("orders")
    system.initialize_metrics({"retention_days": 2})
    system.aggregator.get_metric_summary("orders", timedelta(days=2))
    with pytest.raises(InvalidInputError, match="retention"):
        system.aggregator.get_metric_summary("orders", timedelta(days=3))


def test_an_endpoint_takes_the_final_snapshot(system, tmp_path, monkeypatch):
    """A configured endpoint is an output: shutdown writes its files."""
    monkeypatch.chdir(tmp_path)
    system.initialize_metrics({"export_endpoints": ["snapshot_writer"]})
    system.collector.record_counter("orders", 3)
    assert list(tmp_path.iterdir()) == []
    system.shutdown_metrics()
    (path,) = tmp_path.glob("snapshots/*.json")
    assert read_snapshot(path).metrics.custom["orders"] == 3


def test_an_empty_configuration_changes_nothing(system):
    """An empty configuration starts nothing and requires nothing."""
    system.initialize_metrics({})
    assert background_threads() == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"export_endpoint": ["snapshot_writer"]}, r"'export_endpoint'.*Did you mean 'export_endpoints'"),
        ({"export_endpoints": ["snapshot_riter"]}, "unknown endpoint. Did you mean 'snapshot_writer'"),
        ({"export_endpoints": "snapshot_writer"}, "export_endpoints="),
        ({"collection_interval": 0}, "collection_interval=0"),
        ({"collection_interval": "60"}, "collection_interval='60'"),
        ({"retention_days": math.nan}, "retention_days=nan"),
    ],
)
def test_an_invalid_configuration_is_not_applied_in_parts(system, tmp_path, monkeypatch, wrong, message):
    """An invalid key or value raises an error that quotes it, and no other key is applied."""
    monkeypatch.chdir(tmp_path)
    right = {"collection_interval": 5, "retention_days": 1, "export_endpoints": ["snapshot_writer"]}
    with pytest.raises(ConfigurationError, match=message):
        system.initialize_metrics({**right, **wrong})
    system.collector.increment("orders")
    system.aggregator.get_metric_summary("orders", timedelta(days=20))
    assert background_threads() == []
    system.shutdown_metrics()
    assert list(tmp_path.iterdir()) == []


def test_a_system_that_is_shut_down_cannot_be_configured(system):
    """The error tells to create a new system."""
    system.shutdown_metrics()
    with pytest.raises(ClosedError, match="new one"):
        system.initialize_metrics({"collection_interval": 5})
    assert system.resource_monitor.calls == ["stop"]


# -- dashboards ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dashboard_type", ["overview", "performance", "errors", "resources"])
def test_every_dashboard_exists(system, dashboard_type):
    """Each type has panels and the time of its creation."""
    system.tracker.record_failure("work", "timeout")
    dashboard = system.create_dashboard_data(dashboard_type)
    assert (dashboard["type"], dashboard["generated_at"]) == (dashboard_type, "2026-01-01T00:00:00+00:00")
    assert dashboard["panels"]


def test_the_overview_is_the_default_dashboard(system):
    """The default type is the overview."""
    assert system.create_dashboard_data() == system.create_dashboard_data("overview")


def test_an_unknown_dashboard_is_an_error(system):
    """The error names the nearest dashboard."""
    with pytest.raises(InvalidInputError, match="Did you mean 'overview'"):
        system.create_dashboard_data("overviw")


# -- snapshots -----------------------------------------------------------------------------------------------


def test_a_snapshot_has_its_time_and_environment(system, clock):
    """The time comes from the clock; environment and tags are the given ones."""
    clock.advance(60)
    metadata = system.snapshot(environment="staging", tags={"release": "3"}).metadata
    assert metadata.timestamp == datetime(2026, 1, 1, 0, 1, tzinfo=UTC)
    assert metadata.environment is Environment.STAGING
    assert metadata.tags["release"] == "3"
    assert system.snapshot().metadata.run_id != metadata.run_id


@pytest.mark.parametrize(
    ("given", "expected"),
    [(Environment.LOCAL, Environment.LOCAL), ("ci", Environment.CI), ("the moon", Environment.CUSTOM)],
)
def test_an_environment_may_be_a_string(system, given, expected):
    """An unknown environment name is a custom environment."""
    assert system.snapshot(environment=given).metadata.environment is expected


def test_the_callers_tags_are_not_kept(system):
    """The caller's dict is neither changed nor stored."""
    system.timer.time_operation("work", lambda: None)
    tags = {"release": "3"}
    snapshot = system.snapshot(tags=tags)
    assert tags == {"release": "3"}
    assert snapshot.metadata.tags.items() >= {"release": "3", "latency_metric": "work"}.items()


def test_a_snapshot_has_the_provenance_that_is_given(system):
    """Commit and branch replace those of the working tree, in this snapshot only."""
    before = system.snapshot().metadata
    given = system.snapshot(commit="abc123", branch="release").metadata
    assert (given.commit, given.branch, given.tags.get("commit_date")) == ("abc123", "release", None)
    after = system.snapshot().metadata
    assert (after.commit, after.branch, after.tags) == (before.commit, before.branch, before.tags)


@pytest.mark.parametrize(("number", "kept"), [(46, 2), (47, 1), (48, 0), (49, 0)])
def test_tags_of_the_caller_come_before_those_of_the_commit(system, monkeypatch, number, kept):
    """If there is no room for the date and the head, the snapshot is valid without them."""
    told = Provenance("a", "b", Environment.CI, datetime(2026, 1, 1, tzinfo=UTC), "c")
    monkeypatch.setattr("metrics_framework.system.find_provenance", lambda: told)
    system.timer.time_operation("work", lambda: None)
    tags = {f"k{index}": "v" for index in range(number)}
    found = system.snapshot(tags=tags).metadata.tags
    assert found.items() >= tags.items()
    assert len(found.keys() & {"commit_date", "head_commit"}) == kept


def test_too_many_tags_are_an_error(system):
    """The rules of the schema apply to given tags."""
    with pytest.raises(SnapshotError):
        system.snapshot(tags={f"tag {number}": "" for number in range(51)})


def test_the_latency_metric_can_be_chosen(clock):
    """The latency is that of the busiest timer, or of the chosen one."""

    def record(system: MetricsSystem) -> PerformanceSnapshot:
        for milliseconds in (1, 2, 3):
            system.collector.record_timer("busy", milliseconds)
        system.collector.record_timer("slow", 500)
        return system.snapshot()

    assert record(MetricsSystem(clock=clock)).metrics.latency.p50 == 2
    assert record(MetricsSystem(latency_metric="slow", clock=clock)).metrics.latency.p50 == 500


def test_a_string_of_custom_metrics_is_an_error() -> None:
    """A string would match by its characters; the error shows the list to pass."""
    with pytest.raises(InvalidInputError, match=r"pass a list, \['http\.\*'\]"):
        MetricsSystem(custom_metrics="http.*")


def test_custom_metrics_can_be_chosen_and_are_bounded(clock):
    """Only matching names become custom keys, up to the maximum."""
    system = MetricsSystem(custom_metrics=(name for name in ["http.*"]), max_custom=2, clock=clock)
    for name in ("http.a", "http.b", "http.c", "disk.a"):
        system.collector.increment(name)
    for _ in range(2):
        snapshot, report = system.build_snapshot()
        assert len(snapshot.metrics.custom) == 2
        assert all(key.startswith("http/") for key in snapshot.metrics.custom)
        assert len(report.left_out) == 2


def test_omissions_of_a_snapshot_are_logged(system, caplog):
    """A negative gauge is not in the snapshot; the log and the report name it."""
    system.collector.record_gauge("balance", -3)
    system.collector.record_gauge("level", 3)
    with caplog.at_level(logging.INFO, logger="metrics_framework"):
        snapshot = system.snapshot()
    assert snapshot.metrics.custom == {"level": 3}
    assert any("balance" in record.getMessage() for record in caplog.records)
    assert [item.what for item in system.build_snapshot()[1].left_out] == ["balance"]


# -- async ---------------------------------------------------------------------------------------------------


def test_the_log_counts_the_omissions_of_a_snapshot(system, caplog):
    """Any number of omitted series is one short line: their number and the first ten."""
    caplog.set_level(logging.INFO, "metrics_framework")
    for number in range(500):
        system.collector.increment("orders", {"shop": str(number)})
    system.initialize_metrics({"max_custom": 100})
    assert len(system.snapshot().metrics.custom) == 100
    (record,) = caplog.records
    assert "left_out=400" in record.getMessage()
    assert record.getMessage().count("over the limit of 100") == 10


def test_dashboards_use_the_systems_thresholds_and_retention(clock):
    """Values above the limit are unhealthy; a retention shorter than the window is not an error."""
    limits = Thresholds(error_rate=0.2, memory_percent=70, cpu_percent=60)
    store = Store(clock, retention=timedelta(minutes=5))
    collector = InMemoryCollector(store)
    with MetricsSystem(collector=collector, resource_monitor=ForeignMonitor(), thresholds=limits) as system:
        system.tracker.record_failure("checkout", "timeout")
        dashboard = system.create_dashboard_data()
        shown = {panel["id"]: [one["value"] for one in panel["thresholds"]] for panel in dashboard["panels"]}
        assert (shown["error-rate"], shown["memory"], shown["cpu"]) == ([20.0], [70], [60])
        assert dashboard["window_seconds"] == 300
        assert dashboard["panels"][0]["series"][0]["value"] == 100
        system.initialize_metrics({"retention_days": 1})
        assert system.create_dashboard_data()["window_seconds"] == 3600


def test_collecting_records_resources(system):
    """One call reads memory and CPU and records each as a gauge."""
    asyncio.run(system.collect_metrics_async())
    found = {value.name: value.value for value in system.aggregator.get_metrics_by_tag({})}
    assert {
        name: value for name, value in found.items() if name.startswith(("system.", "process.m", "process.c"))
    } == {
        "system.memory.utilization": 0.4,
        "process.memory.usage": 50e6,
        "system.cpu.utilization": 0.3,
        "process.cpu.utilization": 0.2,
        "system.cpu.logical.count": 4.0,
    }


def test_exporting_returns_whether_each_endpoint_succeeded(clock, tmp_path, caplog):
    """Unknown and failing endpoints are `False` and logged; the others are written."""
    good, writer = Output("good"), SnapshotWriter(tmp_path)
    outputs = [Output("bad", OSError("refused")), good, Output("not asked"), writer]
    system = MetricsSystem(outputs=outputs, clock=clock)
    answer = asyncio.run(system.export_metrics_async(["unknown", "bad", "good", "snapshot_writer", "good"]))
    assert answer == {"unknown": False, "bad": False, "good": True, "snapshot_writer": True}
    assert len(good.written) == 1
    assert outputs[2].written == []
    assert len(list(tmp_path.glob("*.json"))) == 1
    messages = " ".join(record.getMessage() for record in caplog.records)
    assert "unknown endpoint" in messages
    assert "refused" in messages


def test_exporting_to_no_endpoint_is_not_an_error(system):
    """Without endpoints the result is empty; without outputs every endpoint is unknown."""
    assert asyncio.run(system.export_metrics_async([])) == {}
    assert asyncio.run(system.export_metrics_async(["good"])) == {"good": False}


def test_exporting_does_not_block_the_event_loop(clock):
    """The loop runs while an output is written."""
    writing, go_on = threading.Event(), threading.Event()

    class Slow(Output):
        def write(self, snapshot):
            writing.set()
            assert go_on.wait(PATIENCE)

    async def main() -> None:
        async with asyncio.timeout(PATIENCE):
            exporting = asyncio.create_task(system.export_metrics_async(["output"]))
            while not writing.is_set():
                await asyncio.sleep(0)
            assert not exporting.done()
            go_on.set()
            assert await exporting == {"output": True}

    system = MetricsSystem(outputs=[Slow()], clock=clock)
    asyncio.run(main())


def test_a_stream_yields_records_of_another_thread(system):
    """`async for` yields matching records of threads while they are made."""

    async def main() -> list[tuple[str, float]]:
        stream = system.metrics_stream({"name": "orders.*", "type": "counter"})
        thread = threading.Thread(target=record)
        thread.start()
        found = []
        async with aclosing(stream), asyncio.timeout(PATIENCE):
            async for value in stream:
                found.append((value.name, value.value))
                if len(found) == 2:
                    break
        thread.join()
        return found

    def record() -> None:
        system.collector.increment("orders.new")
        system.collector.record_gauge("orders.open", 7)
        system.collector.increment("other")
        system.collector.increment("orders.paid")

    assert set(asyncio.run(main())) == {("orders.new", 1), ("orders.paid", 1)}


def test_an_unknown_filter_is_an_error_at_the_call(system):
    """A misspelled filter raises at the call, not when the stream is read."""
    with pytest.raises(InvalidInputError, match=r"'names'.*Did you mean 'name'"):
        system.metrics_stream({"names": "orders.*"})


def test_a_stream_without_filters_yields_everything(system):
    """`None` and an empty dict match everything."""

    async def main() -> list[str]:
        found = []
        for filters in (None, {}):
            async with aclosing(system.metrics_stream(filters)) as stream, asyncio.timeout(PATIENCE):
                system.collector.increment("orders")
                found.append((await anext(stream)).name)
        return found

    assert asyncio.run(main()) == ["orders", "orders"]


# -- constant tags ---------------------------------------------------------------------------------------


def test_constant_tags_are_on_everything():
    """Metrics and operations have them and are found by them; their own tags of the same name win."""
    metrics = MetricsSystem(tags={"service": "shop", "zone": "1"})
    metrics.collector.increment("orders", {"zone": "2"})
    with metrics.measure("checkout"):
        pass
    values = metrics.aggregator.get_metrics_by_tag({"service": "shop"})
    assert sorted((value.name, value.metric_type.value, value.tags["zone"]) for value in values) == [
        ("checkout", "rate", "1"),
        ("checkout", "timer", "1"),
        ("orders", "counter", "2"),
    ]
    assert 'service="shop"' in metrics.aggregator.export_metrics("prometheus")


def test_a_snapshot_has_constant_tags_in_its_metadata():
    """Custom keys do not contain constant tags; the tags of a call win over them."""
    metrics = MetricsSystem(tags={"service": "shop", "zone": "1"})
    metrics.collector.increment("orders", {"status": "paid"})
    metrics.collector.increment("visits", {"zone": "2"})
    with metrics.measure("checkout"):
        pass
    snapshot = metrics.snapshot(tags={"zone": "9"})
    expected = {"service": "shop", "zone": "9", "latency_metric": "checkout"}
    assert snapshot.metadata.tags.items() >= expected.items()
    assert {"orders[status:paid]", "visits[zone:2]", "operation:checkout/success_rate"} <= set(
        snapshot.metrics.custom
    )


@pytest.mark.parametrize("more", [{"tags": {"service": "shop"}}, {"rules": [Rule("a", deny=True)]}])
def test_tags_and_rules_cannot_change_an_existing_store(more):
    """The error of the constructor names the place for tags and rules."""
    store = Store()
    parts = {
        "collector": InMemoryCollector(store),
        "timer": InMemoryTimer(store),
        "tracker": InMemoryTracker(store),
        "aggregator": InMemoryAggregator(store),
        "resource_monitor": NullMonitor(),
    }
    with pytest.raises(InvalidInputError, match=r"pass them to that store, Store\(tags=…"):
        MetricsSystem(**parts, **more)  # type: ignore[arg-type]


def test_constant_tags_are_checked_when_the_system_is_created():
    """Invalid tags are rejected before anything is recorded."""
    with pytest.raises(InvalidInputError):
        MetricsSystem(tags={"": "shop"})
