"""Resource readings as gauges.

Names follow OpenTelemetry's semantic conventions for system and process metrics.
"""

from __future__ import annotations

from metrics_framework.protocols import MetricCollector, ResourceMonitor

MEMORY_GAUGES = {
    "used": "system.memory.usage",
    "available": "system.memory.available",
    "total": "system.memory.limit",
    "percent": "system.memory.percent",
    "process_rss": "process.memory.usage",
    "process_peak_rss": "process.memory.peak",
}
CPU_GAUGES = {
    "percent": "system.cpu.percent",
    "process_percent": "process.cpu.percent",
    "load_1m": "system.cpu.load_1m",
    "load_5m": "system.cpu.load_5m",
    "load_15m": "system.cpu.load_15m",
    "count": "system.cpu.logical.count",
}
RESOURCE_GAUGES = frozenset({*MEMORY_GAUGES.values(), *CPU_GAUGES.values()})
"""Every name that `record_resources` records."""


def record_resources(monitor: ResourceMonitor, collector: MetricCollector) -> None:
    """Read memory and CPU once and record each reading as a gauge."""
    for reading, names in (
        (monitor.get_memory_usage(), MEMORY_GAUGES),
        (monitor.get_cpu_usage(), CPU_GAUGES),
    ):
        for key, name in names.items():
            if key in reading:
                collector.record_gauge(name, reading[key])
