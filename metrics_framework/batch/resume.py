"""What a journal holds of earlier sessions of a batch."""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from metrics_framework.batch.disk import Journal
from metrics_framework.batch.rows import FIELDS, NOTHING, Row, Totals
from metrics_framework.errors import InvalidInputError, OutputError
from metrics_framework.log import log_event

VERSION = 1
"""The version of a journal's form."""


_BEGIN = b'{"batch_journal":1,"batch_id":"'


def is_journal(journal: Journal) -> bool:
    """Say whether an open file is a journal, or has the beginning of one."""
    return journal.begins_with(_BEGIN)


class Names:
    """A set of names in eight bytes each: that it has one too many is as likely as two equal hashes."""

    def __init__(self) -> None:
        self._hashes = array("Q")
        self._is_sorted = True

    def add(self, names: Iterable[str]) -> None:
        """Add names."""
        self._hashes.extend(map(_hash, names))
        self._is_sorted = False

    def __contains__(self, name: str) -> bool:
        if not self._is_sorted:
            self._hashes, self._is_sorted = array("Q", sorted(self._hashes)), True
        wanted = _hash(name)
        at = bisect_left(self._hashes, wanted)
        return at < len(self._hashes) and self._hashes[at] == wanted

    def __len__(self) -> int:
        return len(self._hashes)


def _hash(name: str) -> int:
    digest = hashlib.blake2b(str(name).encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


@dataclass
class Earlier:
    """What a journal holds.

    Attributes:
        batch_id: Which batch; ``None`` where the journal is new.
        start: When its first session started, in seconds since the epoch.
        end: When its last session finished; ``None`` where it did not.
        last: When its last session was last known to be at it.
        paused: For how many seconds between sessions nobody was at it.
        place: Up to where the journal is right.
        rows: Its files, if memory has a place for all of them.
        totals: Of its files, if not.
        done: Their names.
        unreadable: How many of its lines nobody can read.
    """

    batch_id: str | None = None
    start: float | None = None
    end: float | None = None
    last: float = 0.0
    paused: float = 0.0
    place: int = 0
    rows: list[Row] = field(default_factory=list)
    totals: Totals = NOTHING
    done: Names = field(default_factory=Names)
    unreadable: int = 0

    @classmethod
    def read(
        cls, journal: Journal, batch_id: str | None, in_memory: int, *, retry_failed: bool = False
    ) -> Earlier:
        """Read a journal.

        Args:
            journal: Which.
            batch_id: Whose it has to be; ``None`` where that does not matter.
            in_memory: For how many of its files memory has a place.
            retry_failed: Whether to cut the files that failed out of it first.

        Raises:
            InvalidInputError: If it is that of another batch, or no journal.
            OutputError: If it cannot be written anew.
        """
        if not is_journal(journal):
            raise InvalidInputError(f"{str(journal.path)!r} is not the journal of a batch")
        if retry_failed:
            journal.cut_out(lambda row: row[5] == "error")
        earlier = cls()
        for entries, place in journal.entries():
            rows = [tuple(entry) for entry in entries if isinstance(entry, list)]
            for entry in entries:
                if isinstance(entry, list):
                    earlier.last = max(earlier.last, entry[1])
                elif isinstance(entry, dict):
                    earlier._learn(entry)
                else:
                    earlier.unreadable += 1
            earlier.done.add(row[0] for row in rows)
            earlier.place = place
            earlier.rows += rows
            if earlier.totals is not NOTHING or len(earlier.rows) > in_memory:
                earlier.totals, earlier.rows = earlier.totals.plus(earlier.rows), []
        if batch_id is not None and earlier.batch_id not in (None, batch_id):
            raise InvalidInputError(
                f"{str(journal.path)!r} is the journal of the batch {earlier.batch_id!r}, not of {batch_id!r}"
            )
        if earlier.unreadable:
            log_event(
                "warning",
                "lines of a journal cannot be read",
                journal=str(journal.path),
                lines=earlier.unreadable,
            )
        return earlier

    def begin(self, journal: Journal, batch_id: str) -> None:
        """Begin a journal that is new.

        Raises:
            OutputError: If the disk refuses.
        """
        head = {"batch_journal": VERSION, "batch_id": batch_id, "fields": FIELDS}
        try:
            self.place = journal.note(head, 0)
        except OSError as error:
            raise OutputError(f"cannot begin the journal {str(journal.path)!r}: {error.strerror}") from error
        self.batch_id = batch_id

    def _learn(self, fact: dict[str, Any]) -> None:
        if "batch_id" in fact:
            self.batch_id = str(fact["batch_id"])
        start, end = fact.get("start"), fact.get("finish")
        if isinstance(start, int | float):
            if self.start is None:
                self.start = start
            else:
                self.paused += max(0.0, start - self.last)
            self.last, self.end = start, None
        if isinstance(end, int | float):
            self.last = self.end = end
