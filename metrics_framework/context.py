"""The current system of a context, for code that cannot take a system as an argument.

Contexts are those of `contextvars`: an asyncio task and `asyncio.to_thread` inherit the context of their
creator, and a plain thread starts with an empty one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeVar

from metrics_framework.error_types import ErrorClasses
from metrics_framework.errors import InvalidInputError
from metrics_framework.plugins import load_adapter
from metrics_framework.protocols import (
    MetricCollector,
    MetricsAggregator,
    PerformanceTimer,
    ResourceMonitor,
    SuccessFailureTracker,
)
from metrics_framework.system import AnySystem, MetricsSystem

if TYPE_CHECKING:
    from metrics_framework.measure import Measurement

S = TypeVar("S", bound=AnySystem)
_Use = tuple[AnySystem]

_IN_USE: ContextVar[tuple[_Use, ...]] = ContextVar("metrics_framework.in_use", default=())
_NULL_SYSTEM: dict[str, AnySystem] = {}


def current() -> AnySystem:
    """Return the current system; outside of any `use` block, a system that discards all records.

    A function that is decorated with ``@current().measure(…)`` outside of any `use` block, as at the top of a
    module, looks up the current system at each call.

    Example:
        >>> current().collector.increment("orders")
    """
    in_use = _IN_USE.get()
    return in_use[-1][0] if in_use else _null_system()


@contextmanager
def use(system: S) -> Iterator[S]:
    """Make `current` return a system during a ``with`` block.

    Blocks nest. The end of a block removes its own system, in whatever order blocks end, and does not shut it
    down.

    Args:
        system: The system.

    Raises:
        InvalidInputError: If ``system`` is not a `MetricsSystem`, or the block ends in another context than
            it began in.

    Example:
        >>> with use(MetricsSystem()) as metrics:
        ...     current() is metrics
        True
    """
    if not isinstance(system, MetricsSystem):
        raise InvalidInputError(f"use({system!r}) takes a MetricsSystem: pass the system itself")
    # Each block has a tuple of its own, so that blocks of the same system can be told apart.
    this: _Use = (system,)
    _IN_USE.set((*_IN_USE.get(), this))
    try:
        yield system
    finally:
        before = _IN_USE.get()
        remaining = tuple(other for other in before if other is not this)
        if len(remaining) == len(before):
            raise InvalidInputError(
                "a use() block ended in another context than it began in: stay in one thread or task"
            )
        _IN_USE.set(remaining)


class _NullSystem(
    MetricsSystem[
        MetricCollector, PerformanceTimer, SuccessFailureTracker, ResourceMonitor, MetricsAggregator
    ]
):
    """Discards all records. Functions that it decorates are measured by the current system of each call."""

    def measure(
        self,
        operation: str,
        tags: Mapping[str, str] | None = None,
        *,
        ignore: ErrorClasses = (),
        failures: ErrorClasses = (),
    ) -> Measurement:
        from metrics_framework.measure import DeferredMeasurement  # slow to import

        plain = super().measure(operation, tags, ignore=ignore, failures=failures)

        def measure_current() -> Measurement:
            system = current()
            if system is self:
                return plain._again()
            return system.measure(operation, plain._given, ignore=ignore, failures=failures)

        return DeferredMeasurement(plain._meter, operation, plain._given, measure_current)


def _null_system() -> AnySystem:
    if "system" not in _NULL_SYSTEM:
        # If two threads create one at the same time, both get the same one.
        _NULL_SYSTEM.setdefault(
            "system",
            _NullSystem(
                collector=load_adapter("null.collector")(),
                timer=load_adapter("null.timer")(),
                tracker=load_adapter("null.tracker")(),
                resource_monitor=load_adapter("null.monitor")(),
                aggregator=load_adapter("null.aggregator")(),
            ),
        )
    return _NULL_SYSTEM["system"]
