"""Summaries of batches: from rows and totals, from a journal, or from a JSON export."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from math import ceil, inf, nan
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO

from metrics_framework.batch.disk import Journal, JournalState
from metrics_framework.batch.models import (
    BatchMetricsSummary,
    ErrorBreakdown,
    ThroughputStats,
    TimingStats,
    format_timestamp,
)
from metrics_framework.batch.rows import NO_TOTALS, FileRow, Totals, count_error_types
from metrics_framework.errors import InvalidInputError, OutputError, reason_of

_MAX_EXPORT_BYTES = 64 * 1024 * 1024
_EXPORT_HEAD_BYTES = 1 << 20
_FILES_KEY = b',\n  "files": ['
_SHARES = (0.5, 0.95, 0.99)
_EXPORTED_TIMES = (
    "total_duration",
    *(f"{name}_per_file" for name in ("average", "min", "max", "median", "stddev")),
)
_EXPORTED_FIELDS = (
    *("batch_id", "total_files", "processed_count", "error_count", "skip_count"),
    *("start_time", "end_time"),
)


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
        timing = _timing_of_totals(totals)
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

    ordered = sorted(durations)
    p50, p95, p99 = (ordered[_rank(share, len(ordered)) - 1] for share in _SHARES)
    stddev = 0.0
    if len(durations) > 1:  # the module statistics fails for an infinity
        stddev = nan if ordered[-1] == inf else statistics.stdev(durations)
    return TimingStats(
        total_duration=sum(durations),
        average_per_file=statistics.mean(durations),
        min_per_file=min(durations),
        max_per_file=max(durations),
        median_per_file=statistics.median(durations),
        stddev_per_file=stddev,
        p50_per_file=p50,
        p95_per_file=p95,
        p99_per_file=p99,
    )


def _timing_of_totals(totals: Totals) -> TimingStats:
    """Return statistics of the durations in totals. Their quantiles are accurate to 1 %."""
    durations, count = totals.durations, totals.durations.count + totals.infinite
    if not count:
        return TimingStats()

    def quantile(share: float) -> float:
        rank = _rank(share, count)
        return inf if rank > durations.count else durations.quantiles(rank / durations.count)[0]

    p50, p95, p99 = map(quantile, _SHARES)
    stddev = nan if totals.infinite else durations.stddev
    return TimingStats(
        total_duration=inf if totals.infinite else durations.sum,
        average_per_file=inf if totals.infinite else durations.mean,
        min_per_file=durations.min if durations.count else inf,
        max_per_file=inf if totals.infinite else durations.max,
        median_per_file=p50,
        stddev_per_file=stddev * (count / (count - 1)) ** 0.5 if count > 1 else 0.0,
        p50_per_file=p50,
        p95_per_file=p95,
        p99_per_file=p99,
    )


def _rank(share: float, count: int) -> int:
    """Return the nearest rank of a quantile, from 1."""
    return max(1, ceil(share * count - 1e-9))


def load_summary(path: str | Path, in_memory: int = 10_000) -> BatchMetricsSummary:
    """Return the summary of a batch from its journal or a file of `export_json`.

    An interrupted batch ends with the last file in its journal.

    Args:
        path: The file.
        in_memory: Up to how many files the quantiles and the standard deviation are exact.

    Raises:
        OutputError: If it cannot be read.
        InvalidInputError: If it is neither a journal nor an export.
    """
    journal = Journal(path, writable=False)
    try:
        state = JournalState.read(journal, None, in_memory) if journal.has_header() else JournalState()
    except OSError as error:  # a folder can be opened but not read
        raise OutputError(f"cannot read {str(path)!r}: {reason_of(error)}") from error
    if state.batch_id is not None:
        return summarize(
            state.batch_id,
            state.totals,
            state.rows,
            start=state.start,
            end=state.end or state.last,
            paused=state.paused,
        )
    try:
        with Path(path).open("rb") as file:
            return _summary_of_export(file, in_memory)
    except OSError as error:
        raise OutputError(f"cannot read {str(path)!r}: {reason_of(error)}") from error
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError, OverflowError):
        raise InvalidInputError(
            f"{str(path)!r} is neither the journal nor the JSON export of a batch"
        ) from None


def _summary_of_export(file: BinaryIO, in_memory: int) -> BatchMetricsSummary:
    """Return the summary of an export. The files have the durations that the summary rounds."""
    head, found, rest = file.read(_EXPORT_HEAD_BYTES).partition(_FILES_KEY)
    if found:  # the layout of `export_json`, so that a long list of files is read line by line
        document = json.loads(head + b"}")
        rows = _exported_rows(chain((rest + file.readline(_MAX_EXPORT_BYTES)).splitlines(), file))
    else:
        document = json.loads(head + file.read(_MAX_EXPORT_BYTES))
        rows = (_exported_row(one["duration_seconds"], one["status"]) for one in document.get("files", ()))
    summary = document["summary"]
    totals, pending = NO_TOTALS, list[FileRow]()
    for row in rows:
        pending.append(row)
        if len(pending) > in_memory:
            totals, pending = totals.plus(pending), []
    timing = summarize("", totals, pending, start=None, end=None).timing
    given = {name: _number(summary["timing"][f"{name}_seconds"]) for name in _EXPORTED_TIMES}
    if not timing.max_per_file:  # an export of the summary alone
        timing = TimingStats(**given)
    timing.total_duration = given["total_duration"]
    return BatchMetricsSummary(
        timing=timing,
        throughput=ThroughputStats(**{name: _number(rate) for name, rate in summary["throughput"].items()}),
        errors=ErrorBreakdown(
            dict(summary["errors"]["by_type"]),
            summary["errors"]["total"],
            summary["errors"]["rate_percent"] / 100,
        ),
        **{name: summary[name] for name in _EXPORTED_FIELDS},
    )


def _exported_rows(lines: Iterable[bytes]) -> Iterator[FileRow]:
    duration: Any = None
    for line in lines:
        if line.startswith(b'      "duration_seconds": '):
            duration = json.loads(line.partition(b":")[2].rstrip().rstrip(b","))
        elif line.startswith(b'      "status": '):
            yield _exported_row(duration, json.loads(line.partition(b":")[2].rstrip().rstrip(b",")))


def _exported_row(duration: Any, status: Any) -> FileRow:
    return ("", 0.0, _number(duration), 0, 0, status, None, None, None)


def _number(value: Any) -> float:
    """Return a number of an export, in which ``null`` stands for NaN and infinities."""
    return nan if value is None else float(value)
