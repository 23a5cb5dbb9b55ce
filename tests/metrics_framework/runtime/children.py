"""Forked children of the tests."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import warnings
from collections.abc import Callable

import pytest

PATIENCE = 20.0
"""Seconds after which a test gives up waiting."""
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")


def in_a_child(work: Callable[[], object], fork: Callable[[], int] | None = None) -> str:
    """Return the text of the return value of ``work`` in a forked child. A child that hangs is killed.

    Args:
        work: What to do in the child.
        fork: Forks, and returns the id of the child or 0; `os.fork` by default.
    """
    reading, writing = os.pipe()
    # A tracer such as coverage has a lock that a thread of the parent may hold during the fork.
    tracer = sys.gettrace()
    sys.settrace(None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads is tested here
        child = (fork or os.fork)()
    if child:
        sys.settrace(tracer)
    else:
        threading.settrace(None)  # type: ignore[arg-type]
        try:
            try:
                answer = str(work())
            except BaseException as error:  # noqa: BLE001 - the parent reports it
                answer = repr(error)
            os.write(writing, answer.encode())
        finally:
            os._exit(0)
    os.close(writing)
    ready, _, _ = select.select([reading], [], [], PATIENCE)
    if not ready:
        os.kill(child, signal.SIGKILL)
    answer = os.read(reading, 1 << 16).decode()
    os.close(reading)
    os.waitpid(child, 0)
    assert ready, "the child hangs"
    return answer
