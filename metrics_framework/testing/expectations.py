"""Expectations: which metrics a block of code changes, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from metrics_framework.errors import InvalidInputError
from metrics_framework.testing.changes import Change, Series, State, change
from metrics_framework.validation import check_name, plain_tags, safe_repr


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
        **more_tags: The other tags; their values are strings.

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


def _expectation(
    kind: str,
    name: str,
    tags: Mapping[str, str] | None,
    more_tags: Mapping[str, str],
    numbers: Mapping[str, object],
    error_type: str = "",
) -> Expectation:
    for key, value in more_tags.items():
        if not isinstance(value, str):  # counter("orders", change=3) must not wait for a tag "change"
            raise InvalidInputError(
                f"{key}={safe_repr(value)} would be a tag, whose value is a string: give the expected number"
                f" by its place, or write the tag as {key}={str(value)!r}"
            )
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
