"""Retention: removes the oldest snapshots of a folder, by age and by total size, but never a baseline."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from metrics_framework.clock import Clock, utc
from metrics_framework.runtime.atomic_files import remove_abandoned
from metrics_framework.snapshots.distributions import SIDECAR_SUFFIX
from metrics_framework.snapshots.v1 import PerformanceSnapshot
from metrics_framework.validation import check_positive

BASELINE_SUFFIX = ".baseline"
"""A file ``NAME.baseline`` beside ``NAME.json``, with any content, keeps the snapshot and its sidecar."""

ORPHAN_SECONDS = 3_600.0
"""Age at which a sidecar without a snapshot is removed. Copying a pair of files takes a while."""

SNAPSHOT_SUFFIX = ".json"

_STEM = re.compile(r"\d{8}T\d{6}\.\d{6}Z-[0-9A-Za-z]+(-\d+)?")


def moment_text(moment: datetime) -> str:
    """Return a time as file names begin: in UTC and of fixed width, so that names sort by age."""
    text = moment.astimezone(UTC).isoformat(timespec="microseconds")
    return re.sub("[-:]", "", text.partition("+")[0])


def stem_of(snapshot: PerformanceSnapshot) -> str:
    """Return the name of a snapshot's file without its suffix: the time and the start of the run's id."""
    run = re.sub(r"[^0-9A-Za-z]", "", snapshot.metadata.run_id)[:8] or "run"
    return f"{moment_text(snapshot.metadata.timestamp)}Z-{run}"


class Pruner:
    """Keeps a folder of snapshots within limits: removes the oldest, each with its sidecar.

    It removes only files with names that a `SnapshotWriter` gives. It keeps the newest snapshot and all
    baselines, even beyond a limit.

    Args:
        folder: The folder.
        retention_days: Maximum age of a snapshot, by the time in its name. Unlimited by default.
        max_bytes: Maximum total size of all snapshots and sidecars. Unlimited by default.
        clock: Tells the current time.

    Raises:
        InvalidInputError: If a limit is not positive.
    """

    def __init__(
        self, folder: Path, retention_days: float | None, max_bytes: int | None, clock: Clock
    ) -> None:
        for name, limit in (("retention_days", retention_days), ("max_bytes", max_bytes)):
            if limit is not None:
                check_positive(name, limit)
        self._folder = folder
        self._retention_days = retention_days
        self._max_bytes = max_bytes
        self._clock = clock

    def prune(self, written: Path) -> None:
        """Remove snapshots beyond the limits, and sidecars whose snapshots were never finished.

        Args:
            written: The snapshot that was just written, which is kept as the newest is.

        Raises:
            OSError: If a file cannot be removed. All others are removed.
        """
        entries = {entry.name: entry for entry in os.scandir(self._folder)}
        self._remove_orphans(entries)
        if self._retention_days is None and self._max_bytes is None:
            return
        stems = sorted(_stems(entries, SNAPSHOT_SUFFIX))  # by age: a name begins with the time
        total = 0 if self._max_bytes is None else sum(_size(entries, stem) for stem in stems)
        oldest = self._oldest_moment()
        last_error: OSError | None = None
        for stem in stems[:-1]:
            is_over_size = self._max_bytes is not None and total > self._max_bytes
            if not is_over_size and stem >= oldest:
                break  # all later ones are newer
            if f"{stem}{BASELINE_SUFFIX}" in entries or stem == written.stem:
                continue
            try:
                self._remove(stem)
                total -= _size(entries, stem)
            except OSError as error:
                last_error = error
        if last_error is not None:
            raise last_error

    def _oldest_moment(self) -> str:
        if self._retention_days is None:
            return ""
        try:
            return moment_text(utc(self._clock) - timedelta(days=self._retention_days))
        except OverflowError:  # before the year 1
            return ""

    def _remove(self, stem: str) -> None:
        if (self._folder / f"{stem}{BASELINE_SUFFIX}").exists():
            return  # it became a baseline since the folder was listed
        # The snapshot first, so that no snapshot names a sidecar that does not exist.
        (self._folder / f"{stem}{SNAPSHOT_SUFFIX}").unlink(missing_ok=True)
        (self._folder / f"{stem}{SIDECAR_SUFFIX}").unlink(missing_ok=True)

    def _remove_orphans(self, entries: Mapping[str, os.DirEntry[str]]) -> None:
        now = self._clock.time_ns() / 1e9
        for stem in _stems(entries, SIDECAR_SUFFIX):
            name = f"{stem}{SIDECAR_SUFFIX}"
            if f"{stem}{SNAPSHOT_SUFFIX}" not in entries and now - _modified(entries[name]) > ORPHAN_SECONDS:
                remove_abandoned(self._folder / name, unless=self._folder / f"{stem}{SNAPSHOT_SUFFIX}")


def _stems(names: Iterable[str], suffix: str) -> Iterator[str]:
    """Yield the names that a writer gives, without their suffix, of files with that suffix."""
    for name in names:
        stem = name.removesuffix(suffix)
        if stem != name and _STEM.fullmatch(stem):
            yield stem


def _size(entries: Mapping[str, os.DirEntry[str]], stem: str) -> int:
    """Return the bytes of a snapshot and its sidecar."""
    size = 0
    for name in (f"{stem}{SNAPSHOT_SUFFIX}", f"{stem}{SIDECAR_SUFFIX}"):
        if name in entries:
            with suppress(OSError):  # another writer removed it
                size += entries[name].stat(follow_symlinks=False).st_size
    return size


def _modified(entry: os.DirEntry[str]) -> float:
    try:
        return entry.stat(follow_symlinks=False).st_mtime
    except OSError:
        return float("inf")
