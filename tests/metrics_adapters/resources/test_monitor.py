"""The resource monitor reads this machine and process."""

from __future__ import annotations

import gc
import json
import math
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import psutil
import pytest

from metrics_adapters.in_memory import InMemoryCollector
from metrics_adapters.resources import PsutilMonitor
from metrics_framework.clock import ManualClock
from metrics_framework.errors import InvalidInputError, OutputError, UnknownMetricError
from metrics_framework.health import RESOURCE_GAUGES
from metrics_framework.recording import Store
from tests.metrics_framework.runtime import children
from tests.metrics_framework.runtime.children import PATIENCE, forks

MEGABYTE = 1_000_000
THREAD = "metrics-resource-reading"
NAMES = RESOURCE_GAUGES - (
    {"process.unix.file_descriptor.count" if os.name == "nt" else "process.windows.handle.count"}
)


def background_threads() -> list[threading.Thread]:
    """Return the threads of background monitoring."""
    return [thread for thread in threading.enumerate() if thread.name == THREAD]


def in_a_process_of_its_own(code: str) -> dict[str, dict[str, float]]:
    """Run code that prints JSON in a new process, whose memory no other test has used."""
    preamble = (
        "import json\nfrom metrics_adapters.resources import PsutilMonitor\nmonitor = PsutilMonitor()\n"
        "read = monitor.get_memory_usage\n"
    )
    done = subprocess.run([sys.executable, "-c", preamble + code], capture_output=True, text=True, check=True)
    found: dict[str, dict[str, float]] = json.loads(done.stdout)
    return found


class Watched(InMemoryCollector):
    """A collector that counts gauges, and can fail a number of times."""

    def __init__(self, failures: int = 0):
        super().__init__()
        self.failures = failures
        self.recorded, self.failed = threading.Semaphore(0), threading.Semaphore(0)

    def record_gauge(self, name, value, tags=None):
        """Fail, or record and count."""
        if self.failures:
            self.failures -= 1
            self.failed.release()
            raise OSError("the collector is out of order")
        super().record_gauge(name, value, tags)
        self.recorded.release()

    def wait(self, number: int) -> None:
        """Wait for a number of gauges."""
        for _ in range(number):
            assert self.recorded.acquire(timeout=PATIENCE)


@pytest.fixture
def running():
    """Return a function that starts a monitor, which is stopped at the end of the test."""
    monitors = []

    def start(collector: InMemoryCollector, interval: float) -> PsutilMonitor:
        monitor = PsutilMonitor(collector)
        monitors.append(monitor)
        monitor.start_resource_monitoring(interval)
        return monitor

    yield start
    for monitor in monitors:
        monitor.stop_resource_monitoring()


# -- memory ------------------------------------------------------------------------------------------------


def test_memory_has_every_key_in_bytes():
    """Memory of the machine and the process is in bytes, with the used share."""
    memory = PsutilMonitor().get_memory_usage()
    assert memory.keys() == {"used", "available", "total", "percent", "process_rss", "process_peak_rss"}
    assert all(isinstance(value, (int, float)) and math.isfinite(value) for value in memory.values())
    assert 0 < memory["total"] <= psutil.virtual_memory().total
    assert 0 < memory["used"] < memory["total"]
    assert 0 < memory["available"] <= memory["total"]
    assert 0 < memory["percent"] <= 100
    # A Python interpreter takes megabytes, and less than the machine has.
    assert 5 * MEGABYTE < memory["process_rss"] <= memory["process_peak_rss"] < memory["total"]


def test_the_peak_is_at_least_the_used_memory():
    """The peak never falls, and is never less than the current memory."""
    monitor, peak = PsutilMonitor(), 0.0
    for size in (1, 30, 3, 60, 1):
        held = b"x" * size * MEGABYTE
        memory = monitor.get_memory_usage()
        del held
        assert memory["process_peak_rss"] >= max(peak, memory["process_rss"])
        peak = memory["process_peak_rss"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform not in ("linux", "win32"), reason="the system does not tell a process' peak")
