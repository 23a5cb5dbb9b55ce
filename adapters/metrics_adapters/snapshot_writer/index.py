"""The index of a folder of snapshots: each file is opened and parsed once, and queried from then on.

The files are the truth. An index that is missing, damaged, of another version, or out of date is built again
from them. It is one SQLite database that is never changed in place: a process that finds it out of date
writes a new one and replaces the file. So there are no locks, a killed process leaves a complete index, and
processes that update it at the same time only repeat work. A connection is opened for each query, so none
crosses a fork.
"""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any, NamedTuple

from metrics_framework.errors import OutputError, SnapshotError, reason_of
from metrics_framework.runtime.atomic_files import AtomicFile, remove_leftovers
from metrics_framework.snapshots import PerformanceSnapshot
from metrics_framework.snapshots.files import parse_document, read_content
from metrics_framework.snapshots.provenance import commit_date_of

INDEX_NAME = ".history.sqlite"
"""The index of a folder, in that folder."""

FLAMEIQ_HISTORY = "history.jsonl"
"""A file with one snapshot per line. FlameIQ keeps it beside its baseline."""

JSON_LINES_SUFFIX = ".jsonl"

_SCHEMA = """
CREATE TABLE listing (digest BLOB);
CREATE TABLE files (id INTEGER PRIMARY KEY, name BLOB UNIQUE, stamp TEXT, problem TEXT);
CREATE TABLE runs (
    id INTEGER PRIMARY KEY, file INTEGER, line INTEGER, digest BLOB,
    date INTEGER, moment INTEGER, context TEXT
);
CREATE INDEX runs_of_a_file ON runs (file);
CREATE TABLE keys (id INTEGER PRIMARY KEY, key BLOB UNIQUE);
CREATE TABLE measurements (key INTEGER, run INTEGER, value REAL, PRIMARY KEY (key, run)) WITHOUT ROWID;
"""
_VERSION = b"metrics-framework history 2\n"
"""Follows the database in an index file, before its checksum. Another schema is another version."""

_TRAILER_BYTES = len(_VERSION) + 4

_CAN_SERIALIZE = hasattr(sqlite3.Connection, "serialize")
"""Whether an index can be stored. If SQLite was built without it, each query reads all files."""

_INSERT_BATCH_ROWS = 50_000

_RECENT_NS = 100_000_000
"""A file that changed this recently is read again: a change in the same clock tick would not show."""

_RECENT_STAMP = ""
"""The stamp of a file that changed recently. It differs from every other, so the file is read again."""

_MAX_LISTED_PROBLEMS = 3

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

_File = tuple[int, int]
"""A file as the file system describes it: its size, and its modification time in nanoseconds since 1970."""


