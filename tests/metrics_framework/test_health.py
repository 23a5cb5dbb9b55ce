"""Health: a judgement by thresholds, and the readings behind it, whatever the parts are."""

from __future__ import annotations

import socket
import threading
import time
from datetime import timedelta

import pytest

from metrics_adapters.in_memory import InMemoryTracker
from metrics_framework import (
    InvalidInputError,
    MetricsSystem,
    MetricType,
    MetricUnit,
    MetricValue,
    Thresholds,
)
from metrics_framework.clock import ManualClock, utc
from metrics_framework.recording import Store
from metrics_framework.recording.engine import ENGINE

PATIENCE = 20.0


class Monitor:
    """A monitor whose readings the test chooses."""

    def __init__(self, memory=40.0, cpu=30.0):
        self.memory = memory
        self.cpu = cpu

    def get_memory_usage(self):
        """Return the chosen memory, or raise it."""
        if isinstance(self.memory, Exception):
            raise self.memory
        return {"percent": self.memory}

    def get_cpu_usage(self):
        """Return the chosen CPU."""
        return {"percent": self.cpu}

    def get_disk_usage(self, path="/"):
        """Return nothing."""
        return {}

    def get_network_stats(self):
        """Return nothing."""
        return {}

    def start_resource_monitoring(self, interval=60.0):
        """Do nothing."""

    def stop_resource_monitoring(self):
        """Do nothing."""


class Tracker:
    """A tracker of someone else's."""

    def record_success(self, operation, metadata=None):
        """Do nothing."""

    def record_failure(self, operation, error_type, metadata=None):
        """Do nothing."""

    def get_success_rate(self, operation, time_window=None):
        """Know nothing."""
        raise NotImplementedError

    def get_failure_breakdown(self, operation, time_window=None):
        """Know nothing."""
        raise NotImplementedError


class Aggregator:
    """An aggregator with an answer of the test's choice, which counts how often it is asked."""

    def __init__(self, answer=()):
        self.answer = answer
        self.asked = 0

    def get_metrics_by_tag(self, tag_filter):
        """Return the answer, or raise it."""
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return list(self.answer)

    def get_metric_summary(self, metric_name, time_window=None):
        """Know nothing."""
        raise NotImplementedError

    def export_metrics(self, format="json"):
        """Know nothing."""
        raise NotImplementedError

    def get_top_metrics(self, metric_type, limit=10):
        """Know nothing."""
        raise NotImplementedError


def outcome(clock: ManualClock, **metadata: object) -> MetricValue:
    """Return how an operation ended as an aggregator tells it."""
    unit = MetricUnit.OPERATIONS_PER_SECOND
    return MetricValue("work", 1.0, MetricType.RATE, unit, utc(clock), {}, metadata)


@pytest.fixture
def system(clock: ManualClock):
    """Return a system on the test's clock with a monitor that reads the same everywhere."""
    with MetricsSystem(resource_monitor=Monitor(), clock=clock) as system:
        yield system


def track(system: MetricsSystem, successes: int, failures: int, operation: str = "work") -> None:
    """Track outcomes of an operation."""
    for _ in range(successes):
        system.tracker.record_success(operation)
    for _ in range(failures):
        system.tracker.record_failure(operation, "timeout")


def test_health_says_what_it_was_judged_by(system, clock):
    """The answer has the readings beside the judgement."""
    system.collector.increment("orders", {"region": "north"})
    system.collector.increment("orders", {"region": "south"})
    track(system, 3, 1)
    clock.advance(12)
    assert system.get_system_health() == {
        "healthy": False,
        "error_rate": 0.25,
        "uptime_seconds": 12.0,
        "series": 3,
        "recorded": 6,
        "rejected": 0,
        "overflowed": 0,
        "compiled": ENGINE == "compiled",
        "memory_percent": 40.0,
        "cpu_percent": 30.0,
        "overhead_percent": 0.0,
    }


def test_health_without_events_is_good(system):
    """A system in which nothing was tracked has no errors."""
    health = system.get_system_health()
    assert (health["healthy"], health["error_rate"]) == (True, 0.0)


@pytest.mark.parametrize(
    ("successes", "failures", "healthy"),
    [
        (95, 5, True),
        (94, 6, False),
        (19, 1, True),
        (190, 10, True),
        (949, 51, False),
        (0, 1, False),
        (1, 0, True),
    ],
)
def test_more_than_one_in_twenty_failures_is_unhealthy(system, successes, failures, healthy):
    """Exactly 5 % is still healthy."""
    track(system, successes, failures)
    health = system.get_system_health()
    assert (health["healthy"], health["error_rate"]) == (healthy, failures / (successes + failures))