def test_a_peak_between_two_readings_is_reported():
    """Memory that was released between two readings is part of the peak."""
    found = in_a_process_of_its_own(
        "before = read()\n"
        f"held = b'x' * {200 * MEGABYTE}\n"
        "del held\n"
        "print(json.dumps({'before': before, 'after': read()}))\n"
    )
    before, after = found["before"], found["after"]
    assert after["process_peak_rss"] >= before["process_rss"] + 190 * MEGABYTE
    assert after["process_rss"] < before["process_rss"] + 100 * MEGABYTE


@pytest.mark.slow
def test_a_peak_is_that_of_this_process():
    """A process that was started by a large one does not inherit its peak."""
    held = b"x" * 300 * MEGABYTE
    found = in_a_process_of_its_own("print(json.dumps({'memory': read()}))\n")
    del held
    assert found["memory"]["process_peak_rss"] < 200 * MEGABYTE


# -- CPU -----------------------------------------------------------------------------------------------------


def test_cpu_has_every_key():
    """CPU usage has percentages, load averages and the number of cores."""
    cpu = PsutilMonitor().get_cpu_usage()
    assert cpu.keys() == {
        "percent",
        "process_percent",
        "process_average_percent",
        "load_1m",
        "load_5m",
        "load_15m",
        "count",
    }
    assert all(isinstance(value, (int, float)) and math.isfinite(value) for value in cpu.values())
    assert 0 <= cpu["percent"] <= 100
    assert cpu["process_percent"] >= 0
    assert cpu["process_average_percent"] >= 0
    assert 0 < cpu["count"] <= os.cpu_count()
    assert min(cpu["load_1m"], cpu["load_5m"], cpu["load_15m"]) >= 0


def test_a_new_monitor_has_a_cpu_average_of_zero(clock: ManualClock):
    """A new monitor does not divide by zero."""
    assert PsutilMonitor(clock=clock).get_cpu_usage()["process_average_percent"] == 0.0


def spend(seconds: float) -> float:
    """Use an amount of CPU time, and return how long that took."""
    start, until = time.perf_counter(), time.process_time() + seconds
    while time.process_time() < until:
        pass
    return time.perf_counter() - start


@pytest.mark.heavy
def test_a_busy_process_uses_a_core():
    """The average is CPU time divided by elapsed time: about 100 for one busy core."""
    monitor = PsutilMonitor()
    took = spend(1.0)
    cpu = monitor.get_cpu_usage()
    # On a busy machine, less than a whole core was available.
    expected = 100 * 1.0 / took
    assert cpu["process_average_percent"] == pytest.approx(expected, rel=0.2)
    assert cpu["process_percent"] == pytest.approx(expected, rel=0.3)
    assert cpu["percent"] > 0


@pytest.mark.heavy
def test_an_idle_process_uses_nothing():
    """The average falls while the process sleeps."""
    monitor = PsutilMonitor()
    spend(0.2)
    busy = monitor.get_cpu_usage()["process_average_percent"]
    time.sleep(1.0)  # the CPU that is not used is the machine's own
    assert monitor.get_cpu_usage()["process_average_percent"] < busy / 2


def test_every_thread_gets_a_reading():
    """The percentage of the machine counts since the last reading of any thread."""
    monitor = PsutilMonitor()
    spend(0.1)
    with ThreadPoolExecutor(1) as other:
        assert other.submit(monitor.get_cpu_usage).result()["percent"] > 0


# -- disk and network ----------------------------------------------------------------------------------------


def test_disk_has_every_key_in_bytes(tmp_path):
    """The sizes of a disk are consistent and in bytes."""
    disk = PsutilMonitor().get_disk_usage(str(tmp_path))
    assert disk.keys() == {"used", "free", "total", "percent"}
    assert disk["total"] == shutil.disk_usage(tmp_path).total
    assert 0 <= disk["used"] <= disk["total"]
    assert 0 <= disk["free"] <= disk["total"]
    assert 0 <= disk["percent"] <= 100


def test_the_root_is_the_default_disk():
    """Without a path the disk of the root is read."""
    assert PsutilMonitor().get_disk_usage()["total"] == shutil.disk_usage("/").total


