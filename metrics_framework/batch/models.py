"""The metrics of a file and of a batch, and their form as plain data.

Names, units and rounding match tracekit 0.3.1 (``tracekit.batch.metrics``), so JSON and CSV exports are equal
byte for byte.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from math import modf
from typing import Any

_MAX_FAST_SECONDS = 1e11  # about 3,000 years


def format_timestamp(seconds: float) -> str:
    """Return seconds since the epoch as ISO 8601 in UTC, with six decimals and a ``Z``.

    Raises:
        ValueError: If it is NaN, or the date is out of range.
        OverflowError: If it is infinite or out of the range of the platform.

    Example:
        >>> format_timestamp(1767225600.25)
        '2026-01-01T00:00:00.250000Z'
    """
    if seconds.__class__ is float and 0.0 < seconds < _MAX_FAST_SECONDS:
        # Many files of a batch end within the same second, so the text up to the second is cached.
        fraction, whole = modf(seconds)
        microseconds = round(fraction * 1e6)
        if microseconds < 1_000_000:
            return f"{_to_second(whole)}.{microseconds:06}Z"
    return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + "Z"


@lru_cache(maxsize=256)
def _to_second(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%dT%H:%M:%S")


@dataclass
class FileMetrics:
    """The metrics of one file.

    Attributes:
        filename: Name of the file.
        start_time: Start of processing, in seconds since the epoch.
        end_time: End of processing, in seconds since the epoch.
        duration: Processing time in seconds.
        samples: Number of samples processed.
        measurements: Number of measurements computed.
        status: ``success``, ``error`` or ``skipped``.
        error_type: Type of the error, if it failed.
        error_message: Message of the error, or why the file was skipped.
        memory_peak: Peak memory in bytes; ``None`` if not measured.
    """

    filename: str
    start_time: float = 0.0
    end_time: float = 0.0
    duration: float = 0.0
    samples: int = 0
    measurements: int = 0
    status: str = "pending"
    error_type: str | None = None
    error_message: str | None = None
    memory_peak: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the metrics as plain data."""
        return {
            "filename": self.filename,
            "start_time": format_timestamp(self.start_time) if self.start_time else None,
            "end_time": format_timestamp(self.end_time) if self.end_time else None,
            "duration_seconds": self.duration,
            "samples": self.samples,
            "measurements": self.measurements,
            "status": self.status,
            "error_type": self.error_type,
            "error_message": self.error_message,
            "memory_peak_bytes": self.memory_peak,
            "samples_per_second": self.samples / self.duration if self.duration > 0 else 0,
        }


@dataclass
class ErrorBreakdown:
    """Failed files by error type.

    Attributes:
        by_type: Number of failed files by error type.
        total: Number of all failed files, with or without an error type.
        rate: Share of failed files, from 0 to 1.
    """

    by_type: dict[str, int] = field(default_factory=dict)
    total: int = 0
    rate: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the metrics as plain data, with the rate in percent."""
        return {"by_type": self.by_type, "total": self.total, "rate_percent": round(self.rate * 100, 2)}


@dataclass
class TimingStats:
    """Durations of the batch and its files, in seconds.

    The values per file include only files that succeeded with a duration above zero.

    Attributes:
        total_duration: Time from start to finish; before the finish, the sum over the files.
        average_per_file: Arithmetic mean.
        min_per_file: Shortest duration.
        max_per_file: Longest duration.
        median_per_file: Median; the mean of the two middle values if their number is even.
        stddev_per_file: Sample standard deviation.
        p50_per_file: 50th percentile, a nearest rank, like the other two. The exports do not have them.
        p95_per_file: 95th percentile.
        p99_per_file: 99th percentile.
    """

    total_duration: float = 0.0
    average_per_file: float = 0.0
    min_per_file: float = 0.0
    max_per_file: float = 0.0
    median_per_file: float = 0.0
    stddev_per_file: float = 0.0
    p50_per_file: float = field(default=0.0, repr=False)
    p95_per_file: float = field(default=0.0, repr=False)
    p99_per_file: float = field(default=0.0, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the metrics as plain data, rounded to milliseconds."""
        return {
            "total_duration_seconds": round(self.total_duration, 3),
            "average_per_file_seconds": round(self.average_per_file, 3),
            "min_per_file_seconds": round(self.min_per_file, 3),
            "max_per_file_seconds": round(self.max_per_file, 3),
            "median_per_file_seconds": round(self.median_per_file, 3),
            "stddev_per_file_seconds": round(self.stddev_per_file, 3),
        }


@dataclass
class ThroughputStats:
    """Throughput of the files that succeeded.

    Attributes:
        files_per_second: Files per second.
        samples_per_second: Samples per second.
        measurements_per_second: Measurements per second.
        bytes_per_second: Always 0.0, because bytes are not counted. It keeps the export equal to tracekit's.
    """

    files_per_second: float = 0.0
    samples_per_second: float = 0.0
    measurements_per_second: float = 0.0
    bytes_per_second: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the metrics as plain data, rounded."""
        return {
            "files_per_second": round(self.files_per_second, 3),
            "samples_per_second": round(self.samples_per_second, 0),
            "measurements_per_second": round(self.measurements_per_second, 0),
            "bytes_per_second": round(self.bytes_per_second, 0),
        }


@dataclass
class BatchMetricsSummary:
    """The summary of a batch.

    Attributes:
        batch_id: Name of the batch.
        total_files: Number of recorded files.
        processed_count: Number of files that succeeded.
        error_count: Number of files that failed.
        skip_count: Number of files that were skipped.
        timing: Durations of the batch and its files.
        throughput: Files, samples and measurements per second.
        errors: Failed files by error type.
        start_time: Start of the batch in the form of `format_timestamp`; empty before the start.
        end_time: End of the batch in the same form; empty before the finish.
    """

    batch_id: str
    total_files: int
    processed_count: int
    error_count: int
    skip_count: int
    timing: TimingStats
    throughput: ThroughputStats
    errors: ErrorBreakdown
    start_time: str
    end_time: str

    def to_dict(self) -> dict[str, Any]:
        """Return the metrics as plain data."""
        succeeded = (self.processed_count / self.total_files * 100) if self.total_files > 0 else 0
        return {
            "batch_id": self.batch_id,
            "total_files": self.total_files,
            "processed_count": self.processed_count,
            "error_count": self.error_count,
            "skip_count": self.skip_count,
            "success_rate_percent": round(succeeded, 2),
            "timing": self.timing.to_dict(),
            "throughput": self.throughput.to_dict(),
            "errors": self.errors.to_dict(),
            "start_time": self.start_time,
            "end_time": self.end_time,
        }
