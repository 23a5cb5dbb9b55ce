"""Threads of tests: running many at once, finding new ones, and ending what a test leaves behind."""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from metrics_framework.export import exporter
from metrics_framework.runtime.background import Background

_earlier: set[threading.Thread] = set()
_running: weakref.WeakSet[Background] = weakref.WeakSet()
_start = Background._start


def _start_and_remember(self: Background) -> None:
    _running.add(self)
    _start(self)


Background._start = _start_and_remember  # type: ignore[method-assign]


@contextmanager
def switching(seconds: float = 1e-6) -> Iterator[None]:
    """Make the interpreter switch threads as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(seconds)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def together(*works: Callable[[], object]) -> None:
    """Run all of these at the same time, each in a thread; raise their first error."""
    barrier = threading.Barrier(len(works))
    errors: list[BaseException] = []

    def run(work: Callable[[], object]) -> None:
        barrier.wait()
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - it is raised again below
            errors.append(error)

    threads = [threading.Thread(target=run, args=[work], daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()  # the time-out of the test ends a thread that hangs
    if errors:
        raise errors[0]


def new_threads(*names: str) -> list[threading.Thread]:
    """Return the running threads that this test has started, by the beginnings of their names."""
    return [
        thread for thread in threading.enumerate() if thread not in _earlier and thread.name.startswith(names)
    ]


@contextmanager
def ending_background_work() -> Iterator[None]:
    """End the background work that the block starts: a system that is not shut down would go on for ever."""
    _earlier.clear()
    _earlier.update(threading.enumerate())
    before = set(_running)
    yield
    for background in list(_running):
        if background not in before:
            background.end()
    for usage in list(exporter._usages):  # a later test must not log the end of this one's systems
        usage.clear()
