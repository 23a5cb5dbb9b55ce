"""Expectations: the changes of metrics that a block of code must make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from metrics_framework.errors import InvalidInputError
from metrics_framework.testing.changes import NumberChange, SeriesKey, State, change
from metrics_framework.validation import check_name, plain_tags, safe_repr


@dataclass(frozen=True, eq=False)
class Expectation:
    """One expected change, created by `counter`, `gauge`, `histogram`, `timer`, `success` or `failure`.

    Attributes:
        kind: The name of the function that created it.
        name: The metric's or operation's name.
        tags: The tags that a series must have. It may have others, too.
        numbers: The expected numbers: ``total`` (the change of a counter), ``last`` (the value of a gauge),
            ``count`` and ``sum`` (of the values recorded in the block).
        error_type: The error type of a failure.
    """

    kind: str
    name: str
    tags: Mapping[str, str]
    numbers: Mapping[str, object]
    error_type: str = ""

    def covers(self, series: SeriesKey) -> bool:
        """Return whether this expectation applies to a series."""
        same = (series.kind, series.name, series.error_type) == (self.kind, self.name, self.error_type)
        return same and self.tags.items() <= dict(series.tags).items()

    def actual(self, before: State, after: State) -> dict[str, NumberChange | None]:
        """Return the actual numbers. ``None`` means that the aggregator does not list the number."""
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
        change: The increase, summed over all series that have the tags. 0 expects no increase.
        tags: Tags that cannot be written as keywords, such as ``{"http.route": "/", "tags": "x"}``.
        **more_tags: Other tags. The values are strings.

    Raises:
        InvalidInputError: If an argument is invalid.
    """
    return _expectation("counter", name, tags, more_tags, {"total": change})


def gauge(
    name: str, value: object, /, *, tags: Mapping[str, str] | None = None, **more_tags: str
) -> Expectation:
    """Expect a gauge to have a value after the block, whether or not the block set it.

    Args:
        name: The metric's name.
        value: The last value, summed over all series that have the tags.
        tags: See `counter`.
        **more_tags: See `counter`.

    Raises:
        InvalidInputError: If an argument is invalid.
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
        count: The number of values. If only ``sum`` is given, any number; if neither is, 1.
        sum: The sum of the values.
        tags: See `counter`; also use it for tags named ``count`` or ``sum``.
        **more_tags: See `counter`.

    Raises:
        InvalidInputError: If an argument is invalid.
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
    """Expect durations to be recorded for a timer or for a timed operation.

    Args:
        name: The metric's or operation's name.
        count: The number of durations. If only ``sum`` is given, any number; if neither is, 1.
        sum: The sum of the durations, in milliseconds.
        tags: See `counter`; also use it for tags named ``count`` or ``sum``.
        **more_tags: See `counter`.

    Raises:
        InvalidInputError: If an argument is invalid.
    """
    return _expectation("timer", name, tags, more_tags, _count_and_sum(count, sum))


def success(
    operation: str, /, count: object = 1, *, tags: Mapping[str, str] | None = None, **more_tags: str
) -> Expectation:
    """Expect an operation to succeed.

    Args:
        operation: The operation's name.
        count: The number of times.
        tags: See `counter`; also use it for a tag named ``count``.
        **more_tags: See `counter`.

    Raises:
        InvalidInputError: If an argument is invalid.
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
        error_type: The error type, such as ``"TimeoutError"``.
        count: The number of times.
        tags: See `counter`; also use it for a tag named ``count``.
        **more_tags: See `counter`.

    Raises:
        InvalidInputError: If an argument is invalid.
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
        if not isinstance(value, str):  # counter("orders", change=3) must not expect a tag "change"
            raise InvalidInputError(
                f"{key}={safe_repr(value)} is not a tag, because its value is not a string: pass the expected"
                f" number by position, or write the tag as {key}={str(value)!r}"
            )
    given, more = plain_tags(tags), plain_tags(more_tags)
    for key in given.keys() & more.keys():
        raise InvalidInputError(
            f"tag {key!r} is passed twice, as {more[key]!r} and in tags= as {given[key]!r}: pass it once"
        )
    return Expectation(kind, check_name(name), {**given, **more}, numbers, error_type)


def _count_and_sum(count: object, total: object) -> dict[str, object]:
    if count is None and total is None:
        count = 1
    return {key: value for key, value in (("count", count), ("sum", total)) if value is not None}
