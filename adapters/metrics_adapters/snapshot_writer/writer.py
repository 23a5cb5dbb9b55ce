"""The snapshot writer: a file that bears its final name is whole, whatever happens while it is written."""

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
from metrics_framework.errors import OutputError
from metrics_framework.export.endpoints import EndpointUrl, Option, days_option, whole_option
from metrics_framework.log import Isolation
from metrics_framework.recording import Distribution
from metrics_framework.runtime.atomic_files import AtomicFile, flush_folder, remove_leftovers
from metrics_framework.snapshots import PerformanceSnapshot, dump_snapshot
from metrics_framework.snapshots.distributions import (
    DISTRIBUTIONS_TAG,
    content_name,
    dump_distributions,
)
from metrics_framework.snapshots.distributions import SIDECAR_SUFFIX as SIDECAR
from metrics_framework.snapshots.rules import MAX_TAGS

DEFAULT_FOLDER = "snapshots"


class SnapshotWriter:
    """Writes snapshots into a folder, each into a file of its own, and never overwrites one.

    A file is written under a temporary name, flushed to the disk, and only then given its final name; then
    the folder is flushed. A process that is killed leaves at most temporary names, which the next write
    removes, and a sidecar without a snapshot, which is removed after an hour.

    Two writers into the same folder are equal.

    Args:
        folder: Where the files go; it is made when the first one is written.
        retention_days: After how many days a snapshot is removed; never by default. See `Pruner`.
        max_bytes: How large the snapshots in the folder become together, before the oldest are removed.
        clock: What tells how old a snapshot is.

    Raises:
        InvalidInputError: If a limit is not positive.
    """

    name = "snapshot_writer"
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

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SnapshotWriter) and self.folder.absolute() == other.folder.absolute()

    def __hash__(self) -> int:
        return hash(self.folder.absolute())

    def write(
        self, snapshot: PerformanceSnapshot, distributions: Mapping[str, Distribution] | None = None
    ) -> Path:
        """Write a snapshot, and what is too old or too much out of the folder.

        Args:
            snapshot: The snapshot.
            distributions: What goes into its sidecar, by the keys of `read_distributions`. The snapshot gets
                a tag that names the sidecar; where it has all the tags that v1 allows, there is none.

        Returns:
            The path of the new file: its name begins with the snapshot's time, so that names sort by age.

        Raises:
            OutputError: If the disk refuses; no file bears a final name then.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.folder)
            with ExitStack() as drafts:
                files = {
                    ending: drafts.enter_context(AtomicFile(self.folder, content))
                    for ending, content in _contents(snapshot, distributions or {}).items()
                }
                path = self._publish(files, stem_of(snapshot))
        except OSError as error:
            reason = error.strerror or str(error)
            raise OutputError(f"cannot write a snapshot into {str(self.folder)!r}: {reason}") from error
        # It is written, whatever becomes of the old ones.
        self._isolation.call(
            "old snapshots not removed", partial(self._pruner.prune, path), folder=str(self.folder)
        )
        return path

    def _publish(self, files: Mapping[str, AtomicFile], stem: str) -> Path:
        """Give the files final names, which differ in their endings; one that is taken gets a number."""
        for number in count(1):
            path = self.folder / (
                f"{stem}{SNAPSHOT_SUFFIX}" if number == 1 else f"{stem}-{number}{SNAPSHOT_SUFFIX}"
            )
            if self._publish_as(path, files):
                return path
        raise AssertionError("the numbers have no end")

    def _publish_as(self, path: Path, files: Mapping[str, AtomicFile]) -> bool:
        if os.path.lexists(path):
            return False
        published: list[Path] = []
        done = False
        try:
            for ending, draft in files.items():
                if not draft.publish(path.with_suffix(ending)):
                    return False
                published.append(path.with_suffix(ending))
                flush_folder(self.folder)
            done = True
        finally:
            if not done:  # who is told of an error may write it again
                for file in reversed(published):
                    with suppress(OSError):
                        file.unlink()
        return True


def _contents(snapshot: PerformanceSnapshot, distributions: Mapping[str, Distribution]) -> dict[str, bytes]:
    """Return the files of a snapshot by their endings, in the order in which they get their names."""
    files = {}
    metadata = snapshot.metadata
    if distributions and len({*metadata.tags, DISTRIBUTIONS_TAG}) <= MAX_TAGS:
        files[SIDECAR] = dump_distributions(distributions)
        tags = {**metadata.tags, DISTRIBUTIONS_TAG: content_name(files[SIDECAR])}
        snapshot = replace(snapshot, metadata=replace(metadata, tags=tags))
    files[SNAPSHOT_SUFFIX] = dump_snapshot(snapshot).encode()
    return files


class SnapshotEndpoint(SnapshotWriter):
    """``snapshot:///var/lib/app/runs``: a v1 snapshot into a file of its own, by `SnapshotWriter`.

    ``snapshot:runs`` is relative to the working directory.

    Args:
        url: The folder.

    Raises:
        ConfigurationError: If there is no folder in it, or a host.
    """

    options: ClassVar[Mapping[str, Option]] = {
        "retention_days": days_option("Days after which a snapshot is removed."),
        "max_bytes": whole_option(1, 10**15, None, "Bytes that all of them take up, before the oldest go."),
    }

    def __init__(self, url: EndpointUrl) -> None:
        super().__init__(path_of(url), **url.options)
        self.name = str(url)