def test_the_error_rate_is_of_all_operations_together(system):
    """A rare operation that always fails does not outweigh a frequent one that never does."""
    track(system, 99, 0, "frequent")
    track(system, 0, 1, "rare")
    health = system.get_system_health()
    assert (health["healthy"], health["error_rate"]) == (True, 0.01)


@pytest.mark.parametrize(("percent", "healthy"), [(95.0, True), (95.1, False)])
def test_a_full_machine_is_unhealthy(clock, percent, healthy):
    """Above 95 % of the machine's memory the system is not healthy."""
    system = MetricsSystem(resource_monitor=Monitor(memory=percent), clock=clock)
    assert system.get_system_health()["healthy"] is healthy


def test_health_of_this_machine():
    """With the default monitor the readings are this machine's."""
    with MetricsSystem() as metrics:
        health = metrics.get_system_health()
    assert 0 < health["memory_percent"] <= 100
    assert 0 <= health["cpu_percent"] <= 100


# -- the window ----------------------------------------------------------------------------------------------


def test_the_error_rate_is_of_the_last_five_minutes(system, clock):
    """Failures of long ago are forgiven; 300 seconds, and the tenth by which a window may be longer."""
    track(system, 0, 5)
    assert system.get_system_health()["error_rate"] == 1.0
    clock.advance(290)
    track(system, 5, 0)
    assert system.get_system_health()["error_rate"] == 0.5
    clock.advance(60)
    health = system.get_system_health()
    assert (health["error_rate"], health["healthy"], health["recorded"]) == (0.0, True, 10)


def test_the_window_can_be_chosen(clock):
    """A threshold's window is how far back the error rate looks, and at most the retention."""
    thresholds = Thresholds(window=timedelta(days=365))
    system = MetricsSystem(resource_monitor=Monitor(), thresholds=thresholds, clock=clock)
    track(system, 0, 1)
    clock.advance(86_400)
    assert system.get_system_health()["error_rate"] == 1.0
    system.initialize_metrics({"healthy_window": 60})
    assert system.get_system_health()["error_rate"] == 0.0


# -- thresholds ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "healthy"),
    [
        ({}, True),
        ({"memory_percent": 39.9}, False),
        ({"memory_percent": 40}, True),
        ({"cpu_percent": 29.9}, False),
        ({"cpu_percent": 30}, True),
        ({"error_rate": 0.24}, False),
        ({"error_rate": 0.25}, True),
    ],
)
def test_each_threshold_judges_its_reading(clock, limits, healthy):
    """What is at its limit is healthy, and what is above it is not."""
    thresholds = Thresholds(**{"error_rate": 0.3, **limits})
    system = MetricsSystem(resource_monitor=Monitor(), thresholds=thresholds, clock=clock)
    track(system, 3, 1)
    assert system.get_system_health()["healthy"] is healthy


@pytest.mark.parametrize("value", [-0.01, 101, float("nan"), float("inf"), "1", True], ids=str)
@pytest.mark.parametrize("what", ["error_rate", "memory_percent", "cpu_percent"])
def test_a_threshold_out_of_range_is_an_error(what, value):
    """The error names the threshold, quotes the value and says the range."""
    with pytest.raises(InvalidInputError, match=f"threshold {what}=.*from 0 to"):
        Thresholds(**{what: value})


@pytest.mark.parametrize("window", [timedelta(0), timedelta(seconds=-1), 300, None], ids=str)
def test_a_window_is_a_positive_duration(window):
    """Anything else is one clear error."""
    with pytest.raises(InvalidInputError, match=r"threshold window=.*positive duration"):
        Thresholds(window=window)


def test_thresholds_are_thresholds():
    """A dict in their place is refused when the system is made."""
    with pytest.raises(InvalidInputError, match="are no Thresholds"):
        MetricsSystem(thresholds={"error_rate": 0.1})


# -- the readings --------------------------------------------------------------------------------------------


def test_what_went_wrong_with_records_is_counted(clock):
    """Refused records and those that lost a tag are readings of the store."""
    system = MetricsSystem.from_config({"on_error": "log", "max_series_per_name": 2}, environ={})
    system.collector.record_counter("orders", -1)
    for user in range(5):
        system.collector.increment("orders", {"user": str(user)})
    health = system.get_system_health()
    assert (health["recorded"], health["rejected"]) == (5, 1)
    assert health["overflowed"] > 0
    assert health["healthy"] is True


