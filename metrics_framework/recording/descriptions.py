"""What an application says of a metric."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from metrics_framework.errors import InvalidInputError
from metrics_framework.recording.bounds import check_bounds
from metrics_framework.recording.series import check_name
from metrics_framework.values import MetricUnit

MergeLaw = Literal["latest", "sum", "min", "max"]


@dataclass(frozen=True)
class Description:
    """What an application says of a metric.

    Attributes:
        unit: What its numbers are counted in; a timer's are milliseconds whatever this says.
        help: What it is, in a sentence.
        merge: What a gauge of several series is as a whole.
        buckets: Upper bounds that values of a histogram or timer are counted by, exactly, ascending.
        window_by: Tags that time windows are kept apart for.
    """

    unit: MetricUnit | None = None
    help: str = ""
    merge: MergeLaw = "latest"
    buckets: tuple[float, ...] = ()
    window_by: tuple[str, ...] = ()


NOT_DESCRIBED = Description()


def checked_description(
    unit: object, help: object, merge: object, buckets: Iterable[float], window_by: Iterable[str]
) -> Description:
    """Return a description.

    Raises:
        InvalidInputError: If an argument breaks its rule; see `Description`.
    """
    if unit is not None and not isinstance(unit, MetricUnit):
        raise InvalidInputError(f"unit={unit!r} is not a MetricUnit, like MetricUnit.BYTES")
    if merge not in ("latest", "sum", "min", "max"):
        raise InvalidInputError(f"merge={merge!r} is not one of 'latest', 'sum', 'min', 'max'")
    if not isinstance(help, str):
        raise InvalidInputError(f"help={help!r} is not a string")
    bounds = check_bounds(buckets) if buckets else ()
    return Description(unit, help, merge, bounds, _tag_names(window_by))


def _tag_names(window_by: Iterable[str]) -> tuple[str, ...]:
    if isinstance(window_by, str):
        raise InvalidInputError(f"window_by={window_by!r} is one string; pass a list: [{window_by!r}]")
    try:
        names = tuple(window_by)
    except TypeError:
        raise InvalidInputError(f"window_by={window_by!r} is no list of tag names") from None
    return tuple(check_name(name, "tag name") for name in names)
