"""Which snapshots of a folder are removed: the oldest, by age and by size, and never a baseline."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from metrics_framework.clock import Clock, utc
from metrics_framework.runtime.atomic_files import remove_abandoned
from metrics_framework.snapshots.distributions import SUFFIX as SIDECAR
from metrics_framework.snapshots.v1 import PerformanceSnapshot
from metrics_framework.validation import check_positive

BASELINE = ".baseline"
"""A file ``NAME.baseline`` beside ``NAME.json``, whatever is in it, keeps the snapshot and its sidecar."""

ORPHAN_SECONDS = 3_600.0
"""How old a sidecar without a snapshot is when it is removed: whoever copies a pair needs a while."""

SNAPSHOT = ".json"

_STEM = re.compile(r"\d{8}T\d{6}\.\d{6}Z-[0-9A-Za-z]+(-\d+)?")


def moment_text(moment: datetime) -> str:
    """Return a time in UTC as file names begin: of fixed width, so that texts sort by age."""
    text = moment.astimezone(UTC).isoformat(timespec="microseconds")
    return re.sub("[-:]", "", text.partition("+")[0])


def stem_of(snapshot: PerformanceSnapshot) -> str:
    """Return the name of a snapshot's file without its ending: its time and the start of its run's id."""
    run = re.sub(r"[^0-9A-Za-z]", "", snapshot.metadata.run_id)[:8] or "run"
    return f"{moment_text(snapshot.metadata.timestamp)}Z-{run}"


class Pruner:
    """Keeps a folder of snapshots within limits: removes the oldest, each with its sidecar.

    Only files that are named as a `SnapshotWriter` names them are ever removed. The newest stays, and so do
    baselines, also where a limit is passed thereby.

    Args:
        folder: The folder.
        retention_days: How old a snapshot becomes, by the time in its name; as old as can be by default.
        max_bytes: How large all of them together become; without a limit by default.
        clock: What tells the present time.

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
        """Remove what is too old or too much, and sidecars whose snapshots were never finished.

        Args:
            written: The snapshot that was just written, which stays as the newest does.

        Raises:
            OSError: If something cannot be removed; all the rest was.
        """
        entries = {entry.name: entry for entry in os.scandir(self._folder)}
        self._remove_orphans(entries)
        if self._retention_days is None and self._max_bytes is None:
            return
        stems = sorted(_stems(entries, SNAPSHOT))  # by age, as their names begin with the time
        total = 0 if self._max_bytes is None else sum(_size(entries, stem) for stem in stems)
        oldest = self._oldest_moment()
        problem: OSError | None = None
        for stem in stems[:-1]:
            is_too_much = self._max_bytes is not None and total > self._max_bytes
            if not is_too_much and stem >= oldest:
                break  # nor is any later one
            if f"{stem}{BASELINE}" in entries or stem == written.stem:
                continue
            try:
                self._remove(stem)
                total -= _size(entries, stem)
            except OSError as error:
                problem = error
        if problem is not None:
            raise problem

    def _oldest_moment(self) -> str:
        if self._retention_days is None:
            return ""
        try:
            return moment_text(utc(self._clock) - timedelta(days=self._retention_days))
        except OverflowError:  # before the first year
            return ""

    def _remove(self, stem: str) -> None:
        if (self._folder / f"{stem}{BASELINE}").exists():
            return  # it was made one just now
        # First the snapshot: nothing that can be read names a sidecar that is not there.
        (self._folder / f"{stem}{SNAPSHOT}").unlink(missing_ok=True)
        (self._folder / f"{stem}{SIDECAR}").unlink(missing_ok=True)

    def _remove_orphans(self, entries: Mapping[str, os.DirEntry[str]]) -> None:
        now = self._clock.time_ns() / 1e9
        for stem in _stems(entries, SIDECAR):
            name = f"{stem}{SIDECAR}"
            if f"{stem}{SNAPSHOT}" not in entries and now - _modified(entries[name]) > ORPHAN_SECONDS:
                remove_abandoned(self._folder / name, unless=self._folder / f"{stem}{SNAPSHOT}")


def _stems(names: Iterable[str], ending: str) -> Iterator[str]:
    """Yield the names with that ending, without it, of files that are named as a writer names them."""
    for name in names:
        stem = name.removesuffix(ending)
        if stem != name and _STEM.fullmatch(stem):
            yield stem


def _size(entries: Mapping[str, os.DirEntry[str]], stem: str) -> int:
    """Return the bytes of a snapshot and its sidecar."""
    size = 0
    for name in (f"{stem}{SNAPSHOT}", f"{stem}{SIDECAR}"):
        if name in entries:
            with suppress(OSError):  # another writer removed it
                size += entries[name].stat(follow_symlinks=False).st_size
    return size


def _modified(entry: os.DirEntry[str]) -> float:
    try:
        return entry.stat(follow_symlinks=False).st_mtime
    except OSError:
        return float("inf")
