"""The snapshot writer and its endpoint. A file with a final name is always complete."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import ClassVar

from metrics_adapters.file import path_of
from metrics_adapters.snapshot_writer.pruning import SNAPSHOT_SUFFIX, Pruner, stem_of
from metrics_framework.clock import SYSTEM_CLOCK, Clock
from metrics_framework.errors import OutputError, reason_of
from metrics_framework.export.endpoints import EndpointUrl, Option, days_option, whole_option
from metrics_framework.log import Isolation, LogOnce
from metrics_framework.recording import Distribution
from metrics_framework.runtime.atomic_files import AtomicFile, flush_folder, remove_leftovers
from metrics_framework.snapshots import PerformanceSnapshot, dump_snapshot
from metrics_framework.snapshots.distributions import (
    DISTRIBUTIONS_TAG,
    SIDECAR_SUFFIX,
    content_name,
    dump_distributions,
)
from metrics_framework.snapshots.rules import MAX_TAGS

DEFAULT_FOLDER = "snapshots"


class SnapshotWriter:
    """Writes each snapshot to a new file in a folder. Thread-safe, also for several processes.

    A file is written under a temporary name, flushed to the disk, and only then given its final name; then
    the folder is flushed. An existing file is never overwritten. A killed process leaves at most temporary
    files, which the next write removes, and a sidecar without a snapshot, which is removed after an hour.

    Two writers to the same folder are equal.

    Args:
        folder: The folder for the files. The first write creates it.
        retention_days: Days after which a snapshot is removed; never by default. See `Pruner`.
        max_bytes: Total size of all snapshots in the folder, above which the oldest are removed.
        clock: Determines the age of a snapshot.

    Raises:
        InvalidInputError: If a limit is not positive.
    """

    name = "snapshot_writer"
    is_local = True
    keeps_distributions = True

    def __init__(
        self,
        folder: str | Path = DEFAULT_FOLDER,
        *,
        retention_days: float | None = None,
        max_bytes: int | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.folder = Path(folder)
        self._pruner = Pruner(self.folder, retention_days, max_bytes, clock)
        self._isolation = Isolation()
        self._once = LogOnce()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SnapshotWriter) and self.folder.absolute() == other.folder.absolute()

    def __hash__(self) -> int:
        return hash(self.folder.absolute())

    def write(
        self, snapshot: PerformanceSnapshot, distributions: Mapping[str, Distribution] | None = None
    ) -> Path:
        """Write a snapshot, then remove snapshots beyond the limits.

        Args:
            snapshot: The snapshot.
            distributions: Written to the sidecar, by the keys of `read_distributions`. A tag of the snapshot
                names the sidecar. If the snapshot already has as many tags as v1 allows, there is none.

        Returns:
            The path of the new file. Its name begins with the snapshot's time, so names sort by age.

        Raises:
            OutputError: If the disk refuses a file. No file has a final name then.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for path in remove_leftovers(self.folder):
                self._once.log("warning", "not a file, so not removed", path=str(path))
            with ExitStack() as stack:
                files = {
                    suffix: stack.enter_context(AtomicFile(self.folder, content))
                    for suffix, content in _contents(snapshot, distributions or {}).items()
                }
                path = self._publish(files, stem_of(snapshot))
        except OSError as error:
            raise OutputError(
                f"cannot write a snapshot into {str(self.folder)!r}: {reason_of(error)}"
            ) from error
        # The snapshot is written: a failure to remove old ones is only logged.
        self._isolation.call(
            "old snapshots not removed", partial(self._pruner.prune, path), folder=str(self.folder)
        )
        return path

    def _publish(self, files: Mapping[str, AtomicFile], stem: str) -> Path:
        """Give the files final names, which differ in their suffixes, with a number if the name is used."""
        for number in count(1):
            numbered = stem if number == 1 else f"{stem}-{number}"
            path = self.folder / f"{numbered}{SNAPSHOT_SUFFIX}"
            if self._publish_as(path, files):
                return path
        raise AssertionError("unreachable: there is always a next number")

    def _publish_as(self, path: Path, files: Mapping[str, AtomicFile]) -> bool:
        if os.path.lexists(path):
            return False
        published: list[Path] = []
        done = False
        try:
            for suffix, file in files.items():
                if not file.publish(path.with_suffix(suffix)):
                    return False
                published.append(path.with_suffix(suffix))
                flush_folder(self.folder)
            done = True
        finally:
            if not done:  # the caller may write the same snapshot again
                for written in reversed(published):
                    with suppress(OSError):
                        written.unlink()
        return True


class SnapshotEndpoint(SnapshotWriter):
    """``snapshot:///var/lib/app/runs``: each v1 snapshot in its own file, written by `SnapshotWriter`.

    ``snapshot:runs`` is relative to the working directory.

    Args:
        url: The folder.

    Raises:
        ConfigurationError: If the URL has no folder, or has a host.
    """

    options: ClassVar[Mapping[str, Option]] = {
        "retention_days": days_option("Days after which a snapshot is removed."),
        "max_bytes": whole_option(
            1, 10**15, None, "Total bytes of all snapshots, above which the oldest are removed."
        ),
    }

    def __init__(self, url: EndpointUrl) -> None:
        super().__init__(path_of(url), **url.options)
        self.name = str(url)


def _contents(snapshot: PerformanceSnapshot, distributions: Mapping[str, Distribution]) -> dict[str, bytes]:
    """Return the files of a snapshot by suffix, in the order in which they are published."""
    files = {}
    metadata = snapshot.metadata
    if distributions and len({*metadata.tags, DISTRIBUTIONS_TAG}) <= MAX_TAGS:
        files[SIDECAR_SUFFIX] = dump_distributions(distributions)
        tags = {**metadata.tags, DISTRIBUTIONS_TAG: content_name(files[SIDECAR_SUFFIX])}
        snapshot = replace(snapshot, metadata=replace(metadata, tags=tags))
    files[SNAPSHOT_SUFFIX] = dump_snapshot(snapshot).encode()
    return files
