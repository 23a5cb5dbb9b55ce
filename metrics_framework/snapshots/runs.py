"""Runs of a history: what is known of each, and what each measured."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from metrics_framework.snapshots.v1 import Environment


@dataclass(frozen=True)
class Run:
    """The context of one run, and the file that holds its snapshot.

    Attributes:
        run_id: Identifies the run; ``None`` where the file has none.
        timestamp: When the run took place, in UTC; when the file was written, where it does not say.
        commit: The git commit, or ``None``.
        branch: The git branch, or ``None``.
        environment: Where it took place.
        tags: The tags of its metadata.
        path: The file.
        line: Which line of it, from 1, in a file with a snapshot a line; else ``None``.
    """

    run_id: str | None
    timestamp: datetime
    commit: str | None
    branch: str | None
    environment: Environment
    tags: dict[str, str]
    path: Path
    line: int | None = None


@dataclass(frozen=True)
class RunValue:
    """One number that a run measured.

    Attributes:
        run: The run.
        key: The measurement's flat key, like ``latency.p95``.
        value: The number, in the unit of `metrics_framework.snapshots.parse_flat_key`.
    """

    run: Run
    key: str
    value: float


@dataclass(frozen=True)
class LeftOutFile:
    """A file that looks like a snapshot and is none.

    Attributes:
        path: The file.
        reason: What is wrong with it.
    """

    path: Path
    reason: str