def test_a_missing_path_is_an_error(tmp_path):
    """The error quotes the path and has the reason."""
    path = str(tmp_path / "nowhere")
    with pytest.raises(InvalidInputError) as caught:
        PsutilMonitor().get_disk_usage(path)
    assert repr(path) in str(caught.value)
    assert "No such file" in str(caught.value)


def test_network_has_every_key():
    """Network counters are integers that do not fall."""
    monitor = PsutilMonitor()
    before, after = monitor.get_network_stats(), monitor.get_network_stats()
    assert before.keys() == {
        "bytes_sent",
        "bytes_received",
        "packets_sent",
        "packets_received",
        "errors_in",
        "errors_out",
        "drops_in",
        "drops_out",
    }
    assert all(type(value) is int and value >= 0 for value in before.values())
    assert all(after[key] >= before[key] for key in before)


@pytest.mark.parametrize("disks", ["/", [""], [1]])
def test_disks_are_paths(disks):
    """Anything but a list of paths is an error that quotes it."""
    with pytest.raises(InvalidInputError, match="disks="):
        PsutilMonitor(disks=disks)


def test_each_disk_is_recorded_by_its_path(tmp_path, clock, caplog):
    """The disks of all paths are recorded. A missing one is logged once."""
    collector = InMemoryCollector(Store(clock))
    monitor = PsutilMonitor(collector, clock, disks=["/", str(tmp_path), "/", "/not/there"])
    assert monitor.disks == ("/", str(tmp_path), "/not/there")
    monitor.sample()
    monitor.sample()
    found = {
        reading.tags["system.filesystem.mountpoint"]: reading.summary["last"]
        for reading in collector.store.readings()
        if reading.name == "system.filesystem.limit"
    }
    assert found == {"/": shutil.disk_usage("/").total, str(tmp_path): shutil.disk_usage(tmp_path).total}
    assert len(caplog.records) == 1
    assert "/not/there" in caplog.text


def test_sent_and_received_are_not_mixed_up():
    """Each counter has the value of its name."""
    before, found, after = (
        psutil.net_io_counters(),
        PsutilMonitor().get_network_stats(),
        psutil.net_io_counters(),
    )
    if before is None:
        pytest.skip("this machine has no network interface")
    assert before.bytes_sent <= found["bytes_sent"] <= after.bytes_sent
    assert before.bytes_recv <= found["bytes_received"] <= after.bytes_recv
    assert before.packets_sent <= found["packets_sent"] <= after.packets_sent
    assert before.packets_recv <= found["packets_received"] <= after.packets_recv
    assert before.errin <= found["errors_in"] <= after.errin
    assert before.errout <= found["errors_out"] <= after.errout
    assert before.dropin <= found["drops_in"] <= after.dropin
    assert before.dropout <= found["drops_out"] <= after.dropout


# -- the process ---------------------------------------------------------------------------------------------


