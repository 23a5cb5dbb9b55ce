"""From rows and totals to a summary."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

from metrics_framework.batch.models import (
    BatchMetricsSummary,
    ErrorBreakdown,
    ThroughputStats,
    TimingStats,
    format_timestamp,
)
from metrics_framework.batch.rows import Row, Totals, count_error_types
from metrics_framework.recording import Distribution


def summarize(
    batch_id: str,
    totals: Totals,
    rows: Sequence[Row],
    *,
    start: float | None,
    end: float | None,
    paused: float = 0.0,
) -> BatchMetricsSummary:
    """Return the summary of a batch.

    Args:
        batch_id: Which batch.
        totals: Of the files that are no longer in memory.
        rows: The others.
        start: When it started, in seconds since the epoch.
        end: When it finished.
        paused: For how many seconds in between nobody was at it.
    """
    if totals.counts.files:
        totals = totals.plus(rows)
        if totals.fault is not None:
            raise totals.fault
        counts, error_types = totals.counts, dict(totals.error_types)
        timing = _merged_timing(totals.durations)
        samples, measurements = totals.samples, totals.measurements
    else:
        counts, error_types = totals.counts.plus(rows), count_error_types(rows, {})
        good = [row for row in rows if row[5] == "success"]
        timing = _exact_timing([row[2] for row in good if row[2] > 0])
        samples = sum(map(itemgetter(3), good))
        measurements = sum(map(itemgetter(4), good))
    if start and end:
        timing.total_duration = end - start - paused
    seconds = timing.total_duration
    throughput = ThroughputStats()
    if seconds > 0:
        throughput = ThroughputStats(
            files_per_second=counts.processed / seconds,
            samples_per_second=samples / seconds,
            measurements_per_second=measurements / seconds,
        )
    return BatchMetricsSummary(
        batch_id=batch_id,
        total_files=counts.files,
        processed_count=counts.processed,
        error_count=counts.errors,
        skip_count=counts.skipped,
        timing=timing,
        throughput=throughput,
        errors=ErrorBreakdown(
            by_type=error_types,
            total=counts.errors,
            rate=counts.errors / counts.files if counts.files else 0.0,
        ),
        start_time=format_timestamp(start) if start else "",
        end_time=format_timestamp(end) if end else "",
    )


def _exact_timing(durations: Sequence[Any]) -> TimingStats:
    """Return the timing of files whose durations are all at hand."""
    if not durations:
        return TimingStats()
    import statistics  # slow to import

    return TimingStats(
        total_duration=sum(durations),
        average_per_file=statistics.mean(durations),
        min_per_file=min(durations),
        max_per_file=max(durations),
        median_per_file=statistics.median(durations),
        stddev_per_file=statistics.stdev(durations) if len(durations) > 1 else 0.0,
    )


def _merged_timing(durations: Distribution) -> TimingStats:
    """Return the timing of files of which only the distribution is known: its median is within 1 %."""
    count = durations.count
    if not count:
        return TimingStats()
    return TimingStats(
        total_duration=durations.sum,
        average_per_file=durations.mean,
        min_per_file=durations.min,
        max_per_file=durations.max,
        median_per_file=durations.quantiles(0.5)[0],
        stddev_per_file=durations.stddev * (count / (count - 1)) ** 0.5 if count > 1 else 0.0,
    )
