"""How work ends: the name of its error, where being cancelled is one of its own."""

from __future__ import annotations

import asyncio
import sys

CANCELLED = "cancelled"
"""The error type of what was cancelled, on asyncio and on trio."""


def error_type_of(error: BaseException) -> str:
    """Return what the end by an exception is counted as: its type's name, or `CANCELLED`.

    A group of exceptions is what its members have in common: their one type, else the type of the group.
    """
    types = {CANCELLED if is_cancelled(leaf) else type(leaf).__name__ for leaf in _leaves(error)}
    if len(types) > 1:  # a sibling that failed is why the others were cancelled
        types.discard(CANCELLED)
    return types.pop() if len(types) == 1 else type(error).__name__


def is_cancelled(error: BaseException) -> bool:
    """Say whether an exception is how asyncio or trio cancels."""
    if isinstance(error, asyncio.CancelledError):
        return True
    trio = sys.modules.get("trio")
    return trio is not None and isinstance(error, trio.Cancelled)


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for member in error.exceptions for leaf in _leaves(member)]
    return [error]
