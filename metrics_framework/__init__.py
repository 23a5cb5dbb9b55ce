"""Metrics for Python behind six Protocols for parts and one for the system.

Start with `MetricsSystem`; pass its parts on as the Protocols of `metrics_framework.protocols`.
"""

import typing

from metrics_framework._version import __version__
from metrics_framework.context import current, use
from metrics_framework.errors import (
    ClosedError,
    ConfigurationError,
    DistributionsError,
    InvalidInputError,
    MetricsError,
    MetricTypeError,
    MissingExtraError,
    OutputError,
    RefusedError,
    SchemaVersionError,
    SnapshotError,
    UnknownAdapterError,
    UnknownMetricError,
    UnknownNameError,
    UnknownTimerError,
)
from metrics_framework.health import Thresholds
from metrics_framework.protocols import (
    AsyncMetricsSystem,
    MetricCollector,
    MetricsAggregator,
    PerformanceTimer,
    ResourceMonitor,
    SuccessFailureTracker,
)
from metrics_framework.snapshots import (
    Environment,
    LatencyMetrics,
    Metrics,
    PerformanceSnapshot,
    SnapshotMetadata,
    read_snapshot,
)
from metrics_framework.system import MetricsSystem
from metrics_framework.values import MetricType, MetricUnit, MetricValue, TimingResult

if typing.TYPE_CHECKING:
    from metrics_framework.recording import Rule

__all__ = [
    "AsyncMetricsSystem",
    "ClosedError",
    "ConfigurationError",
    "DistributionsError",
    "Environment",
    "InvalidInputError",
    "LatencyMetrics",
    "MetricCollector",
    "MetricType",
    "MetricTypeError",
    "MetricUnit",
    "MetricValue",
    "Metrics",
    "MetricsAggregator",
    "MetricsError",
    "MetricsSystem",
    "MissingExtraError",
    "OutputError",
    "PerformanceSnapshot",
    "PerformanceTimer",
    "RefusedError",
    "ResourceMonitor",
    "Rule",
    "SchemaVersionError",
    "SnapshotError",
    "SnapshotMetadata",
    "SuccessFailureTracker",
    "Thresholds",
    "TimingResult",
    "UnknownAdapterError",
    "UnknownMetricError",
    "UnknownNameError",
    "UnknownTimerError",
    "__version__",
    "current",
    "read_snapshot",
    "use",
]


def __getattr__(name: str) -> object:
    if name == "Rule":  # slow to import; code that only uses the Protocols does not need it
        from metrics_framework.recording import Rule

        return Rule
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