def test_the_process_is_counted(tmp_path):
    """Threads and open files are those of this process at that moment."""
    monitor, release = PsutilMonitor(), threading.Event()
    before = monitor.get_process_usage()
    threads = [threading.Thread(target=release.wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    with (tmp_path / "a").open("w"), (tmp_path / "b").open("w"):
        after = monitor.get_process_usage()
    release.set()
    for thread in threads:
        thread.join()
    held = "handles" if os.name == "nt" else "file_descriptors"
    assert before.keys() == {"threads", held, "uptime"}
    assert after["threads"] == before["threads"] + 3
    assert after[held] >= before[held] + 2


def test_the_uptime_goes_with_the_clock(clock):
    """The process is as old as the system says, and ages by the clock that was passed in."""
    monitor = PsutilMonitor(clock=clock)
    age = time.time() - psutil.Process().create_time()
    first = monitor.get_process_usage()["uptime"]
    assert first == pytest.approx(age, abs=2.0)
    clock.advance(3_600)
    assert monitor.get_process_usage()["uptime"] == pytest.approx(first + 3_600)


# -- what the system does not tell ---------------------------------------------------------------------------

READINGS: dict[str, tuple[str, str]] = {
    "get_memory_usage": ("virtual_memory", "memory"),
    "get_cpu_usage": ("getloadavg", "CPU"),
    "get_disk_usage": ("disk_usage", "disk of path '/'"),
    "get_network_stats": ("net_io_counters", "network"),
    "get_process_usage": ("Process.num_threads", "process"),
}


def refuse(monkeypatch, function: str, refused: Callable[[], bool], error: Exception) -> None:
    """Let a function of psutil fail whenever it is refused."""
    *owner, name = function.split(".")
    target = getattr(psutil, *owner) if owner else psutil
    real = getattr(target, name)

    def refusing(*args: Any, **options: Any) -> Any:
        if refused():
            raise error
        return real(*args, **options)

    monkeypatch.setattr(target, name, refusing)


@pytest.mark.parametrize("method", sorted(READINGS))
@pytest.mark.parametrize("error", [psutil.AccessDenied(1), PermissionError("no"), NotImplementedError("no")])
def test_an_error_of_psutil_becomes_an_output_error(monkeypatch, method, error):
    """Whatever psutil raises becomes an `OutputError` that says which reading it was and why."""
    monitor, (function, what) = PsutilMonitor(), READINGS[method]
    refuse(monkeypatch, function, lambda: True, error)
    with pytest.raises(OutputError) as caught:
        getattr(monitor, method)()
    assert what in str(caught.value)
    assert repr(error) in str(caught.value)


def test_the_constructor_works_if_the_system_refuses_readings(monkeypatch):
    """It reads nothing that may be refused."""
    for function in ("cpu_times", "virtual_memory", "Process.__init__"):
        refuse(monkeypatch, function, lambda: True, psutil.AccessDenied(1))
    PsutilMonitor()


@pytest.mark.slow
def test_an_hour_with_failures_has_gaps_and_a_few_warnings(clock, monkeypatch, caplog):
    """A failed reading is missing, the others are recorded, and consecutive failures are one warning."""
    spells: dict[str, tuple[str, list[range], set[str]]] = {
        "virtual_memory": (
            "memory",
            [range(100, 120), range(200, 201)],
            {name for name in NAMES if ".memory." in name},
        ),
        "cpu_times": ("CPU", [range(50, 53)], {name for name in NAMES if ".cpu." in name}),
        "disk_usage": ("disk", [range(300, 360)], {name for name in NAMES if ".filesystem." in name}),
        "net_io_counters": (
            "network",
            [range(at, at + 1) for at in range(30, 360, 60)],
            {name for name in NAMES if ".network." in name},
        ),
        "Process.num_threads": (
            "process",
            [range(10, 350)],
            {"process.thread.count", "process.unix.file_descriptor.count", "process.uptime"} & NAMES,
        ),
    }
    store = Store(clock)
    monitor = PsutilMonitor(InMemoryCollector(store), clock)
    step = 0

    def fails(function: str) -> bool:
        return any(step in spell for spell in spells[function][1])

    for function in spells:
        refuse(monkeypatch, function, lambda at=function: fails(at), psutil.AccessDenied(1, "a process"))

    def recorded_just_now(name: str) -> bool:
        try:
            return store.summary(name, timedelta(seconds=5))["count"] > 0
        except UnknownMetricError:
            return False

    for step in range(360):
        clock.advance(10)
        monitor.sample()
        missing = set().union(*(names for function, (_, _, names) in spells.items() if fails(function)))
        assert {name for name in NAMES if recorded_just_now(name)} == NAMES - missing, step

    for kind, ranges, names in spells.values():
        lost = sum(map(len, ranges))
        for name in names:
            series = sum(1 for reading in store.readings() if reading.name == name)
            assert store.summary(name)["count"] == (360 - lost) * series, name
        said = [record for record in caplog.records if f"no reading of the {kind}" in record.getMessage()]
        assert len(said) == len(ranges), kind
        assert all("AccessDenied" in record.getMessage() for record in said)
    assert len(caplog.records) == sum(len(ranges) for _, ranges, _ in spells.values())


# -- forks ---------------------------------------------------------------------------------------------------


def in_a_child(work: Callable[[], Any]) -> Any:
    """Return the return value of ``work`` in a forked child, by way of JSON."""
    return json.loads(children.in_a_child(lambda: json.dumps(work())))


@pytest.mark.slow
@forks
def test_a_child_reads_its_own_memory():
    """The memory of a child is in its readings, and its peak starts at the fork."""
    monitor = PsutilMonitor()
    held = b"x" * 200 * MEGABYTE
    monitor.get_memory_usage()
    del held
    parent = monitor.get_memory_usage()

    def child() -> list[dict[str, float]]:
        before = monitor.get_memory_usage()
        held = b"x" * 100 * MEGABYTE
        after = monitor.get_memory_usage()
        del held
        return [before, after, monitor.get_memory_usage()]

    before, after, last = in_a_child(child)
    assert before["process_peak_rss"] < parent["process_peak_rss"] - 100 * MEGABYTE
    assert after["process_rss"] > before["process_rss"] + 90 * MEGABYTE
    assert last["process_rss"] < after["process_rss"] - 90 * MEGABYTE
    assert last["process_peak_rss"] >= after["process_rss"]


@pytest.mark.slow
@forks
def test_average_and_uptime_of_a_child_start_at_the_fork(clock):
    """Those of the parent continue."""
    monitor = PsutilMonitor(clock=clock)
    spend(0.3)
    clock.advance(10)
    monitor.get_cpu_usage()

    def child() -> list[float]:
        spend(0.2)
        clock.advance(2)
        cpu = monitor.get_cpu_usage()
        uptime = monitor.get_process_usage()["uptime"]
        return [cpu["process_average_percent"], cpu["process_percent"], uptime]

    average, percent, uptime = in_a_child(child)
    assert average == pytest.approx(10, rel=0.3)
    assert percent == average
    assert uptime == 2.0
    assert monitor.get_cpu_usage()["process_average_percent"] == pytest.approx(3, rel=0.3)


@forks
def test_background_monitoring_continues_in_a_child(running):
    """The child records its own readings and can stop, even if all locks were held at the fork."""
    collector = Watched()
    monitor = running(collector, 0.005)
    collector.wait(len(NAMES))

    def child() -> list[Any]:
        collector.recorded = threading.Semaphore(0)
        collector.wait(2 * len(NAMES))
        own = psutil.Process().memory_info().rss
        monitor.start_resource_monitoring(1)
        monitor.stop_resource_monitoring()
        last = collector.store.summary("process.memory.usage")["last"]
        return [len(background_threads()), abs(last - own) < 20 * MEGABYTE]

    with monitor._lock:
        assert in_a_child(child) == [0, True]
    assert len(background_threads()) == 1


# -- in the background ---------------------------------------------------------------------------------------


def test_background_monitoring_records_gauges(running):
    """Each reading is recorded as a gauge, at once and at each interval."""
    collector = Watched()
    monitor = running(collector, 0.01)
    collector.wait(200)  # three rounds are some 110
    monitor.stop_resource_monitoring()
    assert {reading.name for reading in collector.store.readings()} == NAMES
    for name in NAMES:
        assert collector.store.summary(name)["count"] >= 2
    assert collector.store.summary("process.memory.usage")["last"] > 5 * MEGABYTE


def test_the_first_reading_does_not_wait_for_the_interval(running):
    """With an interval of an hour the first readings are recorded at once."""
    collector = Watched()
    running(collector, 3_600)
    collector.wait(len(NAMES))


def test_starting_twice_is_starting_once(running):
    """A second start does nothing; one thread reads."""
    before = len(background_threads())
    monitor = running(Watched(), 3_600)
    monitor.start_resource_monitoring(3_600)
    assert len(background_threads()) == before + 1


def test_stopping_ends_the_thread(running):
    """After a stop nothing is recorded, and a second stop does nothing."""
    before, collector = set(background_threads()), Watched()
    monitor = running(collector, 0.001)
    collector.wait(20)
    monitor.stop_resource_monitoring()
    assert set(background_threads()) == before
    recorded = collector.store.recorded
    monitor.stop_resource_monitoring()
    time.sleep(0.02)  # twenty intervals
    assert collector.store.recorded == recorded


def test_stopping_does_not_wait_for_the_interval(running):
    """A monitor with a long interval is stopped at once."""
    monitor = running(Watched(), 3_600)
    start = time.perf_counter()
    monitor.stop_resource_monitoring()
    assert time.perf_counter() - start < PATIENCE


def test_a_monitor_may_be_started_again(running):
    """After a stop a new start reads again."""
    collector = Watched()
    monitor = running(collector, 3_600)
    collector.wait(1)
    monitor.stop_resource_monitoring()
    while collector.recorded.acquire(blocking=False):
        pass
    monitor.start_resource_monitoring(3_600)
    collector.wait(1)


def test_a_monitor_that_was_never_started_may_be_stopped():
    """A stop without a start does nothing."""
    PsutilMonitor().stop_resource_monitoring()


def test_a_collector_may_stop_the_monitor_that_feeds_it():
    """A stop in the background thread does not wait for itself."""
    stopped = threading.Event()

    class Stopping(InMemoryCollector):
        def record_gauge(self, name, value, tags=None):
            monitor.stop_resource_monitoring()
            stopped.set()

    monitor = PsutilMonitor(Stopping())
    monitor.start_resource_monitoring(3_600)
    assert stopped.wait(PATIENCE)
    for thread in background_threads():
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_without_a_collector_the_peak_is_tracked():
    """A monitor without a collector may run in the background too."""
    before = len(background_threads())
    monitor = PsutilMonitor()
    monitor.start_resource_monitoring(0.001)
    assert len(background_threads()) == before + 1
    monitor.stop_resource_monitoring()
    assert len(background_threads()) == before


def test_a_failing_collector_does_not_end_the_monitoring(running, caplog):
    """Consecutive failures are one warning, and readings are recorded again after them."""
    collector = Watched(failures=5)
    running(collector, 0.001)
    collector.wait(100)  # more than a round
    warnings = [record for record in caplog.records if record.name == "metrics_framework"]
    assert len(warnings) == 1
    assert warnings[0].levelname == "WARNING"
    assert "the collector is out of order" in warnings[0].getMessage()


def test_a_failure_after_a_success_is_logged_again(running, caplog):
    """The log has one warning for each sequence of failures."""
    collector = Watched(failures=3)
    running(collector, 0.001)
    collector.wait(100)  # more than a round
    collector.failures = 3
    for _ in range(6):
        assert collector.failed.acquire(timeout=PATIENCE)
    while collector.recorded.acquire(blocking=False):
        pass
    collector.wait(100)  # more than a round
    warnings = [record for record in caplog.records if record.name == "metrics_framework"]
    assert len(warnings) == 2


@pytest.mark.parametrize("interval", [0, -1, 0.0, math.nan, math.inf, 1e12, True, "60", None])
def test_an_interval_is_a_positive_number_of_seconds(interval):
    """Anything else is refused, and starts nothing."""
    before = len(background_threads())
    with pytest.raises(InvalidInputError, match="interval="):
        PsutilMonitor().start_resource_monitoring(interval)
    assert len(background_threads()) == before


@pytest.mark.slow
def test_monitoring_runs_until_it_is_stopped():
    """Background monitoring keeps its monitor, also if the program does not."""
    before, collector = set(background_threads()), Watched()
    PsutilMonitor(collector).start_resource_monitoring(0.001)
    for _ in range(3):
        gc.collect()
        collector.wait(len(NAMES))
    (thread,) = set(background_threads()) - before
    monitor = thread._target.__self__._work.__self__
    monitor.stop_resource_monitoring()
    assert not thread.is_alive()


@pytest.mark.slow
def test_a_running_monitor_does_not_keep_the_program_alive():
    """A program that never stops its monitor exits."""
    code = (
        "from metrics_adapters.resources import PsutilMonitor\n"
        "monitor = PsutilMonitor()\n"
        "monitor.start_resource_monitoring(3600)\n"
        "print('done')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (0, "done\n")
