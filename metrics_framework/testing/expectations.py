"""Expectations: which metrics a block of code changes, and how.

The numbers are compared before and after the block, so that what was recorded earlier makes no difference,
nothing has to be reset, and blocks may nest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType

from metrics_framework.errors import InvalidInputError
from metrics_framework.protocols import MetricsAggregator, MetricsSystem
from metrics_framework.recording.series import check_name, plain_tags, shown
from metrics_framework.resources import RESOURCE_GAUGES
from metrics_framework.testing.changes import Change, Series, State, aggregator_of, change, changed, read


@dataclass(frozen=True, eq=False)
class Expectation:
    """One expected change; made by `counter`, `gauge`, `histogram`, `timer`, `success` and `failure`.

    Attributes:
        kind: The function that made it.
        name: The metric's or operation's name.
        tags: Tags that a series must carry to belong; it may carry others.
        numbers: What is expected: ``total`` (a counter's change), ``last`` (a gauge's value), ``count`` and
            ``sum`` (of what was added in the block).
        error_type: The kind of a failure.
    """

    kind: str
    name: str
    tags: Mapping[str, str]
    numbers: Mapping[str, object]
    error_type: str = ""

    def covers(self, series: Series) -> bool:
        """Return whether a series is one that this expectation is about."""
        same = (series.kind, series.name, series.error_type) == (self.kind, self.name, self.error_type)
        return same and self.tags.items() <= dict(series.tags).items()

    def actual(self, before: State, after: State) -> dict[str, Change | None]:
        """Return what became of the expected numbers; ``None`` is one that nobody knows."""
        covered = [series for series in before.keys() | after.keys() if self.covers(series)]
        return {key: change(covered, key, before, after) for key in self.numbers}

    def is_met(self, before: State, after: State) -> bool:
        """Return whether every number is as expected."""
        return all(
            number is not None and number.agrees_with(self.numbers[key])
            for key, number in self.actual(before, after).items()
        )


def counter(
    name: str, change: object = 1, /, *, tags: Mapping[str, str] | None = None, **more_tags: str
) -> Expectation:
    """Expect a counter to grow.

    Args:
        name: The metric's name.
        change: By how much, all series with the tags together; 0 says that it does not move, or is unknown.
        tags: Tags that cannot be written as keywords, like ``{"http.route": "/", "tags": "x"}``.
        **more_tags: The other tags.

    Raises:
        InvalidInputError: If an argument breaks its rule.
    """
    return _expectation("counter", name, tags, more_tags, {"total": change})


def gauge(
    name: str, value: object, /, *, tags: Mapping[str, str] | None = None, **more_tags: str
) -> Expectation:
    """Expect a gauge to have a value at the end, whether or not the block set it.

    Args:
        name: The metric's name.
        value: Its last value; of several series with the tags, their sum.
        tags: See `counter`.
        **more_tags: See `counter`.

    Raises:
        InvalidInputError: If an argument breaks its rule.
    """
    return _expectation("gauge", name, tags, more_tags, {"last": value})


def histogram(
    name: str,
    /,
    *,
    count: object = None,
    sum: object = None,  # noqa: A002 - the summary's key
    tags: Mapping[str, str] | None = None,
    **more_tags: str,
) -> Expectation:
    """Expect values to be recorded in a histogram.

    Args:
        name: The metric's name.
        count: How many; any number where only ``sum`` is given, 1 where neither is.
        sum: What they add up to.
        tags: See `counter`; also for tags that are called ``count`` or ``sum``.
        **more_tags: See `counter`.

    Raises:
        InvalidInputError: If an argument breaks its rule.
    """
    return _expectation("histogram", name, tags, more_tags, _count_and_sum(count, sum))


def timer(
    name: str,
    /,
    count: object = None,
    *,
    sum: object = None,  # noqa: A002 - the summary's key
    tags: Mapping[str, str] | None = None,
    **more_tags: str,
) -> Expectation:
    """Expect durations to be recorded, of a metric or of an operation that is timed.

    Args:
        name: The metric's or operation's name.
        count: How many; any number where only ``sum`` is given, 1 where neither is.
        sum: What they add up to, in milliseconds.
        tags: See `counter`; also for tags that are called ``count`` or ``sum``.
        **more_tags: See `counter`.

    Raises:
        InvalidInputError: If an argument breaks its rule.
    """
    return _expectation("timer", name, tags, more_tags, _count_and_sum(count, sum))


def success(
    operation: str, /, count: object = 1, *, tags: Mapping[str, str] | None = None, **more_tags: str
) -> Expectation:
    """Expect an operation to succeed.

    Args:
        operation: The operation's name.
        count: How often.
        tags: See `counter`; also for a tag that is called ``count``.
        **more_tags: See `counter`.

    Raises:
        InvalidInputError: If an argument breaks its rule.
    """
    return _expectation("success", operation, tags, more_tags, {"count": count})


def failure(
    operation: str,
    error_type: str,
    /,
    count: object = 1,
    *,
    tags: Mapping[str, str] | None = None,
    **more_tags: str,
) -> Expectation:
    """Expect an operation to fail.

    Args:
        operation: The operation's name.
        error_type: The kind of failure.
        count: How often.
        tags: See `counter`; also for a tag that is called ``count``.
        **more_tags: See `counter`.

    Raises:
        InvalidInputError: If an argument breaks its rule.
    """
    error_type = check_name(error_type, "error type")
    return _expectation("failure", operation, tags, more_tags, {"count": count}, error_type)


def expect(
    system: MetricsSystem | MetricsAggregator, *expectations: Expectation, only: bool = False
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
        >>> metrics = MetricsSystem()
        >>> with expect(metrics, counter("orders", +2, status="paid")):
        ...     metrics.collector.record_counter("orders", 2, {"status": "paid"})
    """
    for each in (system, *expectations):
        if isinstance(each, Expectation) == (each is system):
            raise InvalidInputError(
                f"{shown(each)} is out of place: expect(system, counter('orders'), …) takes the system first,"
                " then what counter, gauge, histogram, timer, success and failure return"
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
            from metrics_framework.testing.report import report  # only a failure needs it

            raise AssertionError(report(self._expectations, failed, surprises, before, after))


def _surprises(expectations: Iterable[Expectation], moved: Iterable[Series]) -> list[Series]:
    wanted = list(expectations)
    return [
        series
        for series in moved
        if series.name not in RESOURCE_GAUGES and not any(each.covers(series) for each in wanted)
    ]


def _expectation(
    kind: str,
    name: str,
    tags: Mapping[str, str] | None,
    more_tags: Mapping[str, str],
    numbers: Mapping[str, object],
    error_type: str = "",
) -> Expectation:
    given, more = plain_tags(tags), plain_tags(more_tags)
    for key in given.keys() & more.keys():
        raise InvalidInputError(
            f"tag {key!r} is given twice, as {more[key]!r} and in tags= as {given[key]!r}: give it once"
        )
    return Expectation(kind, check_name(name), {**given, **more}, numbers, error_type)


def _count_and_sum(count: object, total: object) -> dict[str, object]:
    if count is None and total is None:
        count = 1
    return {key: value for key, value in (("count", count), ("sum", total)) if value is not None}
