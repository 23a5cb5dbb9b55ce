"""The resource monitor reads this very machine and process."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from metrics_adapters.in_memory import InMemoryCollector
from metrics_adapters.resources import PsutilMonitor
from metrics_framework.clock import ManualClock
from metrics_framework.errors import InvalidInputError
from metrics_framework.resources import CPU_GAUGES, MEMORY_GAUGES

MEGABYTE = 1_000_000
PATIENCE = 20.0
THREAD = "metrics-resource-reading"


def background_threads() -> list[threading.Thread]:
    """Return the threads that read in the background."""
    return [thread for thread in threading.enumerate() if thread.name == THREAD]


def in_a_process_of_its_own(code: str) -> dict[str, dict[str, float]]:
    """Run code that prints JSON in a fresh process, whose memory no other test has touched."""
    preamble = (
        "import json\nfrom metrics_adapters.resources import PsutilMonitor\nmonitor = PsutilMonitor()\n"
        "read = monitor.get_memory_usage\n"
    )
    done = subprocess.run([sys.executable, "-c", preamble + code], capture_output=True, text=True, check=True)
    found: dict[str, dict[str, float]] = json.loads(done.stdout)
    return found


class Watched(InMemoryCollector):
    """A collector that says when it was given something, and fails as often as it is told to."""

    def __init__(self, failures: int = 0):
        super().__init__()
        self.failures = failures
        self.recorded, self.failed = threading.Semaphore(0), threading.Semaphore(0)

    def record_gauge(self, name, value, tags=None):
        """Fail, or record and say so."""
        if self.failures:
            self.failures -= 1
            self.failed.release()
            raise OSError("the collector is out of order")
        super().record_gauge(name, value, tags)
        self.recorded.release()

    def wait(self, number: int) -> None:
        """Wait for that many gauges."""
        for _ in range(number):
            assert self.recorded.acquire(timeout=PATIENCE)


@pytest.fixture
def running():
    """Return a function that starts a monitor in the background; it is stopped at the end of the test."""
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
    """Memory is the machine's and the process', in bytes, with the share that is used."""
    memory = PsutilMonitor().get_memory_usage()
    assert memory.keys() == {"used", "available", "total", "percent", "process_rss", "process_peak_rss"}
    assert all(isinstance(value, (int, float)) and math.isfinite(value) for value in memory.values())
    assert memory["total"] == psutil.virtual_memory().total
    assert 0 < memory["used"] < memory["total"]
    assert 0 < memory["available"] <= memory["total"]
    assert 0 < memory["percent"] <= 100
    # A Python interpreter takes megabytes, and less than the machine has.
    assert 5 * MEGABYTE < memory["process_rss"] <= memory["process_peak_rss"] < memory["total"]


def test_the_peak_never_falls_below_what_is_used():
    """Reading after reading the peak grows at most, and is never less than the memory of that moment."""
    monitor, peak = PsutilMonitor(), 0.0
    for size in (1, 30, 3, 60, 1):
        held = b"x" * size * MEGABYTE
        memory = monitor.get_memory_usage()
        del held
        assert memory["process_peak_rss"] >= max(peak, memory["process_rss"])
        peak = memory["process_peak_rss"]


@pytest.mark.skipif(sys.platform not in ("linux", "win32"), reason="the system does not tell a process' peak")
def test_a_peak_between_two_readings_is_seen():
    """Memory that was taken and given back before anyone looked is in the peak, and not in what is used."""
    found = in_a_process_of_its_own(
        "before = read()\n"
        f"held = b'x' * {200 * MEGABYTE}\n"
        "del held\n"
        "print(json.dumps({'before': before, 'after': read()}))\n"
    )
    before, after = found["before"], found["after"]
    assert after["process_peak_rss"] >= before["process_rss"] + 190 * MEGABYTE
    assert after["process_rss"] < before["process_rss"] + 100 * MEGABYTE


def test_a_peak_is_that_of_this_process():
    """A process that was started by a large one does not inherit its peak."""
    held = b"x" * 300 * MEGABYTE
    found = in_a_process_of_its_own("print(json.dumps({'memory': read()}))\n")
    del held
    assert found["memory"]["process_peak_rss"] < 200 * MEGABYTE


# -- CPU -----------------------------------------------------------------------------------------------------


def test_cpu_has_every_key():
    """CPU is percentages, load averages and the number of cores."""
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
    assert cpu["count"] == os.cpu_count()
    assert min(cpu["load_1m"], cpu["load_5m"], cpu["load_15m"]) >= 0


def test_no_time_has_no_average(clock: ManualClock):
    """At the moment that it is made a monitor has no average, and does not divide by zero."""
    assert PsutilMonitor(clock=clock).get_cpu_usage()["process_average_percent"] == 0.0


def spend(seconds: float) -> float:
    """Keep a core busy until the process has used so much CPU; return how long that took."""
    start, until = time.perf_counter(), time.process_time() + seconds
    while time.process_time() < until:
        pass
    return time.perf_counter() - start


@pytest.mark.heavy
def test_a_busy_process_uses_a_core():
    """The average since the start is the CPU time by the time that went by: about 100 for one busy core."""
    monitor = PsutilMonitor()
    took = spend(1.0)
    cpu = monitor.get_cpu_usage()
    # On a machine that is busy with other things as well, less than all of a core was to be had.
    expected = 100 * 1.0 / took
    assert cpu["process_average_percent"] == pytest.approx(expected, rel=0.2)
    assert cpu["process_percent"] == pytest.approx(expected, rel=0.3)
    assert cpu["percent"] > 0


@pytest.mark.heavy
def test_an_idle_process_uses_nothing():
    """The average falls where nothing is done."""
    monitor = PsutilMonitor()
    spend(0.2)
    busy = monitor.get_cpu_usage()["process_average_percent"]
    time.sleep(1.0)  # the CPU that is not used is the machine's own
    assert monitor.get_cpu_usage()["process_average_percent"] < busy / 2


def test_every_thread_gets_a_reading():
    """The machine's percentage is since the last reading, also where that one came from another thread."""
    monitor = PsutilMonitor()
    spend(0.1)
    with ThreadPoolExecutor(1) as other:
        assert other.submit(monitor.get_cpu_usage).result()["percent"] > 0


