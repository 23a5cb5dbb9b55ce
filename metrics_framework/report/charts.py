"""Charts as Vega-Lite specifications, in plain dictionaries.

Colors are CSS variables of the page (`COLORS`), so that an SVG follows its light or dark theme. All texts are
data or tick labels made from numbers and dates; no name or tag becomes part of a Vega expression.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from metrics_framework.report.change_points import Level
from metrics_framework.runtime.strict_json import to_json_text
from metrics_framework.snapshots.formatting import format_change, format_measurement

if TYPE_CHECKING:
    from metrics_framework.recording import Distribution

Spec = dict[str, Any]
"""A Vega-Lite specification, as `json.dumps` takes it."""

COLORS = {
    "text": "var(--text)",
    "muted": "var(--muted)",
    "line": "var(--line)",
    "page": "var(--page)",
    "baseline": "var(--baseline)",
    "current": "var(--current)",
    "shift": "var(--shift)",
}
"""Each color of a chart, as a variable that the page defines for both themes."""

FONT = "system-ui, sans-serif"
BASELINE_DASH = [5, 3]
"""The dash pattern of the baseline. The current version has a solid line."""

SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
"""The quantiles that a distribution marks."""

_WIDTH = 400
_MAX_BINS = 48
_MAX_LABEL_CHARACTERS = 14
_MIN_RATIO = 1.1  # of the ends of an axis
_EDGE_SHARES = (0.002, 0.995)
_MAX_SHIFT_LABELS = 3
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

_CONFIG: Spec = {
    "aria": False,  # the page describes the chart
    "background": None,
    "font": FONT,
    "view": {"stroke": None},
    "axis": {
        "labelColor": COLORS["muted"],
        "labelFontSize": 12,
        "gridColor": COLORS["line"],
        "domainColor": COLORS["muted"],
        "tickColor": COLORS["muted"],
        "title": None,
        "labelOverlap": False,
        "labelLimit": 0,
    },
    "text": {"color": COLORS["text"], "fontSize": 12},
}


_HALO: Spec = {"stroke": COLORS["page"], "strokeWidth": 4}
"""Separates a text from lines behind it. The page has `paint-order: stroke`."""


# -- a distribution ----------------------------------------------------------------------------------------


def distribution_chart(sides: Mapping[str, Distribution], key: str) -> Spec:
    """Return the histograms of samples, overlaid, on a logarithmic axis, with their quantiles below.

    Args:
        sides: The samples of ``baseline``, of ``current`` or of both; each has values above 0.
        key: The flat key of one of their statistics, which gives their unit.
    """
    bins, (low, high) = _histograms(sides)
    ticks = log_ticks(low, high)
    scale = {"type": "log", "domain": [low, high], "nice": False}
    axis = {
        "values": ticks,
        "labelExpr": _labels(ticks, [format_measurement(key, tick) for tick in ticks]),
        "domain": False,
        "grid": True,
        "tickSize": 0,
        "labelPadding": 8,
    }
    layers = []
    for side, points in bins.items():
        mark: Spec = {"type": "area", "interpolate": "step-after", "fill": COLORS[side], "fillOpacity": 0.16}
        stroke = {"stroke": COLORS[side], "strokeWidth": 2, "strokeDash": _dash(side)}
        x_axis = {**axis, "labels": False}
        encoding = {
            "x": {"field": "value", "type": "quantitative", "scale": scale, "axis": x_axis},
            "y": {"field": "share", "type": "quantitative", "stack": None, "axis": None},
        }
        layers.append({"data": {"values": points}, "mark": {**mark, **stroke}, "encoding": encoding})
    return {
        "config": _CONFIG,
        "spacing": 4,
        "padding": {"left": 2, "right": 12, "top": 4, "bottom": 2},
        "vconcat": [
            {"width": _WIDTH, "height": 150, "layer": layers},
            _quantiles(sides, scale, axis),
        ],
    }


def _quantiles(sides: Mapping[str, Distribution], scale: Spec, axis: Spec) -> Spec:
    marks, spans = [], []
    for side, distribution in sides.items():
        values = distribution.quantiles(*SHARES.values())
        spans.append({"side": side, "from": values[0], "to": values[-1]})
        for (name, _), value in zip(SHARES.items(), values, strict=True):
            marks.append({"side": side, "value": value, "name": name})
    y = {
        "field": "side",
        "type": "nominal",
        "sort": list(sides),
        "scale": {"domain": list(sides), "paddingInner": 0.2, "paddingOuter": 0.2},
        "axis": {"domain": False, "tickSize": 0, "labelPadding": 8, "labelColor": COLORS["text"]},
    }
    x = {"field": "value", "type": "quantitative", "scale": scale, "axis": axis}
    color = {
        "field": "side",
        "type": "nominal",
        "scale": {"domain": list(sides), "range": [COLORS[side] for side in sides]},
        "legend": None,
    }
    dash = {
        "field": "side",
        "type": "nominal",
        "scale": {"domain": list(sides), "range": [_dash(side) for side in sides]},
        "legend": None,
    }
    shape = {
        "field": "name",
        "type": "nominal",
        "scale": {"domain": list(SHARES), "range": ["circle", "square", "triangle-up"]},
        "legend": None,
    }
    # The label of p99 is to the right of its mark, the others to the left, so that p95 and p99 never overlap.
    texts: list[Spec] = [
        {
            "transform": [{"filter": condition}],
            "mark": {"type": "text", "align": align, "dx": offset, "fontSize": 11, **_HALO},
            "encoding": {"x": x, "y": y, "text": {"field": "name"}, "color": {"value": COLORS["text"]}},
        }
        for condition, align, offset in (
            ("datum.name != 'p99'", "right", -9),
            ("datum.name == 'p99'", "left", 9),
        )
    ]
    return {
        "width": _WIDTH,
        "height": 26 * len(sides),
        "data": {"values": marks},
        "layer": [
            {
                "data": {"values": spans},
                "mark": {"type": "rule", "strokeWidth": 1.5},
                "encoding": {
                    "x": {**x, "field": "from"},
                    "x2": {"field": "to"},
                    "y": y,
                    "color": color,
                    "strokeDash": dash,
                },
            },
            {
                "mark": {"type": "point", "filled": True, "size": 55, "opacity": 1},
                "encoding": {"x": x, "y": y, "color": color, "shape": shape},
            },
            *texts,
        ],
    }


def _histograms(sides: Mapping[str, Distribution]) -> tuple[dict[str, list[Spec]], tuple[float, float]]:
    """Return the steps of a histogram for each side, and the ends of their axis.

    The axis ends near the 99.5th percentile, because few extreme samples would press all others together.
    """
    lows, highs = zip(*(_middle(one) for one in sides.values()), strict=True)
    low, high = _widened(min(lows), max(highs))
    fewest = min(one.count for one in sides.values())
    most_bins = min(_MAX_BINS, max(6, round(2.5 * fewest ** (1 / 3))))  # about Rice's rule
    scale = min(one.scale for one in sides.values())
    while (math.log2(high) - math.log2(low)) * 2.0**scale > most_bins:
        scale -= 1
    octaves = 2.0**-scale
    # A bin holds its upper end, not its lower one.
    first, last = math.ceil(math.log2(low) / octaves) - 1, math.ceil(math.log2(high) / octaves) - 1
    steps = {}
    for side, one in sides.items():
        packed = one.buckets.positive
        for _ in range(one.scale - scale):
            packed = packed.halved()
        shares = {index: count / one.count for index, count in packed.items()}
        edges = range(first, last + 1)
        points: list[Spec] = [{"value": _power(first * octaves), "share": 0.0}]
        points += [
            {"value": _power(index * octaves), "share": round(100 * shares.get(index, 0.0), 4)}
            for index in edges
        ]
        points.append({"value": _power((last + 1) * octaves), "share": 0.0})
        steps[side] = points
    return steps, (_power(first * octaves), _power((last + 1) * octaves))


def _widened(low: float, high: float) -> tuple[float, float]:
    """Return a range that is not so narrow that noise looks large, and ticks with three digits are equal."""
    factor = max(1.0, math.sqrt(_MIN_RATIO / (high / low)))
    return low / factor, min(high * factor, sys.float_info.max)


def _power(exponent: float) -> float:
    """Return a power of 2 within the range of floats."""
    return float(2.0 ** min(max(exponent, -1022.0), 1023.9))


def _middle(distribution: Distribution) -> tuple[float, float]:
    """Return the ends of the part of a distribution that is drawn, above 0."""
    low, high = distribution.quantiles(*_EDGE_SHARES)
    lowest = _power((distribution.buckets.positive.low + 1) * 2.0**-distribution.scale)
    return max(low, lowest), max(high, lowest)


def _dash(side: str) -> list[int]:
    return BASELINE_DASH if side == "baseline" else [1, 0]


# -- a history ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HistoryPoint:
    """A job in the history of a metric.

    Attributes:
        value: Its value.
        date: The date of its commit, or of the run.
        commit: Its commit as it is shown.
        group: ``earlier``, ``baseline`` or ``current``.
    """

    value: float
    date: datetime
    commit: str
    group: str


def history_chart(points: Sequence[HistoryPoint], levels: Sequence[Level], key: str) -> Spec:
    """Return the values of a metric job by job, with its levels and the shifts between them.

    Args:
        points: The jobs in order, at least one.
        levels: The levels between change points; empty if they are unknown. Their indexes are places in
            ``points``.
        key: The flat key of the metric, which gives its unit.
    """
    values = [point.value for point in points]
    low, high = min(values), max(values)
    if low > 0:
        low, high = _widened(low, high)
        pad = math.exp(0.06 * (math.log(high) - math.log(low)))
        low, high = max(low / pad, sys.float_info.min), min(high * pad, sys.float_info.max)
        ticks = log_ticks(low, high, most=5)
    else:
        high = min(high + (high - low or 1.0) * 0.08, sys.float_info.max)
        ticks = linear_ticks(low, high, most=5)
    scale = {"type": "log" if low > 0 else "linear", "domain": [low, high], "nice": False, "zero": False}
    last = len(points) - 1
    places = sorted({round(last * step / 3) for step in range(4)})
    x = {
        "field": "place",
        "type": "quantitative",
        "scale": {"domain": [-0.5, last + 0.5], "nice": False, "zero": False},
        "axis": {
            "values": places,
            "labelExpr": _labels(places, _dates([points[place].date for place in places])),
            "grid": False,
            "labelAlign": {
                "condition": {"test": f"datum.value == {last}", "value": "right"},
                "value": "center",
            },
        },
    }
    y = {
        "field": "value",
        "type": "quantitative",
        "scale": scale,
        "axis": {
            "values": ticks,
            "labelExpr": _labels(ticks, [format_measurement(key, tick) for tick in ticks]),
            "domain": False,
            "tickSize": 0,
            "labelPadding": 8,
        },
    }
    groups = ["earlier", "baseline", "current"]
    data = [{"place": place, "value": one.value, "group": one.group} for place, one in enumerate(points)]
    layers: list[Spec] = [
        {
            "mark": {"type": "line", "strokeWidth": 1, "opacity": 0.45, "color": COLORS["muted"]},
            "encoding": {"x": x, "y": y},
        },
        {
            "mark": {"type": "point", "filled": True, "opacity": 1, "strokeWidth": 1.5},
            "encoding": {
                "x": x,
                "y": y,
                "shape": _by_group(groups, ["circle", "circle", "diamond"]),
                "fill": _by_group(groups, [COLORS["page"], COLORS["baseline"], COLORS["current"]]),
                "stroke": _by_group(groups, [COLORS["baseline"], COLORS["baseline"], COLORS["current"]]),
                "size": _by_group(groups, [34, 34, 62]),
            },
        },
    ]
    if len(levels) > 1:
        layers = [*_shift_layers(levels, x, y, points), *layers]
    return {
        "config": _CONFIG,
        "width": _WIDTH,
        "height": 176,
        "padding": {"left": 2, "right": 6, "top": 4, "bottom": 2},
        "data": {"values": data},
        "layer": layers,
    }


def _by_group(groups: Sequence[str], marks: Sequence[Any]) -> Spec:
    return {
        "field": "group",
        "type": "nominal",
        "scale": {"domain": groups, "range": marks},
        "legend": None,
    }


def _shift_layers(levels: Sequence[Level], x: Spec, y: Spec, points: Sequence[HistoryPoint]) -> list[Spec]:
    spans = [{"from": one.first - 0.5, "to": one.last + 0.5, "value": one.value} for one in levels]
    shifts = [
        {
            "place": after.first - 0.5,
            "change": format_change(after.value / before.value - 1),
            "where": points[after.first].commit,
            "isRight": after.first > len(points) * 0.6,
        }
        for before, after in pairwise(levels)
    ]
    place = {"field": "place", "type": "quantitative", "scale": x["scale"]}
    layers: list[Spec] = [
        {
            "data": {"values": shifts},
            "mark": {"type": "rule", "color": COLORS["shift"], "strokeWidth": 1.5, "strokeDash": [2, 3]},
            "encoding": {"x": place},
        },
        {
            "data": {"values": spans},
            "mark": {"type": "rule", "color": COLORS["shift"], "strokeWidth": 3, "opacity": 0.55},
            "encoding": {
                "x": {**place, "field": "from"},
                "x2": {"field": "to"},
                "y": {"field": "value", "type": "quantitative", "scale": y["scale"]},
            },
        },
    ]
    if len(shifts) > _MAX_SHIFT_LABELS:  # the caption lists them
        return layers
    for is_right in (False, True):
        for field, offset, weight in (("change", -22, 600), ("where", -7, 400)):
            layers.append(
                {
                    "data": {"values": [one for one in shifts if one["isRight"] is is_right]},
                    "mark": {
                        "type": "text",
                        "align": "right" if is_right else "left",
                        "dx": -4 if is_right else 4,
                        "y": offset,
                        "fontWeight": weight,
                        "color": COLORS["shift"],
                    },
                    "encoding": {"x": place, "text": {"field": field}},
                }
            )
    return layers


def _dates(dates: Sequence[datetime]) -> list[str]:
    years = {date.year for date in dates}
    months = [_MONTHS[date.month - 1] for date in dates]
    return [
        f"{date.day} {month}" if len(years) == 1 else f"{month} {date.year}"
        for date, month in zip(dates, months, strict=True)
    ]


# -- ticks -------------------------------------------------------------------------------------------------


def log_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return round numbers for a logarithmic axis.

    Args:
        low: The lower end, above 0.
        high: The upper end.
        most: The largest number of ticks, 2 or more.

    Example:
        >>> log_ticks(3, 700), log_ticks(11, 24), log_ticks(0.9, 1.02)
        ([5.0, 10.0, 50.0, 100.0, 500.0], [12.5, 15.0, 17.5, 20.0, 22.5], [0.9, 0.925, 0.95, 0.975, 1.0])
    """
    if high / low < 4:
        return linear_ticks(low, high, most)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found: list[float] = []
    for steps in ((1, 2, 5), (1, 5), (1,)):
        ticks = [float(f"{step}e{power}") for power in powers for step in steps]
        found = [tick for tick in ticks if low <= tick <= high]
        if len(found) <= most:
            return found
    return found[:: -(-len(found) // most)]


def linear_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return round numbers for a linear axis; see `log_ticks`."""
    rough = high / most - low / most
    if rough < sys.float_info.min * 10:
        return [low]
    power = 10.0 ** math.floor(math.log10(rough))
    for factor in (1, 2, 2.5, 5, 10):
        step = factor * power
        begin, end = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if end - begin + 1 <= most:
            return [float(f"{number * step:.12g}") for number in range(begin, end + 1)]
    return [low, high]


def _labels(values: Sequence[float], labels: Sequence[str]) -> str:
    """Return a Vega expression for the labels of ticks. Labels must be made of numbers and dates only."""
    shown = [
        label if len(label) <= _MAX_LABEL_CHARACTERS else f"{value:.0e}"
        for value, label in zip(values, labels, strict=True)
    ]
    return f"{to_json_text(shown)}[indexof({to_json_text(list(values))}, datum.value)]"
