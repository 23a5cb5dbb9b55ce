"""The after-fork hook of the library: it resets objects in a forked child, in a fixed order.

A child has a copy of all memory, but only the thread that forked. Locks may be held by threads that it does
not have, counts belong to the parent, and background threads are gone. Each object that is affected names a
method that puts this right, and the phase in which it runs.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from enum import IntEnum
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")


class ForkOrder(IntEnum):
    """The phases of the hook, in their order. Before `THREADS`, nothing may log.

    Attributes:
        LOCKS: Replaces locks, which may be held by a thread that the child does not have.
        STATE: Empties or reopens what belongs to the parent: numbers, files, sockets.
        THREADS: Starts threads again. The locks of logging and of all objects are new by then.
    """

    LOCKS = 0
    STATE = 1
    THREADS = 2


_METHODS: dict[ForkOrder, weakref.WeakKeyDictionary[Any, Callable[[Any], object]]] = {
    order: weakref.WeakKeyDictionary() for order in ForkOrder
}
_FUNCTIONS: dict[ForkOrder, list[Callable[[], object]]] = {order: [] for order in ForkOrder}


def reset_after_fork(target: T, method: Callable[[T], object], order: ForkOrder) -> None:
    """Call ``method(target)`` in each forked child, as long as the object exists.

    Args:
        target: The object. It is referenced weakly, and has one method for each phase.
        method: A function of its class, such as ``Store.reset``.
        order: When it is called.
    """
    _METHODS[order][target] = method
    if order is ForkOrder.THREADS:
        _register_threads()


def run_after_fork(function: Callable[[], object], order: ForkOrder) -> None:
    """Call a function in each forked child. Use it for the state of a module."""
    _FUNCTIONS[order].append(function)
    if order is ForkOrder.THREADS:
        _register_threads()


@cache
def _register_threads() -> None:
    # Hooks run in the order of their registration. A thread may log or use an executor at once, so the hooks
    # that release the locks of these modules must come first.
    import concurrent.futures.thread  # noqa: F401
    import logging  # noqa: F401

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_start_threads)


def _reset_state() -> None:
    _run(ForkOrder.LOCKS, ForkOrder.STATE)


def _start_threads() -> None:
    _run(ForkOrder.THREADS)


def _run(*orders: ForkOrder) -> None:
    first_error: Exception | None = None
    for order in orders:
        resets = [*_FUNCTIONS[order], *((lambda o=o, m=m: m(o)) for o, m in list(_METHODS[order].items()))]
        for reset in resets:
            try:
                reset()
            except Exception as error:  # noqa: BLE001 - one that fails must not keep the others from running
                first_error = first_error or error
    if first_error is not None:
        raise first_error  # Python reports it; the child continues


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_state)