# -- disk and network ----------------------------------------------------------------------------------------


def test_disk_has_every_key_in_bytes(tmp_path):
    """A disk's sizes are bytes and fit together."""
    disk = PsutilMonitor().get_disk_usage(str(tmp_path))
    assert disk.keys() == {"used", "free", "total", "percent"}
    assert disk["total"] == shutil.disk_usage(tmp_path).total
    assert 0 <= disk["used"] <= disk["total"]
    assert 0 <= disk["free"] <= disk["total"]
    assert 0 <= disk["percent"] <= 100


def test_the_root_is_the_default_disk():
    """Without a path it is the disk of the root."""
    assert PsutilMonitor().get_disk_usage()["total"] == shutil.disk_usage("/").total


def test_a_path_that_does_not_exist_is_one_clear_error(tmp_path):
    """The error quotes the path and says why."""
    path = str(tmp_path / "nowhere")
    with pytest.raises(InvalidInputError) as caught:
        PsutilMonitor().get_disk_usage(path)
    assert repr(path) in str(caught.value)
    assert "No such file" in str(caught.value)


def test_network_has_every_key():
    """Network counters are whole numbers that do not fall."""
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


def test_sent_and_received_are_not_mixed_up():
    """Each counter is the one that its name says."""
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


# -- in the background ---------------------------------------------------------------------------------------


def test_background_monitoring_records_gauges(running):
    """At once and at every interval each reading of memory and CPU is recorded as a gauge."""
    collector = Watched()
    running(collector, 0.01)
    names = {*MEMORY_GAUGES.values(), *CPU_GAUGES.values()}
    collector.wait(3 * len(names))
    for name in names:
        assert collector.store.summary(name)["count"] >= 2
    assert collector.store.summary("process.memory.usage")["last"] > 5 * MEGABYTE


def test_the_first_reading_does_not_wait_for_the_interval(running):
    """With an interval of an hour the first readings are there at once."""
    collector = Watched()
    running(collector, 3_600)
    collector.wait(len(MEMORY_GAUGES) + len(CPU_GAUGES))


def test_starting_twice_is_starting_once(running):
    """A second start does nothing; one thread reads."""
    before = len(background_threads())
    monitor = running(Watched(), 3_600)
    monitor.start_resource_monitoring(3_600)
    assert len(background_threads()) == before + 1


def test_stopping_ends_the_thread(running):
    """After a stop the thread is gone and nothing is recorded any more; a second stop does nothing."""
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
    """Stopping what does not run is no error."""
    PsutilMonitor().stop_resource_monitoring()


def test_a_collector_may_stop_the_monitor_that_feeds_it():
    """Stopping from the background thread itself does not wait for itself."""
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


def test_without_a_collector_the_peak_is_followed():
    """A monitor without a collector may run in the background too."""
    before = len(background_threads())
    monitor = PsutilMonitor()
    monitor.start_resource_monitoring(0.001)
    assert len(background_threads()) == before + 1
    monitor.stop_resource_monitoring()
    assert len(background_threads()) == before


def test_a_failing_collector_does_not_end_the_monitoring(running, caplog):
    """A failure that goes on is one warning; when it is over, readings are recorded again."""
    collector = Watched(failures=5)
    running(collector, 0.001)
    collector.wait(20)
    warnings = [record for record in caplog.records if record.name == "metrics_framework"]
    assert len(warnings) == 1
    assert warnings[0].levelname == "WARNING"
    assert "the collector is out of order" in warnings[0].getMessage()


def test_each_spell_of_failures_is_one_warning(running, caplog):
    """A collector that fails again after it had worked is warned of again."""
    collector = Watched(failures=3)
    running(collector, 0.001)
    collector.wait(20)
    collector.failures = 3
    for _ in range(6):
        assert collector.failed.acquire(timeout=PATIENCE)
    while collector.recorded.acquire(blocking=False):
        pass
    collector.wait(20)
    warnings = [record for record in caplog.records if record.name == "metrics_framework"]
    assert len(warnings) == 2


@pytest.mark.parametrize("interval", [0, -1, 0.0, math.nan, math.inf, 1e12, True, "60", None])
def test_an_interval_is_a_positive_number_of_seconds(interval):
    """Anything else, also what no clock can wait for, is refused and starts nothing."""
    before = len(background_threads())
    with pytest.raises(InvalidInputError, match="interval="):
        PsutilMonitor().start_resource_monitoring(interval)
    assert len(background_threads()) == before


def test_a_forgotten_monitor_does_not_keep_the_program_alive():
    """A program that never stops its monitor ends all the same."""
    code = (
        "from metrics_adapters.resources import PsutilMonitor\n"
        "PsutilMonitor().start_resource_monitoring(3600)\n"
        "print('done')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (0, "done\n")
