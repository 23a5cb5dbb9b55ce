"""Version 1 performance snapshots: models, validation, files, and the builder that reads a system."""

import typing

from metrics_framework.snapshots.build import BuildReport, LeftOut, SnapshotBuilder
from metrics_framework.snapshots.files import LeftOutFile, Run, RunValue, dump_snapshot, read_snapshot
from metrics_framework.snapshots.keys import (
    CustomSeries,
    Measured,
    custom_key,
    find_keys,
    parse_custom_key,
    parse_flat_key,
)
from metrics_framework.snapshots.rules import document_violations, json_schema
from metrics_framework.snapshots.v1 import (
    Environment,
    LatencyMetrics,
    Metrics,
    PerformanceSnapshot,
    SnapshotMetadata,
)

if typing.TYPE_CHECKING:
    from metrics_framework.snapshots.distributions import read_distributions

__all__ = [
    "BuildReport",
    "CustomSeries",
    "Environment",
    "LatencyMetrics",
    "LeftOut",
    "LeftOutFile",
    "Measured",
    "Metrics",
    "PerformanceSnapshot",
    "Run",
    "RunValue",
    "SnapshotBuilder",
    "SnapshotMetadata",
    "custom_key",
    "document_violations",
    "dump_snapshot",
    "find_keys",
    "json_schema",
    "parse_custom_key",
    "parse_flat_key",
    "read_distributions",
    "read_snapshot",
]


def __getattr__(name: str) -> object:
    if name == "read_distributions":  # imported on use: `recording` is slow to import
        from metrics_framework.snapshots.distributions import read_distributions

        return read_distributions
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
