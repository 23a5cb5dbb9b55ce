"""The contract of `ResourceMonitor`."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod

import pytest

from metrics_framework.protocols import ResourceMonitor

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


class ResourceMonitorContract(ABC):
    """Every sentence of `ResourceMonitor`.

    Attributes:
        unknown_keys: Readings that this monitor cannot know.
    """

    unknown_keys: frozenset[str] | set[str] = frozenset()

    @abstractmethod
    def make_monitor(self) -> ResourceMonitor:
        """Make the monitor."""

    @pytest.fixture
    def monitor(self) -> ResourceMonitor:
        """Return the monitor."""
        monitor = self.make_monitor()
        assert isinstance(monitor, ResourceMonitor)
        return monitor

    def test_memory_is_in_bytes(self, monitor: ResourceMonitor) -> None:
        """Every key is there; what is used and what is available fit into the total."""
        memory = monitor.get_memory_usage()
        assert MEMORY_KEYS - set(self.unknown_keys) <= set(memory)
        assert 0 < memory["used"] <= memory["total"]
        assert 0 < memory["available"] <= memory["total"]
        assert 0 <= memory["percent"] <= 100
        if "process_peak_rss" not in self.unknown_keys:
            assert memory["process_peak_rss"] >= memory["process_rss"] * 0.9 > 1_000_000

    def test_the_cpu_is_in_percent(self, monitor: ResourceMonitor) -> None:
        """Every key is there; the process may use every core, the machine has 100."""
        cpu = monitor.get_cpu_usage()
        assert CPU_KEYS - set(self.unknown_keys) <= set(cpu)
        assert cpu["count"] >= 1
        assert 0 <= cpu["percent"] <= 100
        assert cpu["process_percent"] >= 0

    def test_a_disk_is_in_bytes(self, monitor: ResourceMonitor) -> None:
        """Every key is there, for the disk that holds a path."""
        for path in ("/", "."):
            disk = monitor.get_disk_usage(path)
            assert DISK_KEYS - set(self.unknown_keys) <= set(disk)
            assert 0 <= disk["used"] <= disk["total"]
            assert 0 <= disk["percent"] <= 100

    def test_the_network_only_counts_up(self, monitor: ResourceMonitor) -> None:
        """Every key is there, a whole number that never falls."""
        before, after = monitor.get_network_stats(), monitor.get_network_stats()
        assert NETWORK_KEYS - set(self.unknown_keys) <= set(before)
        assert all(isinstance(value, int) for value in before.values())
        assert all(after[key] >= before[key] >= 0 for key in before)

    def test_monitoring_starts_and_stops_twice_without_harm(self, monitor: ResourceMonitor) -> None:
        """A second start or stop does nothing, and no thread is left over."""
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
