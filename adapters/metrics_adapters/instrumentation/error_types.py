"""Error types: the names under which failures and cancellations are counted."""

from __future__ import annotations

import asyncio
import sys

CANCELLED = "cancelled"
"""The error type of a cancellation, on asyncio and trio."""


def error_type_of(error: BaseException) -> str:
    """Return the error type of an exception: the name of its class, or `CANCELLED`.

    The error type of an exception group is that of its members if they share one, else that of the group.
    """
    types = {CANCELLED if is_cancelled(leaf) else type(leaf).__name__ for leaf in _leaves(error)}
    if len(types) > 1:  # the failure of a sibling has cancelled the others
        types.discard(CANCELLED)
    return types.pop() if len(types) == 1 else type(error).__name__


def is_cancelled(error: BaseException) -> bool:
    """Return whether an exception is a cancellation of asyncio or trio."""
    if isinstance(error, asyncio.CancelledError):
        return True
    trio = sys.modules.get("trio")
    return trio is not None and isinstance(error, trio.Cancelled)


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for member in error.exceptions for leaf in _leaves(member)]
    return [error]
