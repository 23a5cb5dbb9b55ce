"""The threads that a test has started, and the end of what it leaves behind: background work and systems."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
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
