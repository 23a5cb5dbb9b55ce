"""The check itself: what a block of code changes, against what it is expected to change.

The numbers are compared before and after the block, so that what was recorded earlier makes no difference,
nothing has to be reset, and blocks may nest.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from types import TracebackType

from metrics_framework.capabilities import HasAggregator
from metrics_framework.errors import InvalidInputError
from metrics_framework.health import RESOURCE_GAUGES
from metrics_framework.protocols import MetricsAggregator
from metrics_framework.testing.changes import Series, State, aggregator_of, changed, read
from metrics_framework.testing.expectations import Expectation
from metrics_framework.testing.report import report
from metrics_framework.validation import safe_repr


def expect(
    system: HasAggregator | MetricsAggregator, *expectations: Expectation, only: bool = False
) -> AbstractContextManager[None]:
    """Check how a block of code changes the metrics.

    What other threads record meanwhile counts, too. An exception of the block goes on unchanged, and then
    nothing is checked.

    Args:
        system: What the code records into: a system, whose aggregator is asked, or an aggregator.
        *expectations: What the block must change.
        only: Whether nothing else may change; the gauges of a resource monitor always may.

    Returns:
        A context manager for one ``with`` block. Its end raises `AssertionError` with a table of what was
        expected and everything that changed.

    Raises:
        InvalidInputError: If an argument breaks its rule, or nothing is expected.

    Example:
        >>> from metrics_framework import MetricsSystem
        >>> from metrics_framework.testing import counter
        >>> metrics = MetricsSystem()
        >>> with expect(metrics, counter("orders", +2, status="paid")):
        ...     metrics.collector.record_counter("orders", 2, {"status": "paid"})
    """
    for each in (system, *expectations):
        if isinstance(each, Expectation) == (each is system):
            raise InvalidInputError(
                f"{safe_repr(each)} is out of place: expect(system, counter('orders'), …) takes the system"
                " first, then what counter, gauge, histogram, timer, success and failure return"
            )
    if not expectations and not only:
        raise InvalidInputError(
            "nothing is expected: name a change, or pass only=True where nothing may change"
        )
    return _Block(aggregator_of(system), expectations, only)


class _Block(AbstractContextManager[None]):
    """What `expect` returns."""

    def __init__(
        self, aggregator: MetricsAggregator, expectations: tuple[Expectation, ...], only: bool
    ) -> None:
        self._aggregator = aggregator
        self._expectations = expectations
        self._only = only
        self._before: State = {}

    def __enter__(self) -> None:
        self._before = read(self._aggregator)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        __tracebackhide__ = True  # pytest shows the test's own line
        if error is not None:
            return
        before, after = self._before, read(self._aggregator)
        failed = [each for each in self._expectations if not each.is_met(before, after)]
        surprises = _surprises(self._expectations, changed(before, after)) if self._only else []
        if failed or surprises:
            raise AssertionError(report(self._expectations, failed, surprises, before, after))


def _surprises(expectations: Iterable[Expectation], moved: Iterable[Series]) -> list[Series]:
    wanted = list(expectations)
    return [
        series
        for series in moved
        if series.name not in RESOURCE_GAUGES and not any(each.covers(series) for each in wanted)
    ]
