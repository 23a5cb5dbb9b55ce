"""What folds say of the records that they fold, while somebody listens.

Nobody who records learns of it: a fold of a store without sinks looks at one empty tuple, and a record at
nothing. What is said of a fold belongs to its commit: a fold that never happened is never said, and one that
was broken off after its commit is said by whoever finishes it. So it is said at least once, and who listens
knows by `Folding.taken` what it has heard already.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class Folded(NamedTuple):
    """What a fold took out of the buffer of one series.

    Attributes:
        series: The series.
        values: Its records in their order; the first one of a time slot may be a pair of itself and its time.
        before: What was published of the series before them.
        after: What is published from then on.
    """

    series: Any
    values: Sequence[Any]
    before: Any
    after: Any


class Folding:
    """One fold, for those who listen.

    Args:
        sinks: Who listens.

    Attributes:
        parts: What was folded, by series.
        taken: By whom it was dealt with; kept by the listeners, in one step each.
    """

    __slots__ = ("_sinks", "parts", "taken")

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = sinks
        self.parts: list[Folded] = []
        self.taken: dict[object, object] = {}

    def say(self) -> None:
        """Hand it to all who listen, maybe not for the first time."""
        for sink in self._sinks:
            sink(self)


Sink = Callable[[Folding], object]
"""Takes in a fold. It may run in the middle of any record, in any thread: it must neither wait nor raise."""


class Tap:
    """Where all ledgers of a store look for listeners.

    Attributes:
        sinks: Who listens; another tuple each time.
    """

    __slots__ = ("_lock", "sinks")

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Begin without listeners, at first or in a child process."""
        self._lock = threading.RLock()
        self.sinks: tuple[Sink, ...] = ()

    def add(self, sink: Sink) -> None:
        """Hand folds to a sink from now on; one that is under way may or may not be among them."""
        with self._lock:
            if sink not in self.sinks:
                self.sinks = (*self.sinks, sink)

    def remove(self, sink: Sink) -> None:
        """Hand no more folds to a sink, but those that are under way."""
        with self._lock:
            self.sinks = tuple(other for other in self.sinks if other != sink)


NO_TAP = Tap()
"""The tap of ledgers that belong to no metric."""
