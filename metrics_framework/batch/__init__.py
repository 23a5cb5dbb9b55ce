"""Batch jobs: metrics of each file while they run, a summary, JSON and CSV at the end.

`BatchMetrics` is where to start. Names, JSON and CSV are those of tracekit's batch metrics.
"""

from metrics_framework.batch.files import FileRun
from metrics_framework.batch.metrics import BatchMetrics, get_batch_stats
from metrics_framework.batch.models import (
    BatchMetricsSummary,
    ErrorBreakdown,
    FileMetrics,
    ThroughputStats,
    TimingStats,
)
from metrics_framework.batch.rows import Counts
from metrics_framework.batch.track import Track

__all__ = [
    "BatchMetrics",
    "BatchMetricsSummary",
    "Counts",
    "ErrorBreakdown",
    "FileMetrics",
    "FileRun",
    "ThroughputStats",
    "TimingStats",
    "Track",
    "get_batch_stats",
]