class SourceIndex:
    """The index of one source: a folder, or a single file.

    The index of a folder is a hidden file in it. If that cannot be written, the index is in the user's cache.
    If that fails too, or the source is a single file, it is kept in memory.

    Args:
        source: A folder, which need not exist yet, or a file.
    """

    def __init__(self, source: Path) -> None:
        self.source = source
        self.unread: dict[str, str] = {}
        """Files that could not be read at the last update, and why."""
        self._in_memory: bytes | None = None
        self._intact: dict[Path, tuple[int, int, int]] = {}

    @property
    def folder(self) -> Path:
        """The folder of the files."""
        return self.source.parent if self._is_file() else self.source

    @contextmanager
    def connected(self) -> Iterator[sqlite3.Connection]:
        """Bring the index up to date, and yield a connection to it.

        Raises:
            OutputError: If the source cannot be listed.
        """
        seen = self._scan()
        connection, stale = self._find(seen)
        if connection is None:
            connection = self._renewed(seen, stale)
        else:
            self.unread = {}
        with closing(connection):
            yield connection

    def state(self) -> bytes | None:
        """Return a digest of the names, sizes and times of the files; ``None`` if one changed just now.

        Raises:
            OutputError: If the source cannot be listed.
        """
        seen = self._scan()
        return None if any(_is_recent(file) for file in seen.values()) else _digest(seen)

    # -- the files -------------------------------------------------------------------------------------

    def _is_file(self) -> bool:
        return self.source.suffix in (".json", JSON_LINES_SUFFIX) and not self.source.is_dir()

    def _scan(self) -> dict[str, _File]:
        try:
            if self._is_file():
                status = self.source.stat()
                return {self.source.name: (status.st_size, status.st_mtime_ns)}
            with os.scandir(self.source) as entries:
                return dict(_listed(entries))
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise OutputError(f"cannot list {str(self.source)!r}: {reason_of(error)}") from error

    # -- finding an index ------------------------------------------------------------------------------

    def _index_paths(self) -> list[Path]:
        if self._is_file():
            return []
        paths = [self.source / INDEX_NAME]
        with suppress(OSError, RuntimeError):  # the user has no home folder
            cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
            name = sha256(os.fsencode(self.source.resolve())).hexdigest()[:32]
            paths.append(cache / "metrics-framework" / "history" / f"{name}.sqlite")
        return paths

    def _find(self, seen: dict[str, _File]) -> tuple[sqlite3.Connection | None, bytes | None]:
        """Return a connection to an index that is up to date, or the content of one that is out of date."""
        if not _CAN_SERIALIZE:
            return None, None
        stale = self._in_memory
        if stale is not None and (connection := _if_fresh(_loaded(stale), seen)):
            return connection, None
        for path in self._index_paths():
            with suppress(OSError, sqlite3.Error):
                if self._is_intact_file(path):
                    address = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
                    if connection := _if_fresh(sqlite3.connect(address, uri=True), seen):
                        return connection, None
                    stale = path.read_bytes()
        return None, stale

    def _is_intact_file(self, path: Path) -> bool:
        """Return whether the checksum of an index is right. Each file is read for this only once."""
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return False
        identity = (status.st_ino, status.st_size, status.st_mtime_ns)
        if self._intact.get(path) != identity:
            if not _is_intact(path.read_bytes()):
                return False
            self._intact[path] = identity
        return True

    # -- renewing it -----------------------------------------------------------------------------------

    def _renewed(self, seen: dict[str, _File], stale: bytes | None) -> sqlite3.Connection:
        connection = _empty() if stale is None or not _is_intact(stale) else _loaded(stale)
        try:
            if self._update(connection, seen):
                self._save(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _update(self, connection: sqlite3.Connection, seen: dict[str, _File]) -> bool:
        """Bring the database up to date with the files, and return whether anything changed."""
        known = _stamps(connection)
        outdated = {name for name, stamp in known.items() if name not in seen or _stamp(seen[name]) != stamp}
        if outdated:
            _remove(connection, outdated)
        inserter = _Inserter(connection)
        unread: dict[str, str] = {}
        is_complete, changed = True, bool(outdated)
        for name in seen.keys() - (known.keys() - outdated):
            file = seen[name]
            is_recent = _is_recent(file)
            try:
                content = read_content(self.folder / name, pipe=False)
            except OutputError as error:
                is_complete = False
                if not isinstance(error.__cause__, FileNotFoundError):  # removed since the listing
                    unread[name] = str(error)
                continue
            inserter.add(name, file, _RECENT_STAMP if is_recent else _stamp(file), content)
            is_complete, changed = is_complete and not is_recent, True
        inserter.finish()
        connection.execute("DELETE FROM listing")
        if is_complete:
            connection.execute("INSERT INTO listing VALUES (?)", [_digest(seen)])
        connection.commit()
        self.unread = unread
        return changed

    def _save(self, connection: sqlite3.Connection) -> None:
        if not _CAN_SERIALIZE:
            return
        database = connection.serialize()
        content = database + _VERSION + zlib.crc32(database).to_bytes(4, "big")
        for path in self._index_paths():
            with suppress(OSError):
                if path.name != INDEX_NAME:  # in the cache, which only the user may read
                    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                remove_leftovers(path.parent)
                with AtomicFile(path.parent, content) as file:
                    file.replace(path)
                self._in_memory = None
                return
        self._in_memory = content


def _listed(entries: Iterable[os.DirEntry[str]]) -> Iterator[tuple[str, _File]]:
    for entry in entries:
        name = entry.name
        if (name[-5:] == ".json" and name[0] != ".") or name == FLAMEIQ_HISTORY:
            try:
                status = entry.stat()
            except OSError:  # removed while the folder was listed
                continue
            if stat.S_ISREG(status.st_mode):
                yield name, (status.st_size, status.st_mtime_ns)


# -- the database ------------------------------------------------------------------------------------------


def _is_intact(content: bytes) -> bool:
    database, version, checksum = content[:-_TRAILER_BYTES], content[-_TRAILER_BYTES:-4], content[-4:]
    return version == _VERSION and zlib.crc32(database) == int.from_bytes(checksum, "big")


def _loaded(content: bytes) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    connection.deserialize(content[:-_TRAILER_BYTES])
    return connection


def _empty() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    connection.executescript(_SCHEMA)
    return connection


def _if_fresh(connection: sqlite3.Connection, seen: dict[str, _File]) -> sqlite3.Connection | None:
    """Return the connection, or close it if the index does not match the files."""
    try:
        if connection.execute("SELECT digest FROM listing").fetchone() == (_digest(seen),):
            return connection
    except BaseException:
        connection.close()
        raise
    connection.close()
    return None


def _is_recent(file: _File) -> bool:
    return abs(time.time_ns() - file[1]) < _RECENT_NS


def _stamp(file: _File) -> str:
    """Return a text that changes if the file does."""
    size, changed_ns = file
    return f"{size} {changed_ns}"


def _digest(files: dict[str, _File]) -> bytes:
    """Return a digest that changes if any file does."""
    listed = "/".join([f"{name}/{size}/{changed}" for name, (size, changed) in sorted(files.items())])
    return blake2b(os.fsencode(listed), digest_size=16).digest()


def _stamps(connection: sqlite3.Connection) -> dict[str, str]:
    return {os.fsdecode(name): stamp for name, stamp in connection.execute("SELECT name, stamp FROM files")}


def _remove(connection: sqlite3.Connection, names: Iterable[str]) -> None:
    connection.execute("CREATE TEMP TABLE outdated (id INTEGER PRIMARY KEY)")
    connection.executemany(
        "INSERT INTO outdated SELECT id FROM files WHERE name = ?", [(os.fsencode(name),) for name in names]
    )
    connection.execute(
        "DELETE FROM measurements WHERE run IN (SELECT id FROM runs WHERE file IN (SELECT id FROM outdated))"
    )
    connection.execute("DELETE FROM runs WHERE file IN (SELECT id FROM outdated)")
    connection.execute("DELETE FROM files WHERE id IN (SELECT id FROM outdated)")
    connection.execute("DELETE FROM keys WHERE id NOT IN (SELECT key FROM measurements)")
    connection.execute("DROP TABLE outdated")


class _Inserter:
    """Inserts files into an index, many measurements at once."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._keys: dict[bytes, int] = {
            key: number for number, key in connection.execute("SELECT id, key FROM keys")
        }
        self._measured: list[tuple[int, int, float]] = []

    def add(self, name: str, file: _File, stamp: str, content: bytes) -> None:
        """Insert one file."""
        snapshots, problem = parse_snapshots(content, name, file[1])
        file_id = self._insert(
            "INSERT INTO files (name, stamp, problem) VALUES (?, ?, ?)", os.fsencode(name), stamp, problem
        )
        for one in snapshots:
            run_id = self._insert(
                "INSERT INTO runs (file, line, digest, date, moment, context) VALUES (?, ?, ?, ?, ?, ?)",
                *(file_id, one.line, one.digest, one.date, one.moment, one.context),
            )
            for key, value in one.measurements.items():
                self._measured.append((self._key(encode_key(key)), run_id, value))
        if len(self._measured) >= _INSERT_BATCH_ROWS:
            self.finish()

    def finish(self) -> None:
        """Insert the measurements that are not inserted yet."""
        self._measured.sort()
        self._connection.executemany("INSERT INTO measurements VALUES (?, ?, ?)", self._measured)
        self._measured.clear()

    def _key(self, key: bytes) -> int:
        number = self._keys.get(key)
        if number is None:
            number = self._keys[key] = self._insert("INSERT INTO keys (key) VALUES (?)", key)
        return number

    def _insert(self, statement: str, *values: object) -> int:
        row = self._connection.execute(statement, values).lastrowid
        assert row is not None
        return row


def encode_key(key: str) -> bytes:
    """Return a key as the index stores it. JSON may contain lone surrogates, which are not valid text."""
    return key.encode("utf-8", "surrogatepass")


def decode_key(key: bytes) -> str:
    """Return the key that `encode_key` encoded."""
    return key.decode("utf-8", "surrogatepass")


# -- the content of files ----------------------------------------------------------------------------------


class ParsedSnapshot(NamedTuple):
    """One snapshot of a file, as an index stores it.

    Attributes:
        line: The line in the file, from 1; 0 for the only snapshot of a file.
        digest: Equal for the same run in several files. Empty for a run without an id.
        date: The date of its commit, or else the time of the run, in microseconds since 1970.
        moment: The time of the run, likewise.
        context: Run id, commit, branch, environment and tags, as a JSON array.
        measurements: Flat key to number.
    """

    line: int
    digest: bytes
    date: int
    moment: int
    context: str
    measurements: dict[str, float]


def parse_snapshots(content: bytes, name: str, written_ns: int) -> tuple[list[ParsedSnapshot], str | None]:
    """Return the valid snapshots of a file, and the faults of the others.

    Args:
        content: The content of the file.
        name: The name of the file. Its suffix tells whether each line is a snapshot.
        written_ns: The modification time, which replaces a missing timestamp.
    """
    found: list[ParsedSnapshot] = []
    problems: list[str] = []
    # A file system may have years that `datetime` does not.
    written = min(max(written_ns // 1_000, moment_of(_FIRST)), moment_of(_LAST))
    has_lines = name.endswith(JSON_LINES_SUFFIX)
    for number, text in _lines(content) if has_lines else [(0, content)]:
        try:
            found.append(_parsed(parse_document(text), number, written))
        except SnapshotError as error:
            place = f"line {number}: " if has_lines else ""
            problems.append(place + "; ".join(_first(error.violations)))
    return found, "; ".join(_first(problems)) or None


def moment_of(timestamp: datetime) -> int:
    """Return a time as microseconds since 1970."""
    return (timestamp - _EPOCH) // _MICROSECOND


def timestamp_of(moment: int) -> datetime:
    """Return a time from microseconds since 1970, in UTC."""
    return _EPOCH + timedelta(microseconds=moment)


def _parsed(document: Any, line: int, written: int) -> ParsedSnapshot:
    snapshot = PerformanceSnapshot.from_dict(document)
    metadata, given = snapshot.metadata, document.get("metadata", {})
    run_id = metadata.run_id if "run_id" in given else None
    context = json.dumps(
        [run_id, metadata.commit, metadata.branch, metadata.environment.value, metadata.tags],
        sort_keys=True,
        allow_nan=False,
    )
    moment = moment_of(metadata.timestamp) if "timestamp" in given else written
    measurements = snapshot.metrics.flat()
    digest = _run_digest(run_id, context, moment, measurements)
    commit_date = commit_date_of(metadata.tags)
    date = moment if commit_date is None else moment_of(commit_date)
    return ParsedSnapshot(line, digest, date, moment, context, measurements)


def _run_digest(run_id: str | None, context: str, moment: int, measurements: Mapping[str, float]) -> bytes:
    if run_id is None:
        return b""
    text = f"{context} {moment} {sorted(measurements.items())}"
    return blake2b(text.encode("utf-8", "backslashreplace"), digest_size=16).digest()


def _lines(content: bytes) -> Iterator[tuple[int, bytes]]:
    for number, line in enumerate(content.split(b"\n"), 1):
        if line.strip():
            yield number, line


def _first(lines: list[str] | tuple[str, ...]) -> list[str]:
    more = len(lines) - _MAX_LISTED_PROBLEMS
    return [*lines[:_MAX_LISTED_PROBLEMS], *([f"and {more} more"] if more > 0 else [])]
