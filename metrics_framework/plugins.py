"""Loads adapters by name.

Built-in adapters are in a table of module paths: loading one needs no scan, works in a frozen application,
and imports nothing else. Other names are looked up in the entry-point group ``metrics_framework.adapters``,
where third parties register adapters.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from metrics_framework.errors import UnknownAdapterError, nearest

ENTRY_POINT_GROUP = "metrics_framework.adapters"

BUILT_IN = {
    "asgi.server": "metrics_adapters.asgi:serve_app",
    "combined": "metrics_adapters.combined:CombinedAggregator",
    "fan_out": "metrics_adapters.fan_out:FanOutCollector",
    "gpu": "metrics_adapters.gpu:GpuMonitor",
    "in_memory.aggregator": "metrics_adapters.in_memory:InMemoryAggregator",
    "in_memory.collector": "metrics_adapters.in_memory:InMemoryCollector",
    "in_memory.timer": "metrics_adapters.in_memory:InMemoryTimer",
    "in_memory.tracker": "metrics_adapters.in_memory:InMemoryTracker",
    "null.aggregator": "metrics_adapters.null:NullAggregator",
    "null.collector": "metrics_adapters.null:NullCollector",
    "null.monitor": "metrics_adapters.null:NullMonitor",
    "null.timer": "metrics_adapters.null:NullTimer",
    "null.tracker": "metrics_adapters.null:NullTracker",
    "prometheus.collector": "metrics_adapters.prometheus:PrometheusCollector",
    "prometheus.pushgateway": "metrics_adapters.prometheus:Pushgateway",
    "prometheus.server": "metrics_adapters.prometheus:serve",
    "prometheus.registry": "metrics_adapters.prometheus:RegistryAggregator",
    "prometheus.textfile": "metrics_adapters.prometheus:Textfile",
    "resources": "metrics_adapters.resources:PsutilMonitor",
    "resources.command": "metrics_adapters.resources:CommandMonitor",
    "snapshot_writer": "metrics_adapters.snapshot_writer:SnapshotWriter",
    "snapshot_writer.aggregator": "metrics_adapters.snapshot_writer:SnapshotAggregator",
    "snapshot_writer.collector": "metrics_adapters.snapshot_writer:SnapshotCollector",
    "snapshot_writer.timer": "metrics_adapters.snapshot_writer:SnapshotTimer",
    "snapshot_writer.tracker": "metrics_adapters.snapshot_writer:SnapshotTracker",
}


def load_adapter(name: str) -> Any:
    """Return the class or function that creates the adapter ``name``.

    Raises:
        UnknownAdapterError: If neither the table nor an installed package has the name.
    """
    return load_from(BUILT_IN, ENTRY_POINT_GROUP, name)


def load_from(built_in: Mapping[str, str], group: str, name: str) -> Any:
    """Load ``name`` from a table of module paths, or else from a group of entry points.

    Raises:
        UnknownAdapterError: If neither has the name.
    """
    if name in built_in:
        module, _, attribute = built_in[name].partition(":")
        return getattr(import_module(module), attribute)
    from importlib.metadata import entry_points  # slow to import

    installed = entry_points(group=group)
    for entry_point in installed:
        if entry_point.name == name:
            return entry_point.load()
    raise UnknownAdapterError(
        f"no adapter {name!r} is installed.{nearest(name, {*built_in, *installed.names})}"
    )
