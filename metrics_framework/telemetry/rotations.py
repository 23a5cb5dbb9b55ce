"""Finding what became of a file that was rotated: its name with numbers, of which 1 is the newest.

Some rename the file and begin another one, some copy it and truncate it. Both may have happened more than
once since the last look.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from metrics_framework.telemetry.tails import Tail, open_tail

_TRIES = 100
"""How often to look at a folder that changes all the time."""


class _Known(NamedTuple):
    """A file that was there before.

    Attributes:
        identity: What the system tells it by; a file that is deleted may leave it to a new one.
        head: The first line, as far as it had been written.
    """

    identity: tuple[int, int]
    head: bytes

    def is_same(self, tail: Tail) -> bool:
        head = tail.head()
        if head.endswith(b"\n") and head == self.head:
            return True
        return tail.identity == self.identity and head.startswith(self.head)


class Rotations:
    """The rotated files beside a file.

    Args:
        path: The file; what was rotated before is known from now on.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pattern = re.compile(re.escape(path.name) + r"\.(\d{1,9})")
        self._known: _Known | None = None
        tails = self._files()
        if tails:
            self._known = _Known(tails[0].identity, tails[0].head())
        _close(tails)

    def since(self, before: Tail | None, present: Tail) -> list[Tail]:
        """Open what was rotated away since the last look, oldest first.

        Args:
            before: What was the present file at the last look; it is not opened again.
            present: What is now. Where it is the same file, and was truncated, a copy of what it held goes on
                where the reading was.
        """
        tails = self._files()
        found: list[Tail] = []
        newest: _Known | None = None
        for tail in tails:
            if not tail.head():  # empty, or its copying has just begun
                continue
            if _is_of(tail, present):
                # It is rotated just now. What is newer still is for the next look.
                _close(found)
                found, newest = [], None
                continue
            newest = newest or _Known(tail.identity, tail.head())
            if before is not None and tail.identity == before.identity:
                break
            if before is present and present.continues_in(tail):
                found.append(tail)
                break
            if self._known is not None and self._known.is_same(tail):
                break
            found.append(tail)
        self._known = newest or self._known
        _close(tail for tail in tails if tail not in found)
        return found[::-1]

    def _files(self) -> list[Tail]:
        """Open the rotated files, the newest first."""
        for _ in range(_TRIES):
            names = self._names()
            tails = [tail for _, name, _ in names if (tail := open_tail(self._path.with_name(name)))]
            # Somebody may be renaming them, and a folder that changes while it is read hides some of it.
            if [tail.identity for tail in tails] == [identity for *_, identity in names] and (
                names == self._names()
            ):
                return tails
            _close(tails)
        return []

    def _names(self) -> list[tuple[int, str, tuple[int, int]]]:
        names: list[tuple[int, str, tuple[int, int]]] = []
        with suppress(OSError):
            for path in self._path.parent.iterdir():
                if found := self._pattern.fullmatch(path.name):
                    with suppress(FileNotFoundError):
                        status = path.stat()
                        names.append((int(found[1]), path.name, (status.st_dev, status.st_ino)))
        return sorted(names)


def _is_of(tail: Tail, present: Tail) -> bool:
    """Return whether a rotated file is the present one, or a copy of what that holds."""
    # The copy was opened first: if the present file is truncated in between, it is a copy of the past.
    return tail.identity == present.identity or tail.head() in (present.pin, present.head())


def _close(tails: Iterable[Tail]) -> None:
    for tail in tails:
        tail.close()
