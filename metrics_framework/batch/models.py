"""What is known of a file and of a whole batch, and how it reads as plain data.

Names, units and rounding are those of tracekit 0.3.1 (``tracekit.batch.metrics``), and so is every byte of
JSON and CSV.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from math import modf
from typing import Any

_FAR = 1e11
"""Some three thousand years, in seconds."""


def format_timestamp(seconds: float) -> str:
    """Return seconds since the epoch as ISO 8601 in UTC: six decimals and a ``Z``.

    Raises:
        ValueError: If there is no such date, or it is no number.
        OverflowError: If it is infinite or too far away.

    Example:
        >>> format_timestamp(1767225600.25)
        '2026-01-01T00:00:00.250000Z'
    """
    if seconds.__class__ is float and 0.0 < seconds < _FAR:
        # The files of a batch end within few seconds, so most of this is known already.
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
    """What is known of one file.

    Attributes:
        filename: Its name.
        start_time: When its processing began, in seconds since the epoch.
        end_time: When it ended.
        duration: How long it took, in seconds.
        samples: How many samples were processed.
        measurements: How many measurements were computed.
        status: ``success``, ``error`` or ``skipped``.
        error_type: Of an error, its type.
        error_message: Of an error, what it said; of a skipped file, why.
        memory_peak: The most memory that it took, in bytes; ``None`` where nobody looked.
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
        """Return it as plain data."""
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
    """How files failed.

    Attributes:
        by_type: How many by the type of their error.
        total: How many in all, also those without a type.
        rate: Their share of all files.
    """

    by_type: dict[str, int] = field(default_factory=dict)
    total: int = 0
    rate: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data; the rate as a percentage."""
        return {"by_type": self.by_type, "total": self.total, "rate_percent": round(self.rate * 100, 2)}


@dataclass
class TimingStats:
    """How long the batch and its files took, in seconds.

    Those per file are of the files that succeeded and took any time.

    Attributes:
        total_duration: From start to finish; before that, the sum over the files.
        average_per_file: Arithmetic mean.
        min_per_file: The fastest.
        max_per_file: The slowest.
        median_per_file: The middle one, or the mean of the two in the middle.
        stddev_per_file: Standard deviation, the sample's form.
    """

    total_duration: float = 0.0
    average_per_file: float = 0.0
    min_per_file: float = 0.0
    max_per_file: float = 0.0
    median_per_file: float = 0.0
    stddev_per_file: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data, rounded to milliseconds."""
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
    """How much was done in a second, counting files that succeeded.

    Attributes:
        files_per_second: Files.
        samples_per_second: Samples.
        measurements_per_second: Measurements.
        bytes_per_second: Bytes; 0.0, as nobody counts them.
    """

    files_per_second: float = 0.0
    samples_per_second: float = 0.0
    measurements_per_second: float = 0.0
    bytes_per_second: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data, rounded."""
        return {
            "files_per_second": round(self.files_per_second, 3),
            "samples_per_second": round(self.samples_per_second, 0),
            "measurements_per_second": round(self.measurements_per_second, 0),
            "bytes_per_second": round(self.bytes_per_second, 0),
        }


@dataclass
class BatchMetricsSummary:
    """A whole batch.

    Attributes:
        batch_id: Which batch.
        total_files: How many files were recorded.
        processed_count: How many succeeded.
        error_count: How many failed.
        skip_count: How many were skipped.
        timing: How long it took.
        throughput: How much was done in a second.
        errors: How files failed.
        start_time: When it started, as `format_timestamp` has it; empty before.
        end_time: When it finished; empty before.
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
        """Return it as plain data."""
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
