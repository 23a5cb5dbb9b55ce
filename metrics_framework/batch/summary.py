"""Summaries of batches: from rows and totals, from a journal, or from a JSON export."""

from __future__ import annotations

import json
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from metrics_framework.batch.disk import Journal, JournalState
from metrics_framework.batch.models import (
    BatchMetricsSummary,
    ErrorBreakdown,
    ThroughputStats,
    TimingStats,
    format_timestamp,
)
from metrics_framework.batch.rows import FileRow, Totals, count_error_types
from metrics_framework.errors import InvalidInputError, OutputError
from metrics_framework.recording import Distribution

_EXPORT_HEAD_BYTES = 1 << 20
_FILES_KEY = b',\n  "files": ['


def summarize(
    batch_id: str,
    totals: Totals,
    rows: Sequence[FileRow],
    *,
    start: float | None,
    end: float | None,
    paused: float = 0.0,
) -> BatchMetricsSummary:
    """Return the summary of a batch.

    Args:
        batch_id: The batch.
        totals: Totals of the files that are no longer in memory.
        rows: The other files.
        start: When the batch started, in seconds since the epoch.
        end: When it finished.
        paused: Seconds between its sessions.
    """
    if totals.counts.files:
        totals = totals.plus(rows)
        if totals.fault is not None:
            raise totals.fault
        counts, error_types = totals.counts, dict(totals.error_types)
        timing = _timing_of_distribution(totals.durations)
        samples, measurements = totals.samples, totals.measurements
    else:
        counts, error_types = totals.counts.plus(rows), count_error_types(rows, {})
        succeeded = [row for row in rows if row[5] == "success"]
        timing = _exact_timing([row[2] for row in succeeded if row[2] > 0])
        samples = sum(map(itemgetter(3), succeeded))
        measurements = sum(map(itemgetter(4), succeeded))
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
    """Return exact statistics of the durations of all files."""
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


def _timing_of_distribution(durations: Distribution) -> TimingStats:
    """Return statistics of a distribution. Its median is accurate to 1 %."""
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


def load_summary(path: str | Path, in_memory: int = 10_000) -> dict[str, Any]:
    """Return the summary of a batch as plain data, from its journal or a file of `export_json`.

    An interrupted batch ends with the last file in its journal.

    Args:
        path: The file.
        in_memory: Up to how many files of a journal the median is exact.

    Raises:
        OutputError: If it cannot be read.
        InvalidInputError: If it is neither a journal nor an export.
    """
    journal = Journal(path, writable=False)
    try:
        state = JournalState.read(journal, None, in_memory) if journal.has_header() else JournalState()
    except OSError as error:  # a folder can be opened but not read
        raise OutputError(f"cannot read {str(path)!r}: {error.strerror}") from error
    if state.batch_id is not None:
        return summarize(
            state.batch_id,
            state.totals,
            state.rows,
            start=state.start,
            end=state.end or state.last,
            paused=state.paused,
        ).to_dict()
    try:
        with Path(path).open("rb") as file:
            # The summary comes first, so the list of files, which may be long, is not read.
            head, found, _ = file.read(_EXPORT_HEAD_BYTES).partition(_FILES_KEY)
            document = json.loads(head + b"}") if found else json.loads(head + file.read())
        summary = document["summary"]
        if not {"batch_id", "total_files", "timing", "throughput", "errors"} <= summary.keys():
            raise KeyError
    except OSError as error:
        raise OutputError(f"cannot read {str(path)!r}: {error.strerror}") from error
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        raise InvalidInputError(
            f"{str(path)!r} is neither the journal nor the JSON export of a batch"
        ) from None
    return dict(summary)
