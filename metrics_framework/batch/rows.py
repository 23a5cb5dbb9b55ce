"""A file's details as a tuple, which takes a third of an object's memory, and what many of them amount to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from numbers import Integral, Real
from operator import itemgetter
from typing import Any, NamedTuple

from metrics_framework.batch.models import FileMetrics
from metrics_framework.recording import Distribution

Row = tuple[Any, ...]
"""The details of a file in the order of `FIELDS`."""

FIELDS = (
    "filename",
    "end_time",
    "duration",
    "samples",
    "measurements",
    "status",
    "error_type",
    "error_message",
    "memory_peak",
)

_PLAIN = {str, int, float, bool, type(None)}


def to_metrics(row: Row) -> FileMetrics:
    """Return a row as the object that users know."""
    filename, end, duration, *rest = row
    return FileMetrics(filename, end - duration, end, duration, *rest)


def is_plain(rows: Sequence[Row]) -> bool:
    """Say whether rows hold nothing but numbers and text, of Python's own types."""
    return _are_usual(rows) or set(map(type, chain.from_iterable(rows))) <= _PLAIN


def _are_usual(rows: Sequence[Row]) -> bool:
    """Say whether values have the types that their fields are meant for: told in a third of the time."""
    for name, end, duration, samples, measurements, status, error_type, error_message, memory_peak in rows:
        if not (
            type(name) is str
            and type(end) is float
            and type(duration) is float
            and type(samples) is int
            and type(measurements) is int
            and type(status) is str
            and (error_type is None or type(error_type) is str)
            and (error_message is None or type(error_message) is str)
            and (memory_peak is None or type(memory_peak) is int)
        ):
            return False
    return True


def plain(rows: Sequence[Row]) -> Sequence[Row]:
    """Return rows that a disk can hold: numbers and text. What is neither becomes its text."""
    if is_plain(rows):
        return rows
    return [tuple(map(_plain, row)) for row in rows]


def _plain(value: Any) -> Any:
    if type(value) in _PLAIN:
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - it may be anything, and its details are not worth a batch
        return object.__repr__(value)


class Counts(NamedTuple):
    """How many files there were, and how they ended.

    Attributes:
        files: All that were recorded.
        processed: Those that succeeded.
        errors: Those that failed.
        skipped: Those that were skipped.
    """

    files: int = 0
    processed: int = 0
    errors: int = 0
    skipped: int = 0

    def plus(self, rows: Sequence[Row]) -> Counts:
        """Return what they are with those of some rows."""
        others = [row[5] for row in rows if row[5] != "success"]
        return Counts(
            self.files + len(rows),
            self.processed + len(rows) - len(others),
            self.errors + others.count("error"),
            self.skipped + others.count("skipped"),
        )


class Totals(NamedTuple):
    """What rows amount to that are no longer in memory.

    Attributes:
        counts: How many, and how they ended.
        error_types: Failures by their type.
        durations: Seconds of the files that succeeded and took any time.
        samples: Of the files that succeeded.
        measurements: Of the files that succeeded.
        fault: What went wrong when a row was added that cannot be: who asks for a summary gets it.
    """

    counts: Counts = Counts()
    error_types: dict[str, int] = {}  # noqa: RUF012 - never changed, only replaced
    durations: Distribution = Distribution()
    samples: int | float = 0
    measurements: int | float = 0
    fault: Exception | None = None

    def plus(self, rows: Sequence[Row]) -> Totals:
        """Return what they are with some rows added; nothing is raised."""
        counts = self.counts.plus(rows)
        error_types = count_error_types(rows, dict(self.error_types))
        good = [row for row in rows if row[5] == "success"]
        try:
            return Totals(
                counts,
                error_types,
                self.durations.merge(Distribution.of([row[2] for row in good if row[2] > 0])),
                self.samples + sum(map(itemgetter(3), good)),
                self.measurements + sum(map(itemgetter(4), good)),
                self.fault,
            )
        except (TypeError, ValueError, ArithmeticError, AttributeError) as error:
            # Rows hold whatever was passed in. What a signal handler raises is none of these, and goes on.
            return self._replace(counts=counts, error_types=error_types, fault=self.fault or error)


NOTHING = Totals()
"""What no rows amount to."""


def count_error_types(rows: Iterable[Row], counted: dict[str, int]) -> dict[str, int]:
    """Add the failures of some rows to a count by type, and return it."""
    for error_type in [row[6] for row in rows if row[5] == "error"]:
        try:
            if error_type:
                counted[error_type] = counted.get(error_type, 0) + 1
        except TypeError:  # it is no key: the one who recorded it was told
            continue
    return counted
