"""Which runs of a history are asked about, and finding them in the indexes of its sources."""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from metrics_adapters.snapshot_writer.entries import timestamp_of
from metrics_adapters.snapshot_writer.index import SourceIndex, restored, stored
from metrics_framework.snapshots import Environment, LeftOutFile, Run

_ROWS = """
SELECT moment, ?, length(name), name, line, runs.id, digest, context FROM runs JOIN files ON files.id = file
"""
_FEW = 100
"""Up to how many runs are looked up one by one."""

_ABBREVIATED = re.compile(r"[0-9a-f]{7,}")


@dataclass(frozen=True)
class Selection:
    """What a run must be to be asked about; ``None`` is whatever it is.

    Attributes:
        branch: Its branch.
        commit: Its commit; the first seven digits or more are enough.
        environment: Where it took place.
        tags: Tags that its metadata holds.
        last: Only that many runs, the newest that are all the rest.
    """

    branch: str | None = None
    commit: str | None = None
    environment: Environment | None = None
    tags: dict[str, str] = field(default_factory=dict)
    last: int | None = None

    @property
    def is_choosy(self) -> bool:
        """Whether there may be runs that it does not take."""
        return bool(self.tags) or (self.branch, self.commit, self.environment) != (None, None, None)

    def takes(self, context: str) -> bool:
        """Say whether a run is one of those, by its context as the index holds it."""
        _, commit, branch, environment, tags = json.loads(context)
        return (
            self.branch in (None, branch)
            and self.environment in (None, environment)
            and (self.commit is None or _is_commit(self.commit, commit))
            and self.tags.items() <= tags.items()
        )


class Row(NamedTuple):
    """A run in an index; rows sort by age, those of one moment by where they are.

    Attributes:
        moment: When it took place, in microseconds since 1970.
        source: The place of its source among the sources.
        length: The length of its file's name: numbers at the end of names count up by that.
        name: Its file, as the index holds it.
        line: The line, from 1; 0 for the only one.
        id: What the index of its source knows it by.
        digest: The same for the same run in several files; empty where it has no id.
        context: What `Selection.takes` reads.
    """

    moment: int
    source: int
    length: int
    name: bytes
    line: int
    id: int
    digest: bytes
    context: str


class View:
    """The selected runs while the indexes of their sources are open."""

    def __init__(
        self, indexes: Sequence[SourceIndex], connections: Sequence[sqlite3.Connection], selection: Selection
    ) -> None:
        self._indexes = indexes
        self._connections = connections
        # A run whose snapshot is in several files, such as a baseline, is one run.
        first: dict[object, Row] = {}
        for row in sorted(self._taken(selection)):
            first.setdefault(row.digest or (row.source, row.id), row)
        self.rows = list(first.values())
        if selection.last is not None:
            self.rows = self.rows[-selection.last :]

    def known_keys(self) -> set[str]:
        """Return the flat keys of all measurements, also of runs that are not selected."""
        return {
            restored(key)
            for connection in self._connections
            for (key,) in connection.execute("SELECT key FROM keys")
        }

    def measurements(self, keys: Iterable[str] | None = None) -> Iterator[tuple[Row, dict[str, float]]]:
        """Yield the runs that have one of the measurements, oldest first, and those that they have.

        Args:
            keys: Flat keys; all by default.
        """
        found: list[defaultdict[int, dict[str, float]]] = []
        for source, connection in enumerate(self._connections):
            of_source: defaultdict[int, dict[str, float]] = defaultdict(dict)
            for key, run, value in _measurements(connection, keys, self._few(source)):
                of_source[run][key] = value
            found.append(of_source)
        for row in self.rows:
            if row.id in found[row.source]:
                yield row, found[row.source][row.id]

    def tags(self, row: Row) -> dict[str, str]:
        """Return the tags of a run."""
        tags: dict[str, str] = json.loads(row.context)[-1]
        return tags

    def run(self, row: Row) -> Run:
        """Return what is known of a run."""
        run_id, commit, branch, environment, tags = json.loads(row.context)
        path = self._indexes[row.source].folder / os.fsdecode(row.name)
        moment = timestamp_of(row.moment)
        return Run(run_id, moment, commit, branch, Environment(environment), tags, path, row.line or None)

    def left_out(self) -> list[LeftOutFile]:
        """Return the files that are no snapshots, and what is wrong with each."""
        found: dict[Path, str] = {}
        for index, connection in zip(self._indexes, self._connections, strict=True):
            problems = connection.execute("SELECT name, problem FROM files WHERE problem IS NOT NULL")
            found |= {index.folder / os.fsdecode(name): problem for name, problem in problems}
            found |= {index.folder / name: problem for name, problem in index.unread.items()}
        return [LeftOutFile(path, reason) for path, reason in sorted(found.items())]

    def _few(self, source: int) -> str:
        """Return a condition that leaves the rest of the runs unread, where it is short."""
        if len(self.rows) > _FEW:
            return ""
        return f"AND run IN ({','.join(str(row.id) for row in self.rows if row.source == source)})"

    def _taken(self, selection: Selection) -> Iterator[Row]:
        for source, connection in enumerate(self._connections):
            rows = map(Row._make, connection.execute(_ROWS, [source]))
            yield from (row for row in rows if selection.takes(row.context)) if selection.is_choosy else rows


@contextmanager
def opened(indexes: Sequence[SourceIndex], selection: Selection) -> Iterator[View]:
    """Bring the indexes up to date and look at the selected runs.

    Raises:
        OutputError: If a source cannot be listed.
    """
    with ExitStack() as stack:
        connections = [stack.enter_context(index.connected()) for index in indexes]
        yield View(indexes, connections, selection)


def _measurements(
    connection: sqlite3.Connection, keys: Iterable[str] | None, condition: str
) -> Iterator[tuple[str, int, float]]:
    wanted = None if keys is None else {stored(key) for key in keys}
    statement = f"SELECT run, value FROM measurements WHERE key = ? {condition}"  # noqa: S608 - numbers alone
    for number, key in connection.execute("SELECT id, key FROM keys").fetchall():
        if wanted is None or key in wanted:
            name = restored(key)
            for run, value in connection.execute(statement, [number]):
                yield name, run, value


def _is_commit(wanted: str, commit: str | None) -> bool:
    if commit is None or not _ABBREVIATED.fullmatch(wanted):
        return commit == wanted
    return commit.startswith(wanted)
