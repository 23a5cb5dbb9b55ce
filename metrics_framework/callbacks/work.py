"""What is called when somebody looks, and one call of it, which all who look at the time share."""

from __future__ import annotations

import inspect
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

_SIGNAL_SECONDS = 0.1
"""How late Ctrl-C may be noticed: Python misses a signal that comes just before a lock begins to wait."""


class Work:
    """Something to be called, and how it went.

    Args:
        name: What its gauge, the accounts and the log call it.
        function: What is called, without arguments.
        deadline: How many seconds it has.
        tags: The tags of its gauge.
        records: Whether its value is recorded as a gauge.

    Attributes:
        is_async: Whether what it returns has to be awaited.
        is_removed: Whether nobody wants its value any more.
        running: The call that has not returned yet.
        good_ns: When the last good value came, by the clock of the callbacks.
        failure: Why there was no value the last time; ``None`` where all is well.
        has_failed: Whether it ever failed.
    """

    def __init__(
        self,
        name: str,
        function: Callable[[], Any],
        deadline: float,
        tags: Mapping[str, str],
        *,
        records: bool = True,
    ) -> None:
        self.name = name
        self.function = function
        self.deadline = deadline
        self.tags = dict(tags)
        self.records = records
        self.is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
            getattr(function, "__call__", None)  # noqa: B004 - of an object whose call is a coroutine
        )
        self.is_removed = False
        self.begin()
        _WORKS.add(self)

    def begin(self) -> None:
        """Forget how it went; a forked child does so, as its store is empty and its threads are gone."""
        self.running: Evaluation | None = None
        self.good_ns: int | None = None
        self.failure: str | None = None
        self.has_failed = False


class Evaluation:
    """One call of a work.

    Attributes:
        work: What is called.
        task: The task that it runs in, where that is one of asyncio.
        is_begun: Whether the function is being called, or was.
        is_settled: Whether it counts: as a value, a failure, or a deadline that was missed.
        is_missed: Whether its deadline went by.
        is_counted: Whether that was counted.
        is_over: Whether nothing is to be expected of it any more.
    """

    def __init__(self, work: Work) -> None:
        self.work = work
        self.task: asyncio.Task[None] | None = None
        self.is_begun = False
        self.is_settled = False
        self.is_missed = False
        self.is_counted = False
        self.is_over = False
        self._due = time.monotonic() + work.deadline
        self._waiting: list[Callable[[], object]] = []

    @property
    def seconds_left(self) -> float:
        """How long until its deadline; zero from then on."""
        return max(0.0, self._due - time.monotonic())

    def then(self, wake: Callable[[], object]) -> None:
        """Call ``wake`` once it is over, in whatever thread that happens; at once where it is."""
        self._waiting.append(wake)
        if self.is_over:
            self._wake()

    def wait(self) -> None:
        """Wait in this thread until it is over or its deadline goes by."""
        if not self.is_over and self.seconds_left:
            # A lock, not an event: what a signal handler raises cannot leave it half set.
            over = threading.Lock()
            over.acquire()
            self.then(over.release)
            while not over.acquire(timeout=min(self.seconds_left, _SIGNAL_SECONDS)) and self.seconds_left:
                pass

    def end(self) -> None:
        """Say to all who wait that it is over."""
        self.is_over = True
        self._wake()

    def _wake(self) -> None:
        # Each popped once, whichever of two threads is faster.
        while self._waiting:
            try:
                wake = self._waiting.pop()
            except IndexError:
                return
            wake()


_WORKS: weakref.WeakSet[Work] = weakref.WeakSet()


def _begin_in_child() -> None:
    for work in list(_WORKS):
        work.begin()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_in_child)
