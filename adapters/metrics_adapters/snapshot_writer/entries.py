"""What an index keeps of a file: the snapshots in it, and what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Any, NamedTuple

from metrics_framework.errors import SnapshotError
from metrics_framework.snapshots import PerformanceSnapshot
from metrics_framework.snapshots.files import parse_document

LINES = ".jsonl"
"""The ending of a file with a snapshot a line, such as FlameIQ's ``history.jsonl``."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_NAMED_PROBLEMS = 3


class Entry(NamedTuple):
    """One snapshot of a file.

    Attributes:
        line: Which line of the file, from 1; 0 for the only snapshot of a file.
        digest: The same for the same run in several files; empty for a run without an id.
        moment: When the run took place, in microseconds since 1970.
        context: Run id, commit, branch, environment and tags, as a JSON array.
        measurements: What was measured, by flat key.
    """

    line: int
    digest: bytes
    moment: int
    context: str
    measurements: dict[str, float]


def read_entries(content: bytes, name: str, written_ns: int) -> tuple[list[Entry], str | None]:
    """Return the snapshots in a file, and what is wrong with it.

    Args:
        content: What is in the file.
        name: What it is called: its ending says whether it has a snapshot a line.
        written_ns: When it was written, for snapshots that do not say when they were taken.
    """
    found: list[Entry] = []
    problems: list[str] = []
    # A file system may know years that `datetime` does not.
    written = min(max(written_ns // 1_000, moment_of(_FIRST)), moment_of(_LAST))
    is_lines = name.endswith(LINES)
    for number, text in _lines(content) if is_lines else [(0, content)]:
        try:
            found.append(_entry(parse_document(text), number, written))
        except SnapshotError as error:
            place = f"line {number}: " if is_lines else ""
            problems.append(place + "; ".join(_few(error.violations)))
    return found, "; ".join(_few(problems)) or None


def moment_of(timestamp: datetime) -> int:
    """Return microseconds since 1970."""
    return (timestamp - _EPOCH) // _MICROSECOND


def timestamp_of(moment: int) -> datetime:
    """Return the time that is so many microseconds after 1970, in UTC."""
    return _EPOCH + timedelta(microseconds=moment)


def _entry(document: Any, line: int, written: int) -> Entry:
    snapshot = PerformanceSnapshot.from_dict(document)
    metadata, said = snapshot.metadata, document.get("metadata", {})
    run_id = metadata.run_id if "run_id" in said else None
    context = json.dumps(
        [run_id, metadata.commit, metadata.branch, metadata.environment.value, metadata.tags], sort_keys=True
    )
    moment = moment_of(metadata.timestamp) if "timestamp" in said else written
    measurements = snapshot.metrics.flat()
    return Entry(line, _digest(run_id, context, moment, measurements), moment, context, measurements)


def _digest(run_id: str | None, context: str, moment: int, measurements: Mapping[str, float]) -> bytes:
    if run_id is None:
        return b""
    text = f"{context} {moment} {sorted(measurements.items())}"
    return blake2b(text.encode("utf-8", "backslashreplace"), digest_size=16).digest()


def _lines(content: bytes) -> Iterator[tuple[int, bytes]]:
    for number, line in enumerate(content.split(b"\n"), 1):
        if line.strip():
            yield number, line


def _few(lines: list[str] | tuple[str, ...]) -> list[str]:
    more = len(lines) - _NAMED_PROBLEMS
    return [*lines[:_NAMED_PROBLEMS], *([f"and {more} more"] if more > 0 else [])]
