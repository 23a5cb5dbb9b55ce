"""Reading snapshots from files, snapshots as JSON, and the runs that a history reads from files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from metrics_framework.errors import OutputError, SnapshotError, reason_of
from metrics_framework.runtime.atomic_files import read_file
from metrics_framework.runtime.strict_json import to_indented_json
from metrics_framework.snapshots.provenance import commit_date_of
from metrics_framework.snapshots.v1 import Environment, PerformanceSnapshot


def read_snapshot(path: str | Path) -> PerformanceSnapshot:
    """Read a v1 snapshot from a JSON file.

    Raises:
        OutputError: If the file cannot be read.
        SnapshotError: If it is not a valid v1 snapshot. The error lists every violation.
    """
    return PerformanceSnapshot.from_dict(parse_document(read_content(path)))


MAX_FILE_BYTES = 64 * 1024 * 1024
"""The size of a file of snapshots."""


def read_content(path: str | Path, *, max_bytes: int = MAX_FILE_BYTES, pipe: bool = True) -> bytes:
    """Return the content of a file.

    Args:
        path: The file.
        max_bytes: The largest size.
        pipe: Whether it may be a pipe, such as ``/dev/stdin``.

    Raises:
        OutputError: If the file cannot be read, or is larger.
    """
    try:
        return read_file(Path(path), max_bytes, pipe=pipe)
    except (OSError, ValueError) as error:  # ValueError: the path contains a null character
        raise OutputError(f"cannot read {str(path)!r}: {reason_of(error)}") from error


def parse_document(content: bytes) -> Any:
    """Return the JSON document in the content of a file, without validation.

    Raises:
        SnapshotError: If it is not JSON.
    """
    try:
        # Bytes, because JSON may be UTF-8, UTF-16 or UTF-32, with or without a byte order mark.
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise SnapshotError([f"document: is not JSON: {error}"]) from error


def dump_snapshot(snapshot: PerformanceSnapshot) -> str:
    """Return a snapshot as the JSON document that `read_snapshot` reads."""
    return to_indented_json(snapshot.to_dict()) + "\n"


@dataclass(frozen=True)
class Run:
    """The context of one run, and the file that holds its snapshot.

    Attributes:
        run_id: Identifies the run; ``None`` if the file has none.
        timestamp: The time of the run, in UTC; the modification time of the file if it has none.
        commit: The git commit, or ``None``.
        branch: The git branch, or ``None``.
        environment: The environment of the run.
        tags: The tags of its metadata.
        path: The file.
        line: The line, from 1, if each line of the file is a snapshot; else ``None``.
    """

    run_id: str | None
    timestamp: datetime
    commit: str | None
    branch: str | None
    environment: Environment
    tags: dict[str, str]
    path: Path
    line: int | None = None

    @property
    def date(self) -> datetime:
        """The time by which a history sorts runs: the date of the commit, or else `timestamp`."""
        return commit_date_of(self.tags) or self.timestamp


MeasuredRun = tuple[Run, Mapping[str, float]]
"""A run and its measurements by flat key, without its distributions."""


@dataclass(frozen=True)
class RunValue:
    """One measurement of a run.

    Attributes:
        run: The run.
        key: The flat key of the measurement, such as ``latency.p95``.
        value: The number, in the unit of `metrics_framework.snapshots.parse_flat_key`.
    """

    run: Run
    key: str
    value: float


@dataclass(frozen=True)
class LeftOutFile:
    """A file that looks like a snapshot but is not valid.

    Attributes:
        path: The file.
        reason: Its violations, or why it cannot be read.
    """

    path: Path
    reason: str
