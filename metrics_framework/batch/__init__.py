"""Batch jobs: metrics of each file, progress, a summary, and export to JSON and CSV.

Start with `BatchMetrics`. Names, JSON and CSV are those of tracekit's batch metrics.
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
from metrics_framework.batch.progress import Track
from metrics_framework.batch.rows import Counts

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
