"""The index of a source of snapshots: thousands of files are opened once, and asked about for ever.

The files are the truth. The index can be built from them at any time, and is, where it is missing, of another
version, damaged, or says of a file something else than the file system does. It is one SQLite database that
is never changed in place: whoever finds it stale writes a new one under a temporary name, flushes it and
gives it the index's name. So nobody waits for anybody, a kill leaves a whole index, and several processes at
once only do the same work twice. Connections are opened for one question, and none crosses a fork.
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

from metrics_framework.errors import OutputError, SnapshotError
from metrics_framework.runtime.atomic_files import AtomicFile, remove_leftovers
from metrics_framework.snapshots import PerformanceSnapshot
from metrics_framework.snapshots.files import parse_document, read_content

INDEX_NAME = ".history.sqlite"
"""The index, in the folder that it is of."""

FLAMEIQ_HISTORY = "history.jsonl"
"""The file with a snapshot a line that a folder may hold: FlameIQ keeps it beside its baseline."""

_SCHEMA = """
CREATE TABLE listing (digest BLOB);
CREATE TABLE files (id INTEGER PRIMARY KEY, name BLOB UNIQUE, stamp TEXT, problem TEXT);
CREATE TABLE runs (
    id INTEGER PRIMARY KEY, file INTEGER, line INTEGER, digest BLOB, moment INTEGER, context TEXT
);
CREATE INDEX runs_of_a_file ON runs (file);
CREATE TABLE keys (id INTEGER PRIMARY KEY, key BLOB UNIQUE);
CREATE TABLE measurements (key INTEGER, run INTEGER, value REAL, PRIMARY KEY (key, run)) WITHOUT ROWID;
"""
_VERSION = b"metrics-framework history 1\n"
"""What follows the database in an index, with its checksum; another layout is another version."""

_KEEPS = hasattr(sqlite3.Connection, "serialize")
"""Whether an index can be kept; where SQLite was built without that, files are read with each question."""

_TRAILER = len(_VERSION) + 4
_BATCH = 50_000
_UNSETTLED_NS = 100_000_000
"""How old a change has to be: a second one within the same tick of the file system's clock would not show."""

_UNSETTLED = ""
"""The stamp of a file that was changed just now: it is read once more."""


_File = tuple[int, int]
"""What the file system says of a file: its size, and when it was changed, in nanoseconds since 1970."""


