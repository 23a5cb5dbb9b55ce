"""Which snapshots of a folder are removed: the oldest, by age and by size, and never a baseline."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from metrics_adapters.snapshot_writer.drafts import remove_abandoned
from metrics_framework.clock import Clock, utc
from metrics_framework.errors import InvalidInputError
from metrics_framework.snapshots.distributions import SUFFIX as SIDECAR
from metrics_framework.snapshots.v1 import PerformanceSnapshot

BASELINE = ".baseline"
"""A file ``NAME.baseline`` beside ``NAME.json``, whatever is in it, keeps the snapshot and its sidecar."""

ORPHAN_SECONDS = 3_600.0
"""How old a sidecar without a snapshot is when it is removed: whoever copies a pair needs a while."""

SNAPSHOT = ".json"

_FILE = re.compile(
    r"(?P<stem>(?P<moment>\d{8}T\d{6}\.\d{6})Z-(?P<run>[0-9A-Za-z]+)(?:-(?P<number>\d+))?)(?P<ending>\.\w+)"
)


def moment_text(moment: datetime) -> str:
    """Return a time in UTC as file names begin: of fixed width, so that texts sort by age."""
    text = moment.astimezone(UTC).isoformat(timespec="microseconds")
    return re.sub("[-:]", "", text.partition("+")[0])


def stem_of(snapshot: PerformanceSnapshot) -> str:
    """Return the name of a snapshot's file without its ending: its time and the start of its run's id."""
    run = re.sub(r"[^0-9A-Za-z]", "", snapshot.metadata.run_id)[:8] or "run"
    return f"{moment_text(snapshot.metadata.timestamp)}Z-{run}"


class _Kept(NamedTuple):
    """A snapshot in the folder; they sort by age."""

    moment: str
    run: str
    number: int
    stem: str
    bytes: int
    is_baseline: bool


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
            if limit is not None and (
                isinstance(limit, bool) or not isinstance(limit, int | float) or not limit > 0
            ):
                raise InvalidInputError(f"{name}={limit!r} is not a positive number")
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
        kept = sorted(self._kept(entries))
        total = sum(one.bytes for one in kept)
        oldest = self._oldest_moment()
        problem: OSError | None = None
        for one in kept[:-1]:
            is_too_old = one.moment < oldest
            is_too_much = self._max_bytes is not None and total > self._max_bytes
            if one.is_baseline or one.stem == written.stem or not (is_too_old or is_too_much):
                continue
            try:
                self._remove(one.stem)
                total -= one.bytes
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

    def _kept(self, entries: dict[str, os.DirEntry[str]]) -> Iterable[_Kept]:
        for name in entries:
            named = _FILE.fullmatch(name)
            if named is None or named["ending"] != SNAPSHOT:
                continue
            stem = named["stem"]
            size = sum(_size(entries[file]) for file in (name, f"{stem}{SIDECAR}") if file in entries)
            number = int(named["number"] or 1)
            is_baseline = f"{stem}{BASELINE}" in entries
            yield _Kept(named["moment"], named["run"], number, stem, size, is_baseline)

    def _remove(self, stem: str) -> None:
        if (self._folder / f"{stem}{BASELINE}").exists():
            return  # it was made one just now
        # First the snapshot: nothing that can be read names a sidecar that is not there.
        (self._folder / f"{stem}{SNAPSHOT}").unlink(missing_ok=True)
        (self._folder / f"{stem}{SIDECAR}").unlink(missing_ok=True)

    def _remove_orphans(self, entries: dict[str, os.DirEntry[str]]) -> None:
        now = self._clock.time_ns() / 1e9
        for name, entry in entries.items():
            named = _FILE.fullmatch(name)
            if named is None or named["ending"] != SIDECAR or f"{named['stem']}{SNAPSHOT}" in entries:
                continue
            if now - _modified(entry) > ORPHAN_SECONDS:
                path = self._folder / name
                remove_abandoned(path, unless=path.with_suffix(SNAPSHOT))


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_size
    except OSError:  # another writer removed it
        return 0


def _modified(entry: os.DirEntry[str]) -> float:
    try:
        return entry.stat(follow_symlinks=False).st_mtime
    except OSError:
        return float("inf")
