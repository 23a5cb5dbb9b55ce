"""The HTML of a report: what it says, how it is built, and what texts from files cannot do to it."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

pytest.importorskip("scipy")

from hypothesis import given
from hypothesis import strategies as st

from metrics_adapters.snapshot_writer import SnapshotAggregator
from metrics_framework.report import page, render_report
from metrics_framework.report.page import headline
from metrics_framework.snapshots import (
    LatencyMetrics,
    Metrics,
    PerformanceSnapshot,
    SnapshotMetadata,
)
from metrics_framework.snapshots.compare import (
    Better,
    ComparedRun,
    Comparison,
    MetricComparison,
    Verdict,
    compare,
)
from tests.metrics_framework.report.sample_runs import (
    commit_of,
    write_history,
    write_run,
)

VOID = {"meta", "link"}


class Elements(HTMLParser):
    """The elements and texts of a page.

    Attributes:
        tags: How often each element occurs.
        attributes: All attributes with their element.
        texts: Texts outside of styles.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str | None]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.tags[tag] += 1
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        """Note an element without content."""
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        """Fail if elements do not nest."""
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Note a text."""
        if self._open and self._open[-1] != "style":
            self.texts.append(data)


def a_run(number: int, p95: float, **texts: str) -> ComparedRun:
    """Return a run without a sidecar, and with any texts."""
    return ComparedRun.of(
        PerformanceSnapshot(
            Metrics(
                LatencyMetrics(p95=p95 + number / 100),
                throughput=50.0,
                custom={texts.get("key", "hits"): p95},
            ),
            metadata=SnapshotMetadata(
                run_id=f"{number} {p95}",
                commit=texts.get("commit", "abc"),
                branch=texts.get("branch", "main"),
                tags={
                    "job": str(number),
                    "latency_metric": texts.get("benchmark", "checkout"),
                    "machine": texts.get("machine", "linux"),
                },
            ),
        )
    )


def two_sides(**texts: str) -> tuple[list[ComparedRun], list[ComparedRun]]:
    """Return two sides that differ."""
    return [a_run(number, 10, **texts) for number in range(5)], [
        a_run(number, 13, **texts) for number in range(5)
    ]


def report_of(baseline: list[ComparedRun], current: list[ComparedRun]) -> str:
    """Return the report on two sides."""
    return render_report(compare(baseline, current), baseline, current)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the report on a regression, with sidecars and a history that has a shift."""
    folder = tmp_path_factory.mktemp("snapshots")
    runs = [ComparedRun.read(path) for path in write_history(folder)]
    current = [
        ComparedRun.read(write_run(folder / "new", number, factor=1.3, branch="topic"))
        for number in range(30, 35)
    ]
    history = SnapshotAggregator(folder).measurements()
    return render_report(compare(runs[-10:], current), runs[-10:], current, history)


