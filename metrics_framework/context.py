"""The system that is in use here: a default for a context, which code may ask for and never has to.

A context is what `contextvars` calls one: an asyncio task and `asyncio.to_thread` inherit that of their
creator, a plain thread starts with an empty one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from metrics_framework.errors import InvalidInputError
from metrics_framework.plugins import load_adapter
from metrics_framework.system import AnySystem, MetricsSystem

S = TypeVar("S", bound=AnySystem)
_Use = tuple[AnySystem]

_IN_USE: ContextVar[tuple[_Use, ...]] = ContextVar("metrics_framework.in_use", default=())
_NOTHING: dict[str, AnySystem] = {}


def current() -> AnySystem:
    """Return the system in use in this context; outside of any `use`, one that keeps nothing.

    Example:
        >>> current().collector.increment("orders")  # for whoever wants to know
    """
    in_use = _IN_USE.get()
    return in_use[-1][0] if in_use else _nothing()


@contextmanager
def use(system: S) -> Iterator[S]:
    """Make a system the one that `current` returns, for the length of a ``with`` block.

    Uses nest, and each ends its own: what was in use before is in use again, in whatever order they end. The
    system is not shut down.

    Args:
        system: Which one.

    Raises:
        InvalidInputError: If it is no `MetricsSystem`, or the block is left in another context than it was
            entered in.

    Example:
        >>> with use(MetricsSystem()) as metrics:
        ...     current() is metrics
        True
    """
    if not isinstance(system, MetricsSystem):
        raise InvalidInputError(f"{system!r} is no MetricsSystem to use")
    # A tuple of its own for each use, so that one system may be in use twice.
    this: _Use = (system,)
    _IN_USE.set((*_IN_USE.get(), this))
    try:
        yield system
    finally:
        before = _IN_USE.get()
        remaining = tuple(other for other in before if other is not this)
        if len(remaining) == len(before):
            raise InvalidInputError(
                "use() ended in another context than it began in: begin and end it in one thread or task"
            )
        _IN_USE.set(remaining)


def _nothing() -> AnySystem:
    if "system" not in _NOTHING:
        # Where two threads are the first at once, one of the two is kept.
        _NOTHING.setdefault(
            "system",
            MetricsSystem(
                collector=load_adapter("null.collector")(),
                timer=load_adapter("null.timer")(),
                tracker=load_adapter("null.tracker")(),
                resource_monitor=load_adapter("null.monitor")(),
                aggregator=load_adapter("null.aggregator")(),
            ),
        )
    return _NOTHING["system"]