def test_every_reading_is_a_plain_number(system):
    """Values are bool, float or int, also where a monitor answers with something alike."""

    class Percent(float):
        pass

    system.resource_monitor.memory = Percent(40)
    assert {type(value) for value in system.get_system_health().values()} == {bool, float, int}


def test_the_overhead_is_what_the_collecting_thread_uses():
    """CPU time of the background thread counts, that of recording threads and waiting does not."""
    spun = threading.Event()

    class Spinning(Monitor):
        def get_memory_usage(self):
            if threading.current_thread() is not threading.main_thread():
                until = time.thread_time_ns() + 50_000_000
                while time.thread_time_ns() < until:
                    pass
                spun.set()
            return {"percent": 1.0}

    clock = ManualClock()
    system = MetricsSystem(resource_monitor=Spinning(), clock=clock)
    clock.advance(1)
    assert system.get_system_health()["overhead_percent"] == 0.0
    system.initialize_metrics({"collection_interval": 3_600})
    assert spun.wait(PATIENCE)
    system.shutdown_metrics()
    # 50 ms and a little more of one second, on the test's clock.
    assert 5.0 <= system.get_system_health()["overhead_percent"] < 10.0
    clock.advance(99)
    assert 0.05 <= system.get_system_health()["overhead_percent"] < 0.1


# -- parts of someone else's ---------------------------------------------------------------------------------


def test_a_foreign_tracker_is_judged_by_the_aggregator(clock):
    """Where outcomes are not in a store, the aggregator is asked for those since the start."""
    aggregator = Aggregator([outcome(clock, count=4, success_rate=0.75)])
    system = MetricsSystem(tracker=Tracker(), aggregator=aggregator, resource_monitor=Monitor(), clock=clock)
    clock.advance(86_400)
    assert system.get_system_health()["error_rate"] == 0.25


def test_a_foreign_aggregator_is_not_asked_where_a_store_knows(clock):
    """A health check costs no question to a server where the tracker is the library's own."""
    aggregator = Aggregator()
    store = Store(clock)
    system = MetricsSystem(
        tracker=InMemoryTracker(store), aggregator=aggregator, resource_monitor=Monitor(), clock=clock
    )
    track(system, 1, 1)
    assert system.get_system_health()["error_rate"] == 0.5
    assert aggregator.asked == 0


def test_health_asks_no_network(monkeypatch):
    """The default parts open no socket for a health check."""
    with MetricsSystem() as system:

        def refuse(*_: object, **__: object) -> None:
            raise AssertionError("a socket was opened")

        monkeypatch.setattr(socket, "socket", refuse)
        assert system.get_system_health()["healthy"] in (True, False)


@pytest.mark.parametrize(
    ("parts", "reading"),
    [
        ({"resource_monitor": Monitor(memory=RuntimeError("broken"))}, "memory_percent"),
        ({"resource_monitor": Monitor(memory="forty, broken")}, "memory_percent"),
        ({"resource_monitor": Monitor(cpu=[])}, "cpu_percent"),
        ({"tracker": Tracker(), "aggregator": Aggregator(ValueError("broken"))}, "error_rate"),
    ],
    ids=["memory", "text", "cpu", "outcomes"],
)
def test_a_part_that_fails_is_unhealthy_and_the_rest_is_answered(clock, caplog, parts, reading):
    """The answer has every reading, 0 for the one that failed, and the log says once that it did."""
    system = MetricsSystem(**{"resource_monitor": Monitor(), **parts}, clock=clock)
    clock.advance(2)
    for _ in range(3):
        health = system.get_system_health()
    assert health["healthy"] is False
    assert health[reading] == 0.0
    assert health["uptime_seconds"] == 2.0
    assert {"memory_percent": 40.0, "cpu_percent": 30.0, "error_rate": 0.0} | {reading: 0.0} == {
        key: health[key] for key in ("memory_percent", "cpu_percent", "error_rate")
    }
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_a_part_that_recovers_is_healthy_again(clock, caplog):
    """The next failure is logged again."""
    monitor = Monitor()
    system = MetricsSystem(resource_monitor=monitor, clock=clock)
    for memory, healthy in ((RuntimeError("one"), False), (40.0, True), (RuntimeError("two"), False)):
        monitor.memory = memory
        assert system.get_system_health()["healthy"] is healthy
    assert len(caplog.records) == 2


def test_a_monitor_that_knows_no_number_is_unhealthy(clock):
    """NaN is not within any limit."""
    system = MetricsSystem(resource_monitor=Monitor(memory=float("nan")), clock=clock)
    assert system.get_system_health()["healthy"] is False