class SourceIndex:
    """The index of a folder, or of one file.

    A folder's index is a hidden file in it. Where it cannot be written, it is in the user's cache; where that
    cannot be either, and for a source that is one file, it is kept in memory.

    Args:
        source: The folder, which need not exist yet, or a file.
    """

    def __init__(self, source: Path) -> None:
        self.source = source
        self.unread: dict[str, str] = {}
        """Files that could not be read when they were last looked at, and why."""
        self._in_memory: bytes | None = None
        self._whole: dict[Path, tuple[int, int, int]] = {}

    @property
    def folder(self) -> Path:
        """The folder that the files are in."""
        return self.source.parent if self._is_file() else self.source

    @contextmanager
    def connected(self) -> Iterator[sqlite3.Connection]:
        """Bring the index up to date and ask it.

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
            raise OutputError(f"cannot list {str(self.source)!r}: {error.strerror or error}") from error

    # -- finding an index ------------------------------------------------------------------------------

    def _homes(self) -> list[Path]:
        if self._is_file():
            return []
        homes = [self.source / INDEX_NAME]
        with suppress(OSError, RuntimeError):  # a user without a home
            cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
            name = sha256(os.fsencode(self.source.resolve())).hexdigest()[:32]
            homes.append(cache / "metrics-framework" / "history" / f"{name}.sqlite")
        return homes

    def _find(self, seen: dict[str, _File]) -> tuple[sqlite3.Connection | None, bytes | None]:
        """Return a connection to an index that is up to date, or else the content of one that is not."""
        if not _KEEPS:
            return None, None
        stale = self._in_memory
        if stale is not None and (connection := _if_fresh(_loaded(stale), seen)):
            return connection, None
        for home in self._homes():
            with suppress(OSError, sqlite3.Error):
                if self._is_whole(home):
                    address = f"{home.absolute().as_uri()}?mode=ro&immutable=1"
                    if connection := _if_fresh(sqlite3.connect(address, uri=True), seen):
                        return connection, None
                    stale = home.read_bytes()
        return None, stale

    def _is_whole(self, home: Path) -> bool:
        """Say whether an index is as it was written; the same file is read through for that once."""
        status = home.stat()
        identity = (status.st_ino, status.st_size, status.st_mtime_ns)
        if self._whole.get(home) != identity:
            if not _is_intact(home.read_bytes()):
                return False
            self._whole[home] = identity
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
        """Make the index say what the files say, and return whether anything had changed."""
        known = _stamps(connection)
        outdated = {name for name, stamp in known.items() if name not in seen or _stamp(seen[name]) != stamp}
        if outdated:
            _remove(connection, outdated)
        adding = _Adding(connection)
        unread: dict[str, str] = {}
        is_complete, changed = True, bool(outdated)
        for name in seen.keys() - (known.keys() - outdated):
            file = seen[name]
            is_settled = abs(time.time_ns() - file[1]) >= _UNSETTLED_NS
            try:
                content = read_content(self.folder / name)
            except OutputError as error:
                is_complete = False
                if not isinstance(error.__cause__, FileNotFoundError):  # removed since it was listed
                    unread[name] = str(error)
                continue
            adding.add(name, file, _stamp(file) if is_settled else _UNSETTLED, content)
            is_complete, changed = is_complete and is_settled, True
        adding.finish()
        connection.execute("DELETE FROM listing")
        if is_complete:
            connection.execute("INSERT INTO listing VALUES (?)", [_digest(seen)])
        connection.commit()
        self.unread = unread
        return changed

    def _save(self, connection: sqlite3.Connection) -> None:
        if not _KEEPS:
            return
        database = connection.serialize()
        content = database + _VERSION + zlib.crc32(database).to_bytes(4, "big")
        for home in self._homes():
            with suppress(OSError):
                _replace(home, content)
                self._in_memory = None
                return
        self._in_memory = content


# -- files -------------------------------------------------------------------------------------------------


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


def _replace(home: Path, content: bytes) -> None:
    """Write an index in place of the old one.

    Raises:
        OSError: If the disk refuses.
    """
    if home.name != INDEX_NAME:  # only the user may read the cache
        home.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    remove_leftovers(home.parent)
    with AtomicFile(home.parent, content) as file:
        file.replace(home)


# -- the database ------------------------------------------------------------------------------------------


def _is_intact(content: bytes) -> bool:
    database, version, checksum = content[:-_TRAILER], content[-_TRAILER:-4], content[-4:]
    return version == _VERSION and zlib.crc32(database) == int.from_bytes(checksum, "big")


def _loaded(content: bytes) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    connection.deserialize(content[:-_TRAILER])
    return connection


def _empty() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    connection.executescript(_SCHEMA)
    return connection


def _if_fresh(connection: sqlite3.Connection, seen: dict[str, _File]) -> sqlite3.Connection | None:
    """Return the connection, or close it where the index says something else than the file system."""
    try:
        if connection.execute("SELECT digest FROM listing").fetchone() == (_digest(seen),):
            return connection
    except BaseException:
        connection.close()
        raise
    connection.close()
    return None


def _stamp(file: _File) -> str:
    """Return what differs where a file does."""
    size, changed_ns = file
    return f"{size} {changed_ns}"


def _digest(files: dict[str, _File]) -> bytes:
    """Return what differs where any file does."""
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


class _Adding:
    """Puts files into an index, many numbers at once."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._keys: dict[bytes, int] = {
            key: number for number, key in connection.execute("SELECT id, key FROM keys")
        }
        self._measured: list[tuple[int, int, float]] = []

    def add(self, name: str, file: _File, stamp: str, content: bytes) -> None:
        """Put one file into it."""
        entries, problem = parse_snapshots(content, name, file[1])
        file_id = self._insert(
            "INSERT INTO files (name, stamp, problem) VALUES (?, ?, ?)", os.fsencode(name), stamp, problem
        )
        for entry in entries:
            run_id = self._insert(
                "INSERT INTO runs (file, line, digest, moment, context) VALUES (?, ?, ?, ?, ?)",
                *(file_id, entry.line, entry.digest, entry.moment, entry.context),
            )
            for key, value in entry.measurements.items():
                self._measured.append((self._key(encode_key(key)), run_id, value))
        if len(self._measured) >= _BATCH:
            self.finish()

    def finish(self) -> None:
        """Put what is left into it."""
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
    """Return a key as the index holds it: JSON may hold halves of characters, which are no text."""
    return key.encode("utf-8", "surrogatepass")


def decode_key(key: bytes) -> str:
    """Return the key that was stored."""
    return key.decode("utf-8", "surrogatepass")


JSON_LINES_SUFFIX = ".jsonl"
"""The ending of a file with a snapshot a line, such as FlameIQ's ``history.jsonl``."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_NAMED_PROBLEMS = 3


class ParsedSnapshot(NamedTuple):
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


def parse_snapshots(content: bytes, name: str, written_ns: int) -> tuple[list[ParsedSnapshot], str | None]:
    """Return the snapshots in a file, and what is wrong with it.

    Args:
        content: What is in the file.
        name: What it is called: its ending says whether it has a snapshot a line.
        written_ns: When it was written, for snapshots that do not say when they were taken.
    """
    found: list[ParsedSnapshot] = []
    problems: list[str] = []
    # A file system may know years that `datetime` does not.
    written = min(max(written_ns // 1_000, moment_of(_FIRST)), moment_of(_LAST))
    is_lines = name.endswith(JSON_LINES_SUFFIX)
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


def _entry(document: Any, line: int, written: int) -> ParsedSnapshot:
    snapshot = PerformanceSnapshot.from_dict(document)
    metadata, said = snapshot.metadata, document.get("metadata", {})
    run_id = metadata.run_id if "run_id" in said else None
    context = json.dumps(
        [run_id, metadata.commit, metadata.branch, metadata.environment.value, metadata.tags], sort_keys=True
    )
    moment = moment_of(metadata.timestamp) if "timestamp" in said else written
    measurements = snapshot.metrics.flat()
    return ParsedSnapshot(
        line, _run_digest(run_id, context, moment, measurements), moment, context, measurements
    )


def _run_digest(run_id: str | None, context: str, moment: int, measurements: Mapping[str, float]) -> bytes:
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
