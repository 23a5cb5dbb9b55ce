"""Panels and their series, which all dashboards are made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

from metrics_framework.dashboard.metric_views import Measure, MetricView, Summary, shorten, to_labels
from metrics_framework.dashboard.time_series import TimeSeriesReader
from metrics_framework.values import MetricUnit

MAX_LINES = 5
"""Maximum number of lines in a chart: more cannot be distinguished on a small screen."""

MAX_ROWS = 10
"""Maximum number of bars or rows in other panels."""

Panel = dict[str, Any]
PanelSeries = dict[str, Any]
PanelKind = Literal["stat", "line", "bar", "table", "heatmap"]


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        name: Its stable name.
        title: Its title.
        unit: The unit of its values.
        measure: Takes its value from the summary of a row.
    """

    name: str
    title: str
    unit: MetricUnit
    measure: Measure


def panel(
    title: str,
    description: str,
    kind: PanelKind,
    unit: MetricUnit,
    series: Iterable[PanelSeries],
    *,
    panel_id: str | None = None,
    maximum: float | None = None,
    thresholds: Iterable[dict[str, Any]] = (),
    columns: Iterable[Column] = (),
) -> Panel:
    """Return a panel. Its id is the title in lower case, with hyphens, unless one is given."""
    made = {
        "id": panel_id
        or "-".join("".join(char if char.isalnum() else " " for char in title.lower()).split()),
        "title": shorten(title),
        "description": description,
        "kind": kind,
        "unit": unit.value,
        "maximum": maximum,
        "thresholds": list(thresholds),
        "series": list(series),
    }
    shown = [{"name": one.name, "title": one.title, "unit": one.unit.value} for one in columns]
    return {**made, "columns": shown} if shown else made


def above(value: float, severity: Literal["warning", "critical"] = "critical") -> dict[str, Any]:
    """Return a threshold that values should not exceed."""
    return {"value": value, "severity": severity, "direction": "above"}


def one_series(
    name: object, tags: object, points: list[list[int | float]], value: int | float | None
) -> PanelSeries:
    """Return a series of a panel."""
    return {"name": shorten(name), "tags": to_labels(tags), "points": points, "value": value}


def table_row(name: object, tags: object, columns: Iterable[Column], summary: Summary) -> PanelSeries:
    """Return a row with the values of columns. The first one is its value."""
    values = [column.measure(summary) for column in columns]
    return {**one_series(name, tags, [], values[0]), "values": values}


def largest(views: Iterable[MetricView], measure: Measure, limit: int) -> list[MetricView]:
    """Return the views with the largest numbers since the start. Equal ones are sorted by name."""
    ranked = [(number, view) for view in views if (number := measure(view.since_start)) is not None]
    ranked.sort(key=lambda item: (-item[0], str(item[1].name)))
    return [view for _, view in ranked[:limit]]


def lines(
    reader: TimeSeriesReader, views: Iterable[MetricView], measure: Measure, *, per_second: bool = False
) -> list[PanelSeries]:
    """Return the lines of the largest views, the one with the largest value first."""
    drawn = ((view, reader.read(view)) for view in largest(views, measure, MAX_LINES))
    found = [
        one_series(view.name, {}, series.points(measure, per_second=per_second), measure(series.whole))
        for view, series in drawn
    ]
    return descending(line for line in found if line["points"])


def bars(reader: TimeSeriesReader, views: Iterable[MetricView], measure: Measure) -> list[PanelSeries]:
    """Return the bars of the largest views, the longest first."""
    found = [
        one_series(view.name, {}, [], measure(reader.read_whole(view)))
        for view in largest(views, measure, MAX_ROWS)
    ]
    return descending(bar for bar in found if bar["value"] is not None)


def descending(series: Iterable[PanelSeries]) -> list[PanelSeries]:
    """Return series in the order of their values, the largest first."""
    return sorted(series, key=lambda one: (one["value"] is None, -(one["value"] or 0)))


def add_note(made: Panel, reasons: Sequence[str]) -> None:
    """Say in the description of a panel why something is not shown by tags."""
    if reasons:
        different = list(dict.fromkeys(reasons))
        more = f" ({len(different) - 1} more are not shown either)" if len(different) > 1 else ""
        made["description"] += f" Not shown by these tags: {shorten(different[0])}{more}"
