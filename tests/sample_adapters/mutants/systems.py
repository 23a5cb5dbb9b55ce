"""Monitors and systems that are wrong in one way each."""

# ruff: noqa: D101, D102 - the name of a mutant states its fault

from __future__ import annotations

import threading

import pytest

from metrics_adapters.in_memory import InMemoryAggregator, InMemoryCollector
from metrics_adapters.resources import PsutilMonitor
from metrics_framework import MetricsSystem
from metrics_framework.errors import ConfigurationError, InvalidInputError
from metrics_framework.streams import sources
from metrics_framework.testing import conformance


class KeyMissing(PsutilMonitor):
    def get_memory_usage(self):
        return {key: value for key, value in super().get_memory_usage().items() if key != "available"}


class MemoryInMegabytes(PsutilMonitor):
    def get_memory_usage(self):
        found = super().get_memory_usage()
        return {key: value if key == "percent" else value / 1e6 for key, value in found.items()}


class MemoryAsShare(PsutilMonitor):
    def get_memory_usage(self):
        return {**super().get_memory_usage(), "percent": 4200.0}


class PeakBelowNow(PsutilMonitor):
    def get_memory_usage(self):
        return {**super().get_memory_usage(), "process_peak_rss": 1.0}


class CpuWithoutLoad(PsutilMonitor):
    def get_cpu_usage(self):
        return {key: value for key, value in super().get_cpu_usage().items() if not key.startswith("load")}


class NoCpus(PsutilMonitor):
    def get_cpu_usage(self):
        return {**super().get_cpu_usage(), "count": 0}


class DiskNeedsPath(PsutilMonitor):
    def get_disk_usage(self, path):
        return super().get_disk_usage(path)


class DiskUsedIsTotal(PsutilMonitor):
    def get_disk_usage(self, path="/"):
        found = super().get_disk_usage(path)
        return {**found, "used": found["total"]}


class NetworkInFloats(PsutilMonitor):
    def get_network_stats(self):
        return {key: float(value) for key, value in super().get_network_stats().items()}


class NetworkBothWays(PsutilMonitor):
    def get_network_stats(self):
        found = super().get_network_stats()
        return {key: value for key, value in found.items() if not key.startswith("packets")}


class NetworkPerCall(PsutilMonitor):
    """Says what came since the last call."""

    last = 0

    def get_network_stats(self):
        self.last += 1
        return dict.fromkeys(super().get_network_stats(), 10 // self.last)


class StopHangs(PsutilMonitor):
    def stop_resource_monitoring(self):
        super().stop_resource_monitoring()
        threading.Event().wait()


class StopLeavesThread(PsutilMonitor):
    def stop_resource_monitoring(self):
        """Do nothing."""


class StartsTwice(PsutilMonitor):
    def start_resource_monitoring(self, interval=60.0):
        threading.Thread(target=threading.Event().wait, args=(5,), daemon=True).start()


class SecondStartRaises(PsutilMonitor):
    running = False

    def start_resource_monitoring(self, interval=60.0):
        if self.running:
            raise RuntimeError("running already")
        self.running = True
        super().start_resource_monitoring(interval)


class StopNeedsStart(PsutilMonitor):
    def stop_resource_monitoring(self):
        if self._background is None:
            raise RuntimeError("not running")
        super().stop_resource_monitoring()


class System(MetricsSystem):
    """Ours, to be mutated."""


class ConfigurationAnyKey(System):
    def initialize_metrics(self, config):
        super().initialize_metrics({key: config[key] for key in config if key != "no_such_key"})


class ConfigurationUnquoted(System):
    def initialize_metrics(self, config):
        try:
            super().initialize_metrics(config)
        except ConfigurationError:
            raise ConfigurationError("bad configuration") from None


class ShutsDownOnce(System):
    def shutdown_metrics(self):
        if self._shutdown.begun:
            raise RuntimeError("closed")
        super().shutdown_metrics()


class AlwaysHealthy(System):
    def get_system_health(self):
        return {**super().get_system_health(), "healthy": True}


class ErrorsInPercent(System):
    def get_system_health(self):
        health = super().get_system_health()
        return {**health, "error_rate": 100 * health["error_rate"]}


class HealthWithoutVerdict(System):
    def get_system_health(self):
        return {key: value for key, value in super().get_system_health().items() if key != "healthy"}


class EmptyDashboards(System):
    def create_dashboard_data(self, dashboard_type="overview"):
        super().create_dashboard_data(dashboard_type)
        return {}


class AnyDashboard(System):
    def create_dashboard_data(self, dashboard_type="overview"):
        try:
            return super().create_dashboard_data(dashboard_type)
        except InvalidInputError:
            return super().create_dashboard_data()


class PartsApart(System):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.__dict__["aggregator"] = InMemoryAggregator()


class AsyncSystem(MetricsSystem):
    """Ours, to be mutated in its async half."""


class CollectsNothing(AsyncSystem):
    async def collect_metrics_async(self):
        """Do nothing."""


class EveryEndpointSucceeds(AsyncSystem):
    async def export_metrics_async(self, endpoints):
        return dict.fromkeys(endpoints, True)


class ExportRaises(AsyncSystem):
    async def export_metrics_async(self, endpoints):
        raise OSError("no such endpoint")


class ExportForgetsTheDead(AsyncSystem):
    async def export_metrics_async(self, endpoints):
        return {}


class StreamIgnoresFilters(AsyncSystem):
    def metrics_stream(self, filters=None):
        super().metrics_stream(filters)
        return super().metrics_stream()


class StreamTakesAnyFilter(AsyncSystem):
    def metrics_stream(self, filters=None):
        return super().metrics_stream(
            {key: value for key, value in (filters or {}).items() if key != "colour"}
        )


class StreamStartsLate(AsyncSystem):
    """Misses what happens between the call and the first wait."""

    async def metrics_stream(self, filters=None):
        async for value in super().metrics_stream(filters):
            yield value


class StreamSwallowsCancellation(AsyncSystem):
    async def metrics_stream(self, filters=None):
        inner = super().metrics_stream(filters)
        try:
            async for value in inner:
                yield value
        except BaseException:  # noqa: BLE001 - the fault of this mutant
            return


class MadeMonitor:
    """Makes a mutated monitor."""

    mutant: type

    def make_monitor(self):
        """Create it."""
        return self.mutant(InMemoryCollector())


class MadeSystem:
    """Makes a mutated system."""

    mutant: type

    @pytest.fixture(autouse=True)
    def quick(self, monkeypatch):
        """Let streams look for changes all the time, and wait for no more than a moment."""
        monkeypatch.setattr(sources, "POLL_SECONDS", 0.001)
        monkeypatch.setattr(conformance.system, "CALL_TIMEOUT_SECONDS", 1)

    def make_system(self, clock):
        """Create it."""
        return self.mutant(clock=clock)


for _base, _made, _contract in (
    (PsutilMonitor, MadeMonitor, conformance.ResourceMonitorContract),
    (System, MadeSystem, conformance.MetricsSystemContract),
    (AsyncSystem, MadeSystem, conformance.AsyncMetricsSystemContract),
):
    for _mutant in [kind for kind in _base.__subclasses__() if kind.__module__ == __name__]:
        _name = f"Test{_mutant.__name__}"
        globals()[_name] = type(_name, (_made, _contract), {"mutant": _mutant})
