"""Checks how a block of code changes the metrics, and the system that offers this as a method.

Numbers are compared before and after the block. Earlier records do not matter, nothing has to be reset, and
blocks can be nested.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from types import TracebackType

from metrics_framework.capabilities import HasAggregator
from metrics_framework.errors import InvalidInputError
from metrics_framework.health import RESOURCE_GAUGES
from metrics_framework.protocols import MetricsAggregator
from metrics_framework.system import MetricsSystem
from metrics_framework.testing.changes import SeriesKey, State, aggregator_of, changed, read
from metrics_framework.testing.expectations import Expectation
from metrics_framework.testing.report import recorded, report
from metrics_framework.validation import safe_repr


def expect(
    system: HasAggregator | MetricsAggregator, *expectations: Expectation, only: bool = False
) -> AbstractContextManager[None]:
    """Check how a block of code changes the metrics.

    Records of other threads during the block count, too. A block that raises is checked, too: its exception
    propagates unchanged if all checks pass. Otherwise both errors are raised in an `ExceptionGroup`, which
    ``pytest.raises`` around this context manager does not accept in place of the exception. An exception that
    ends the test itself, such as ``pytest.skip`` or `KeyboardInterrupt`, propagates without a check.

    Args:
        system: The system that the code records into, or its aggregator.
        *expectations: The changes that the block must make.
        only: Whether to fail on any other change. The gauges of a resource monitor may always change.

    Returns:
        A context manager for one ``with`` block. On exit it raises `AssertionError` if a check fails; the
        message is a table of expected and actual numbers, and of every change. Write it before
        ``pytest.raises``, as in ``with expect(…), pytest.raises(KeyError):``.

    Raises:
        InvalidInputError: If an argument is invalid, or there is no expectation and ``only`` is false.

    Example:
        >>> from metrics_framework import MetricsSystem
        >>> from metrics_framework.testing import counter
        >>> metrics = MetricsSystem()
        >>> with expect(metrics, counter("orders", +2, status="paid")):
        ...     metrics.collector.record_counter("orders", 2, {"status": "paid"})
    """
    if isinstance(system, Expectation):
        raise InvalidInputError(
            f"{safe_repr(system)} is in the wrong position: pass the system first, then expectations such"
            " as counter('orders') or timer('checkout')"
        )
    for each in expectations:
        if not isinstance(each, Expectation):
            name = safe_repr(each if isinstance(each, str) else "orders")
            raise InvalidInputError(
                f"{safe_repr(each)} is not an expectation: pass one, such as counter({name}) or timer({name})"
            )
    if not expectations and not only:
        raise InvalidInputError(
            "expect() has no expectations: pass at least one, or only=True if nothing may change"
        )
    return _Block(aggregator_of(system), expectations, only)


class _Block(AbstractContextManager[None]):
    """The context manager that `expect` returns."""

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
        if error is not None and not isinstance(error, Exception | SystemExit):
            return
        before, after = self._before, read(self._aggregator)
        failed = [each for each in self._expectations if not each.is_met(before, after)]
        unexpected = _unexpected(self._expectations, changed(before, after)) if self._only else []
        if not failed and not unexpected:
            return
        failure = AssertionError(report(self._expectations, failed, unexpected, before, after))
        if error is None:
            raise failure
        heading = str(failure).partition("\n")[0]
        raise BaseExceptionGroup(
            f"the block raised {type(error).__name__}, and {heading}", [error, failure]
        ) from None


def _unexpected(expectations: Iterable[Expectation], moved: Iterable[SeriesKey]) -> list[SeriesKey]:
    wanted = list(expectations)
    return [
        series
        for series in moved
        if series.name not in RESOURCE_GAUGES and not any(each.covers(series) for each in wanted)
    ]


class MetricsTestSystem(MetricsSystem):
    """A `MetricsSystem` with the methods `expect` and `recorded` for tests: the fixture ``metrics``."""

    def expect(self, *expectations: Expectation, only: bool = False) -> AbstractContextManager[None]:
        """Check how a block of code changes the metrics; see `metrics_framework.testing.expect`."""
        return expect(self, *expectations, only=only)

    def recorded(self) -> str:
        """Return all recorded metrics as a table; see `metrics_framework.testing.recorded`."""
        return recorded(self)