# -- structure ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_report_is_one_file_that_loads_nothing(report: str) -> None:
    """The page has no script and no reference to anything, and its policy allows only its own style."""
    found = Elements(report)
    assert found.tags["script"] == 0
    urls = [value for _, name, value in found.attributes if name in ("src", "href", "action", "data")]
    assert urls == ["data:,"]
    assert not re.search(r"url\(|@import|https?:", report)
    assert not [one for one in found.attributes if one[1] == "style" or one[1].startswith("on")]
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', report)
    (style,) = re.findall(r"<style>(.*?)</style>", report, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:;")


@pytest.mark.slow
def test_the_report_has_all_parts(report: str) -> None:
    """The verdict, the tables, both sides of the distribution, the shift, the context and an explanation."""
    text = " ".join(Elements(report).texts)
    assert re.search(r"Regression: latency\.p95 is 1\d\.\d % higher and throughput is .* lower than", text)
    assert re.search(r"4,000 baseline samples, 2,000 current samples", text)
    assert re.search(
        r"All samples of a side together: p50 .* p95 .* The table has the mean over the runs", text
    )
    assert f"at {commit_of(15)[:10]}, 2026-09-20" in text
    assert "topic" in text
    assert "AMD EPYC" in text
    assert "How to read it" in text
    assert re.search(r"\d unchanged metrics", text)


@pytest.mark.slow
def test_tables_and_charts_are_accessible(report: str) -> None:
    """Headings of tables have a scope, charts a label and a caption, and headings follow their order."""
    found = Elements(report)
    scopes = [value for tag, name, value in found.attributes if (tag, name) == ("th", "scope")]
    assert len(scopes) == found.tags["th"]
    assert {"row", "col"} == set(scopes)
    labels = [value for _, name, value in found.attributes if name == "aria-label"]
    assert found.tags["figure"] == found.tags["figcaption"] == len(labels) >= 4
    assert all(labels)
    levels = [int(level) for level in re.findall(r"<h([1-6])", report)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


@pytest.mark.slow
def test_a_large_report_stays_small(tmp_path: Path) -> None:
    """Two primary and 200 other metrics with 20 jobs of history need less than a megabyte."""
    runs = []
    for number in range(25):
        custom = {
            f"http/requests[route:/api/items/{key}]/p95": 10.0 + (key + number) % 7 for key in range(200)
        }
        branch, folder = ("main", tmp_path) if number < 20 else ("topic", tmp_path / "new")
        path = write_run(folder, number, branch=branch, custom=custom, factor=1.2 if number >= 20 else 1.0)
        runs.append(ComparedRun.read(path))
    history = SnapshotAggregator(tmp_path).measurements()
    html = render_report(compare(runs[:20], runs[20:]), runs[:20], runs[20:], history)
    assert len(html.encode()) < 500_000
    assert html.count("<figure") <= page.MAX_CHARTS
    assert html.count("custom.") == 0


@pytest.mark.slow
def test_charts_of_many_changed_metrics_are_limited(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Beyond the limit, charts are left out, those of the primary metrics last, and the page says so."""
    monkeypatch.setattr(page, "MAX_CHARTS", 3)
    runs = [ComparedRun.read(path) for path in write_history(tmp_path, jobs=20, shift_at=15, shift=1.3)]
    html = render_report(compare(runs[:15], runs[15:]), runs[:15], runs[15:])
    assert html.count("<figure") == 3
    assert "History of <code><bdi>latency.p95" in html
    assert re.search(r"\d more charts? of changed metrics", html)


def test_runs_without_sidecars_and_history_have_no_charts() -> None:
    """A report on plain snapshots has its tables, and says that samples are missing."""
    html = report_of(*two_sides())
    assert "<figure" not in html
    assert "unknown: the snapshots have no sidecars" in html
    assert Elements(html).tags["table"] >= 2


def test_several_benchmarks_are_told_apart() -> None:
    """Each row of a report on two benchmarks names its benchmark."""
    first, second = two_sides(), two_sides(benchmark="refund")
    html = report_of([*first[0], *second[0]], [*first[1], *second[1]])
    assert html.count("of <code><bdi>refund</bdi>") == html.count("of <code><bdi>checkout</bdi>") >= 2


# -- texts from files --------------------------------------------------------------------------------------

TEXT = st.one_of(
    st.text(st.characters(), min_size=1, max_size=80),
    st.sampled_from(
        ["<script>alert(1)</script>", "' onload=x '", '"><img src=x>', "</style>", "${style}", "a" * 2**20]
    ),
)


@given(
    key=TEXT.map(lambda key: key.replace(".", "/")), commit=TEXT, branch=TEXT, benchmark=TEXT, machine=TEXT
)
def test_texts_from_files_add_nothing_to_the_page(
    key: str, commit: str, branch: str, benchmark: str, machine: str
) -> None:
    """Whatever the names, tags and branches are, the page has the same elements and attributes."""
    plain = Elements(report_of(*two_sides()))
    html = report_of(*two_sides(key=key, commit=commit, branch=branch, benchmark=benchmark, machine=machine))
    html.encode()
    assert len(html) < 60_000
    found = Elements(html)
    # A key may change what a metric means: its unit, and which values are better.
    assert found.tags.keys() <= {*plain.tags.keys(), "details", "summary", "span", "svg", "path", "circle"}
    assert {(tag, name) for tag, name, _ in found.attributes} <= {
        *((tag, name) for tag, name, _ in plain.attributes),
        ("svg", "class"),
    }


# -- the sentence ------------------------------------------------------------------------------------------


def a_metric(verdict: Verdict, key: str = "latency.p95", **fields: object) -> MetricComparison:
    """Return a primary metric."""
    metric = MetricComparison(key, None, True, verdict, Better.LOWER, 0.05, 10.0, 12.0, 0.2, 0.1, 0.3)
    return replace(metric, **fields)


@pytest.mark.parametrize(
    ("metrics", "sentence"),
    [
        (
            [a_metric(Verdict.REGRESSION), a_metric(Verdict.NO_CHANGE, "throughput")],
            "Regression: latency.p95 is 20 % higher than the baseline; 5 % is accepted.",
        ),
        (
            [a_metric(Verdict.REGRESSION), a_metric(Verdict.REGRESSION, "throughput", change=-0.125)],
            (
                "Regression: latency.p95 is 20 % higher and throughput is 12.5 % lower than the baseline;"
                " 5 % is accepted."
            ),
        ),
        (
            [a_metric(Verdict.IMPROVEMENT, change=-0.5)],
            "Improvement: latency.p95 is 50 % lower than the baseline.",
        ),
        (
            [a_metric(Verdict.NO_CHANGE), a_metric(Verdict.NO_CHANGE, "throughput")],
            "No change: latency.p95 and throughput stayed within the accepted 5 %.",
        ),
        (
            [a_metric(Verdict.INCONCLUSIVE, needed=14)],
            (
                "Inconclusive: these runs do not show whether latency.p95 changed by more than 5 %."
                " To find a change of 10 %, measure about 14 jobs on each side."
            ),
        ),
        (
            [a_metric(Verdict.INCONCLUSIVE, key) for key in ("a", "b", "c", "d", "e")],
            (
                "Inconclusive: these runs do not show whether a, b and 3 more changed by more than 5 %."
                " Measure more jobs to tell."
            ),
        ),
        (
            [a_metric(Verdict.INCONCLUSIVE, baseline_units=1, current_units=1)],
            (
                "Inconclusive: these runs do not show whether latency.p95 changed by more than 5 %."
                " One job on each side does not tell, and more runs on this boot are the same job: measure"
                " both versions by turns (metrics-framework run --against), or each in several jobs."
            ),
        ),
        (
            [a_metric(Verdict.INCONCLUSIVE, change=None)],
            "Inconclusive: no primary metric has values on both sides.",
        ),
    ],
)
def test_the_headline_is_a_sentence(metrics: list[MetricComparison], sentence: str) -> None:
    """The verdict is one sentence, with the change, the margin and what to do."""
    assert headline(Comparison(tuple(metrics), 5, 5)) == sentence
