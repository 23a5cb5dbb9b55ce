"""The specifications of charts, and the SVG that vl-convert draws from them."""

from __future__ import annotations

import json
import math
import re
import sys
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_framework.errors import MissingExtraError
from metrics_framework.recording import Distribution
from metrics_framework.report.change_points import Level
from metrics_framework.report.charts import (
    COLORS,
    HistoryPoint,
    Spec,
    distribution_chart,
    history_chart,
    linear_ticks,
    log_ticks,
)
from metrics_framework.report.svg import draw
from tests.metrics_framework.report.sample_runs import HOSTILE

POSITIVE = st.floats(1e-6, 1e9)
SAMPLES = st.lists(POSITIVE, min_size=1, max_size=300)


def histogram(spec: Spec, side: int) -> list[tuple[float, float]]:
    """Return the edges and the heights of the bins of a side."""
    points = spec["vconcat"][0]["layer"][side]["data"]["values"]
    return [(point["value"], point["share"]) for point in points]


def some_history(number: int, commit: str = "0123456789") -> list[HistoryPoint]:
    """Return a history that becomes slower at its half."""
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    return [
        HistoryPoint(12.0 if place < number / 2 else 15.0, begin + timedelta(days=place), commit, "baseline")
        for place in range(number)
    ]


@given(SAMPLES, SAMPLES)
def test_a_histogram_has_almost_all_samples(before: list[float], after: list[float]) -> None:
    """The bins of both sides have equal edges within the axis, and hold at least 99 % of the samples."""
    sides = {"baseline": Distribution.of(before), "current": Distribution.of(after)}
    spec = distribution_chart(sides, "latency.p95")
    json.dumps(spec, allow_nan=False)
    first, second = histogram(spec, 0), histogram(spec, 1)
    assert [edge for edge, _ in first] == [edge for edge, _ in second]
    low, high = spec["vconcat"][1]["layer"][1]["encoding"]["x"]["scale"]["domain"]
    assert low == first[0][0] < first[-1][0] == high
    for side in (first, second):
        assert 98.5 <= sum(share for _, share in side) <= 100.1
        assert side[-1][1] == 0


@given(st.lists(st.floats(0, sys.float_info.max), min_size=1, max_size=40))
def test_any_values_can_be_drawn(values: list[float]) -> None:
    """Zeros, and the smallest and largest floats, give charts with finite numbers and short labels."""
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    points = [HistoryPoint(value, begin, "", "earlier") for value in values]
    specs = [history_chart(points, [], "latency.p95")]
    if Distribution.of(values).quantiles(0.5)[0] > 0:
        specs.append(distribution_chart({"current": Distribution.of(values)}, "latency.p95"))
    for spec in specs:
        text = json.dumps(spec, allow_nan=False)
        assert len(text) < 20_000


def test_a_bin_counts_what_it_shows() -> None:
    """Samples of two values are in the bins that hold these values, in the right shares."""
    spec = distribution_chart({"current": Distribution.of([10.0] * 30 + [20.0] * 70)}, "latency.p95")
    bins = histogram(spec, 0)
    found = {
        value: share
        for value in (10.0, 20.0)
        for (begin, share), (end, _) in pairwise(bins)
        if begin < value <= end
    }
    assert found == {10.0: 30.0, 20.0: 70.0}


@given(POSITIVE, st.floats(1.1, 1e6), st.integers(3, 8))
def test_ticks_are_few_and_within_the_axis(low: float, factor: float, most: int) -> None:
    """An axis has from one tick to the largest number, in order, between its ends."""
    for ticks in (log_ticks(low, low * factor, most), linear_ticks(low, low * factor, most)):
        assert 1 <= len(ticks) <= most
        assert ticks == sorted(set(ticks))
        assert low * (1 - 1e-9) <= ticks[0]
        assert ticks[-1] <= low * factor * (1 + 1e-9)


def test_texts_from_files_are_data() -> None:
    """The commit of a shift is a datum of the specification, never part of an expression."""
    levels = [Level(0, 9, 12.0), Level(10, 19, 15.0)]
    spec = history_chart(some_history(20, HOSTILE), levels, "latency.p95")

    def check(part: object, key: str = "") -> None:
        if isinstance(part, dict):
            for name, value in part.items():
                check(value, name)
        elif isinstance(part, list):
            for value in part:
                check(value, key)
        elif part == HOSTILE:
            assert key == "where"
        else:
            assert HOSTILE not in str(part)

    check(spec)


@pytest.mark.slow
@pytest.mark.parametrize(
    "spec",
    [
        distribution_chart(
            {"baseline": Distribution.of([1.0] * 200), "current": Distribution.of([3.0])}, "x"
        ),
        distribution_chart({"current": Distribution.of([-1.0, 0.0, 5.0, 1e9])}, "custom.x/p95"),
        history_chart(some_history(20, HOSTILE[:40]), [Level(0, 9, 12.0), Level(10, 19, 15.0)], "throughput"),
        distribution_chart({"current": Distribution.of([5e-324, 1.0, 1e308])}, "custom.x/p95"),
        history_chart([HistoryPoint(0.0, datetime(2026, 1, 1, tzinfo=UTC), "", "earlier")], [], "custom.x"),
    ],
    ids=["histogram", "one side", "history", "extremes", "one job"],
)
def test_the_svg_follows_the_page(spec: Spec) -> None:
    """A chart is well-formed, and has only colors of the page: no styles, scripts or references."""
    svg = draw(spec)
    root = ElementTree.fromstring(svg)
    assert {element.tag.rpartition("}")[2] for element in root.iter()} <= {"svg", "g", "path", "line", "text"}
    assert set(re.findall(r' (?:fill|stroke)="([^"]*)"', svg)) <= {*COLORS.values(), "none"}
    assert not re.search(r'style=|class=|href|url\(|id="', svg)
    assert "NaN" not in svg
    assert "undefined" not in svg
    width, height = (float(root.attrib[name]) for name in ("width", "height"))
    assert 350 < width < 600
    assert 100 < height < 300


@pytest.mark.slow
def test_labels_of_hostile_commits_are_text() -> None:
    """A commit with markup is shown as text beside its shift."""
    levels = [Level(0, 9, 12.0), Level(10, 19, 15.0)]
    svg = draw(history_chart(some_history(20, "</text><script>"), levels, "latency.p95"))
    texts = [element.text for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")]
    assert "</text><script>" in texts
    assert "+25.0 %" in texts


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without vl-convert, the error has the command that installs it."""
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(
        MissingExtraError, match=r"drawing charts .* pip install 'metrics-framework\[compare\]'"
    ):
        draw(history_chart(some_history(3), [], "latency.p95"))


def test_narrow_ranges_have_different_labels() -> None:
    """Ticks of a metric that hardly varies have labels that differ."""
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    points = [HistoryPoint(1000.0 + place / 10, begin, "", "earlier") for place in range(5)]
    axis = history_chart(points, [], "latency.p95")["layer"][0]["encoding"]["y"]["axis"]
    labels = json.loads(axis["labelExpr"].partition("[indexof")[0])
    assert len(labels) == len(set(labels)) >= 3
    assert all(math.isfinite(tick) for tick in axis["values"])
