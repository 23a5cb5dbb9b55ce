"""The contract of `ResourceMonitor`."""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping

import pytest

from metrics_framework.protocols import ResourceMonitor
from metrics_framework.testing.conformance.base import Demands, check_keys, check_members, time_limit

MEMORY_KEYS = {"used", "available", "total", "percent", "process_rss", "process_peak_rss"}
CPU_KEYS = {"percent", "process_percent", "load_1m", "load_5m", "load_15m", "count"}
DISK_KEYS = {"used", "free", "total", "percent"}
NETWORK_KEYS = {
    "bytes_sent",
    "bytes_received",
    "packets_sent",
    "packets_received",
    "errors_in",
    "errors_out",
    "drops_in",
    "drops_out",
}


class ResourceMonitorContract(Demands, ABC):
    """Every sentence of `ResourceMonitor`.

    Attributes:
        unknown_keys: Readings that this monitor cannot know.
    """

    unknown_keys: frozenset[str] | set[str] = frozenset()

    @abstractmethod
    def make_monitor(self) -> ResourceMonitor:
        """Create the monitor."""

    @pytest.fixture
    def monitor(self) -> ResourceMonitor:
        """Return the monitor."""
        monitor = self.make_monitor()
        check_members(monitor, ResourceMonitor)
        return monitor

    def read(self, reading: Mapping[str, float], keys: set[str]) -> Mapping[str, float]:
        """Assert that a reading has its keys and no negative number."""
        check_keys(reading, keys - set(self.unknown_keys), "the reading", only=False)
        assert all(value >= 0 for value in reading.values())
        assert 0 <= reading.get("percent", 0) <= 100
        return reading

    def test_memory_is_in_bytes(self, monitor: ResourceMonitor) -> None:
        """All keys are present; used and available memory fit into the total."""
        memory = self.read(monitor.get_memory_usage(), MEMORY_KEYS)
        total = memory.get("total", math.inf)
        assert 0 < memory.get("used", 1) <= total
        assert 0 < memory.get("available", 1) <= total
        rss = memory.get("process_rss", 2_000_000)
        assert memory.get("process_peak_rss", rss) >= rss * 0.9 > 1_000_000  # an interpreter takes more

    def test_the_cpu_is_in_percent(self, monitor: ResourceMonitor) -> None:
        """All keys are present; the process may use every core, the machine at most 100."""
        cpu = self.read(monitor.get_cpu_usage(), CPU_KEYS)
        assert cpu.get("count", 1) >= 1

    def test_a_disk_is_in_bytes(self, monitor: ResourceMonitor) -> None:
        """All keys are present, for the disk that holds a path."""
        for disk in (monitor.get_disk_usage(path) for path in ("/", ".")):
            self.read(disk, DISK_KEYS)
            assert disk.get("used", 0) + disk.get("free", 0) <= disk.get("total", math.inf)
        self.read(monitor.get_disk_usage(), DISK_KEYS)

    def test_the_network_only_counts_up(self, monitor: ResourceMonitor) -> None:
        """All keys are present, as integers that never decrease."""
        before, after = monitor.get_network_stats(), monitor.get_network_stats()
        self.read(before, NETWORK_KEYS)
        assert all(isinstance(value, int) for value in before.values())
        assert all(after[key] >= before[key] for key in before)

    def test_starting_and_stopping_twice_is_harmless(self, monitor: ResourceMonitor) -> None:
        """A second start or stop does nothing, and no thread remains."""
        with time_limit():
            self.start_and_stop(monitor)

    def start_and_stop(self, monitor: ResourceMonitor) -> None:
        """Start and stop twice, repeat that, and count the threads."""
        threads = threading.active_count()
        monitor.stop_resource_monitoring()
        monitor.start_resource_monitoring(3_600)
        running = threading.active_count()
        monitor.start_resource_monitoring(3_600)
        assert threading.active_count() == running
        monitor.stop_resource_monitoring()
        monitor.stop_resource_monitoring()
        assert threading.active_count() == threads
        monitor.start_resource_monitoring(3_600)
        monitor.stop_resource_monitoring()
        assert threading.active_count() == threads
