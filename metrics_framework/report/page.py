"""The HTML report of a comparison: one file without scripts, which loads nothing and needs no network.

Names, tags, branches and notes come from files. All of them pass `metrics_framework.runtime.plain_text.html`.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from string import Template

from metrics_framework._version import __version__
from metrics_framework.recording import Distribution
from metrics_framework.report.change_points import MIN_VALUES, Level, find_levels, shifts_between
from metrics_framework.report.charts import SHARES, HistoryPoint, distribution_chart, history_chart
from metrics_framework.report.svg import draw
from metrics_framework.runtime.plain_text import html, plain
from metrics_framework.snapshots.build import LATENCY_TAG
from metrics_framework.snapshots.compare import (
    ComparedRun,
    Comparison,
    MetricComparison,
    Verdict,
    number_of_jobs,
)
from metrics_framework.snapshots.files import MeasuredRun, Run
from metrics_framework.snapshots.formatting import (
    format_change,
    format_count,
    format_measurement,
    format_percent,
)
from metrics_framework.snapshots.keys import STATISTICS, SUCCESS_RATE
from metrics_framework.snapshots.provenance import JOB_TAG, MACHINE_TAG

MAX_CHARTS = 24
"""Most charts of a report. Those of the primary metrics come first."""

MAX_HISTORY_JOBS = 200
"""Most jobs in the chart of a history, the newest."""

MAX_LISTED = 5
"""Most commits, branches or machines that are listed; more are counted."""

_SIGNS = {
    Verdict.REGRESSION: "✕",
    Verdict.IMPROVEMENT: "✓",
    Verdict.CHANGED: "≠",
    Verdict.NO_CHANGE: "=",
    Verdict.INCONCLUSIVE: "?",
}
_QUANTILES = tuple(SHARES)


def render_report(
    comparison: Comparison,
    baseline: Sequence[ComparedRun],
    current: Sequence[ComparedRun],
    history: Sequence[MeasuredRun] = (),
) -> str:
    """Return the HTML report of a comparison.

    Args:
        comparison: The result of `metrics_framework.snapshots.compare.compare`.
        baseline: The runs of the baseline.
        current: The runs of the current version.
        history: Runs before the current ones, oldest first. Without them, the runs of the baseline are drawn
            if they are many.

    Raises:
        MissingExtraError: If vl-convert is not installed.
    """
    return _Page(comparison, baseline, current, history).render()


# -- the sentence ------------------------------------------------------------------------------------------


def headline(comparison: Comparison) -> str:
    """Return the verdict in a sentence."""
    verdict = comparison.verdict
    found = [metric for metric in comparison.primary if metric.verdict is verdict]
    title = verdict.capitalize()
    are_several = len({metric.benchmark for metric in comparison.primary}) > 1
    names = [_name(metric, with_benchmark=are_several) for metric in found]
    if not comparison.is_comparable:
        return f"{title}: no primary metric has values on both sides."
    margins = " and ".join(sorted({format_percent(metric.margin) for metric in found}))
    if verdict is Verdict.NO_CHANGE:
        return f"{title}: {_and(names)} stayed within the accepted {margins}."
    if verdict is Verdict.INCONCLUSIVE:
        return (
            f"{title}: these runs do not show whether {_and(names)} changed by more than {margins}."
            f" {_remedy(found)}"
        )
    changes = [
        f"{name} is {format_percent(abs(metric.change or 0.0))}"
        f" {'higher' if (metric.change or 0.0) > 0 else 'lower'}{' (odds)' if _is_rate(metric) else ''}"
        for name, metric in zip(names, found, strict=True)
    ]
    more = f"; {margins} is accepted" if verdict is Verdict.REGRESSION else ""
    return f"{title}: {_and(changes)} than the baseline{more}."


def _remedy(found: Sequence[MetricComparison]) -> str:
    """Return what makes an inconclusive comparison conclusive."""
    known = [metric for metric in found if metric.needed is not None]
    if known:
        most = max(known, key=lambda metric: metric.needed or 0)
        unit = "pairs" if most.unit == "pair" else "jobs on each side"
        return f"To find a change of {format_percent(2 * most.margin)}, measure about {most.needed:,} {unit}."
    if any(metric.unit == "pair" for metric in found):
        return "Measure more pairs to tell."
    if any((metric.baseline_units, metric.current_units) == (1, 1) for metric in found):
        return (
            "One job on each side does not tell, and more runs on this boot are the same job: measure both"
            " versions by turns (metrics-framework run --against), or each in several jobs."
        )
    return "Measure more jobs to tell."


def _and(parts: Sequence[str]) -> str:
    if len(parts) > 3:
        parts = [*parts[:2], f"{len(parts) - 2} more"]
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _name(metric: MetricComparison, *, with_benchmark: bool) -> str:
    name = plain(metric.key.removeprefix("custom."), 60)
    return f"{name} of {plain(metric.benchmark or 'no benchmark', 60)}" if with_benchmark else name


def _is_rate(metric: MetricComparison) -> bool:
    return metric.key.endswith(f"/{SUCCESS_RATE}")


# -- the page ----------------------------------------------------------------------------------------------


class _Page:
    """A report while it is written."""

    def __init__(
        self,
        comparison: Comparison,
        baseline: Sequence[ComparedRun],
        current: Sequence[ComparedRun],
        history: Sequence[MeasuredRun],
    ) -> None:
        self.comparison, self.baseline, self.current = comparison, baseline, current
        self.has_history = bool(history)
        self.history = _without_current(history, current) or _by_date(baseline)
        self.benchmarks = list(dict.fromkeys(metric.benchmark for metric in comparison.metrics))
        self.charts = 0
        self.left_out_charts = 0

    def render(self) -> str:
        """Return the HTML."""
        files = resources.files(__package__ or "")
        style = files.joinpath("style.css").read_text("utf-8")
        content = [self._header(), self._primary(), self._others(), self._charts(), self._context()]
        return Template(files.joinpath("page.html").read_text("utf-8")).substitute(
            # The browser applies this style only, not one that a text might smuggle in.
            style_hash=f"sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}",
            style=style,
            title=html(headline(self.comparison), 200),
            content="\n".join(content),
            version=html(__version__),
        )

    # -- the verdict

    def _header(self) -> str:
        verdict = self.comparison.verdict
        names = [f"<code>{_bdi(name)}</code>" for name in self.benchmarks[:MAX_LISTED] if name is not None]
        of_what = f"{', '.join(names)}: " if names else ""
        sides = f"{_side('current', self.current)} against {_side('baseline', self.baseline)}"
        notes = _notes(self.comparison.notes)
        return (
            f'<p class="sides">{of_what}{sides}</p>\n'
            f'<div class="headline {_css(verdict)}">'
            f'<span class="sign" aria-hidden="true">{_SIGNS[verdict]}</span>'
            f"<h1>{html(headline(self.comparison), 400)}</h1></div>\n{notes}"
        )

    # -- the tables

    def _primary(self) -> str:
        metrics = self.comparison.primary
        return f"<h2>Primary metrics</h2>\n{self._table(metrics, 'Primary metrics')}"

    def _others(self) -> str:
        others = [metric for metric in self.comparison.metrics if not metric.is_primary]
        if not others:
            return ""
        changed = [metric for metric in others if _is_changed(metric)]
        parts = ["<h2>Other metrics</h2>", '<p class="muted">They do not decide the verdict.</p>']
        if changed:
            parts.append(self._table(changed, "Other metrics that changed"))
        for verdict, title in (
            (Verdict.INCONCLUSIVE, "inconclusive"),
            (Verdict.NO_CHANGE, "unchanged"),
        ):
            found = [metric for metric in others if metric.verdict is verdict]
            if found:
                summary = f"<summary>{format_count(len(found), f'{title} metric')}</summary>"
                table = self._table(found, f"Other metrics, {title}")
                parts.append(f"<details>{summary}\n{table}</details>")
        return "\n".join(parts)

    def _table(self, metrics: Sequence[MetricComparison], caption: str) -> str:
        extent = _extent(metrics)
        heads = (
            ("Metric", ""),
            ("Baseline", "number"),
            ("Current", "number"),
            ("Change and interval", "change"),
            ("Verdict", ""),
            ("Detectable", "number"),
            ("Needed", "number"),
        )
        head = "".join(
            f'<th scope="col" role="columnheader"{_class(kind)}>{title}</th>' for title, kind in heads
        )
        rows = "\n".join(self._row(metric, extent) for metric in metrics)
        return (
            f'<table class="cards" role="table"><caption class="hidden">{caption}</caption>'
            f'<thead role="rowgroup"><tr role="row">{head}</tr></thead>\n'
            f'<tbody role="rowgroup">\n{rows}\n</tbody></table>'
        )

    def _row(self, metric: MetricComparison, extent: float) -> str:
        name = f"<code>{_bdi(metric.key.removeprefix('custom.'))}</code>"
        if len(self.benchmarks) > 1 and metric.benchmark is not None:
            name += f'<span class="note">of <code>{_bdi(metric.benchmark)}</code></span>'
        values = [
            None if value is None else format_measurement(metric.key, value)
            for value in (metric.baseline, metric.current)
        ]
        detectable = None if metric.detectable is None else format_percent(metric.detectable)
        needed = None if metric.needed is None else format_count(metric.needed, metric.unit)
        verdict = (
            f'<span class="verdict {_css(metric.verdict)}">'
            f'<span aria-hidden="true">{_SIGNS[metric.verdict]}</span> {metric.verdict}</span>'
        )
        notes = "".join(f'<span class="note">{_bdi(note, 300)}</span>' for note in metric.notes)
        return (
            f'<tr role="row"><th scope="row" role="rowheader">{name}</th>'
            f"{_cell('Baseline', values[0], 'number')}{_cell('Current', values[1], 'number')}"
            f"{_cell('Change', _change(metric, extent), 'change', is_html=True)}"
            f"{_cell('Verdict', verdict + notes, 'judged', is_html=True)}"
            f"{_cell('Detectable', detectable, 'number')}{_cell('Needed', needed, 'number')}</tr>"
        )

    # -- the charts

    def _charts(self) -> str:
        shown = [metric for metric in self.comparison.metrics if metric.is_primary or _is_changed(metric)]
        sections = []
        for benchmark in self.benchmarks:
            of_benchmark = [metric for metric in shown if metric.benchmark == benchmark]
            stems = list(
                dict.fromkeys(["latency", *(stem for one in of_benchmark if (stem := _stem(one.key)))])
            )
            figures = [self._distribution(benchmark, stem) for stem in stems]
            figures += [self._metric_history(metric) for metric in of_benchmark]
            drawn = [figure for figure in figures if figure]
            if drawn:
                title = "Charts" if benchmark is None else f"Charts of <code>{_bdi(benchmark)}</code>"
                sections.append(f'<h2>{title}</h2>\n<div class="charts">\n' + "\n".join(drawn) + "\n</div>")
        if self.left_out_charts:
            sections.append(
                f'<p class="note">{format_count(self.left_out_charts, "more chart")} of changed metrics'
                " would make this file large and are left out.</p>"
            )
        return "\n".join(sections)

    def _may_draw(self) -> bool:
        if self.charts >= MAX_CHARTS:
            self.left_out_charts += 1
            return False
        self.charts += 1
        return True

    def _distribution(self, benchmark: str | None, stem: str) -> str:
        sides = {
            side: merged
            for side, runs in (("baseline", self.baseline), ("current", self.current))
            if (merged := _merge(_of_benchmark(runs, benchmark), stem)) is not None
        }
        if not sides or not self._may_draw():
            return ""
        key = f"{stem}.p95" if stem == "latency" else f"{stem}/p95"
        lines = []
        values = {side: one.quantiles(*SHARES.values()) for side, one in sides.items()}
        for place, name in enumerate(_QUANTILES):
            numbers = [_unbroken(format_measurement(key, of_side[place])) for of_side in values.values()]
            lines.append(f"{name} {' → '.join(numbers)}")
        counts = ", ".join(f"{one.count:,} {side} samples" for side, one in sides.items())
        # The numbers of the table are means of the quantiles of single runs.
        pooled = f"All samples of a side together: {', '.join(lines)}"
        description = f"Histogram of {counts}. {pooled}."
        legend = _legend([side for side in ("baseline", "current") if side in sides], _LINE_KEYS)
        caption = (
            f"{legend}<p>{pooled}. The table has the mean over the runs, so its numbers differ.</p>"
            f"<p>{_sentence(counts)}. The axis is logarithmic.</p>"
        )
        title = f"Samples of <code>{_bdi(stem.removeprefix('custom.'))}</code>"
        return _figure(title, description, draw(distribution_chart(sides, key)), caption)

    def _metric_history(self, metric: MetricComparison) -> str:
        ids = {one.run.run_id for one in self.baseline if one.run.run_id is not None}
        before = _points(
            [
                (run, values, "baseline" if run.run_id in ids else "earlier")
                for run, values in self.history
                if _is_of(run, metric.benchmark)
            ],
            metric.key,
        )[-MAX_HISTORY_JOBS:]
        if len(before) < (3 if self.has_history else MIN_VALUES):
            return ""
        after = _points(
            [
                (run, values, "current")
                for run, values in _by_date(self.current)
                if _is_of(run, metric.benchmark)
            ],
            metric.key,
        )
        if not self._may_draw():
            return ""
        points = [*before, *after]
        levels, note = _levels(before)
        shifts = shifts_between(levels)
        texts = [
            f"{format_change(shift.change)} at {point.commit}, {point.date:%Y-%m-%d}"
            for shift in shifts
            for point in (before[shift.index],)
        ]
        first, last = points[0], points[-1]
        values = [format_measurement(metric.key, one.value) for one in (first, last)]
        span = (
            f"{format_count(len(points), 'job')} from {first.date:%Y-%m-%d} to {last.date:%Y-%m-%d},"
            f" {values[0]} to {values[1]}"
        )
        found = f"{format_count(len(texts), 'shift')}: {'; '.join(texts)}." if texts else note
        groups = list(dict.fromkeys(point.group for point in points))
        legend = _legend(groups, _POINT_KEYS)
        caption = f"{legend}<p>{html(found, 600)}</p><p>{html(_sentence(span))}.</p>"
        title = f"History of <code>{_bdi(metric.key.removeprefix('custom.'))}</code>"
        chart = draw(history_chart(points, levels, metric.key))
        return _figure(title, f"{_sentence(span)}. {found}", chart, caption)

    # -- the context

    def _context(self) -> str:
        sides = (("Baseline", self.baseline), ("Current", self.current))
        rows = []
        for title, lister in _CONTEXT:
            before, after = (_cell(side, lister(runs), "", is_html=True) for side, runs in sides)
            rows.append(f'<tr role="row"><th scope="row" role="rowheader">{title}</th>{before}{after}</tr>')
        head = '<td role="cell"></td>' + "".join(
            f'<th scope="col" role="columnheader">{title}</th>' for title, _ in sides
        )
        return (
            '<h2>Context</h2>\n<table class="cards" role="table">'
            '<caption class="hidden">Runs of both sides</caption>'
            f'<thead role="rowgroup"><tr role="row">{head}</tr></thead>\n'
            f'<tbody role="rowgroup">\n{chr(10).join(rows)}\n</tbody></table>'
        )


# -- pieces of HTML ----------------------------------------------------------------------------------------


def _bdi(text: str, most: int = 120) -> str:
    """Return a text from a file as HTML. Right-to-left letters in it do not reorder their surroundings."""
    return f"<bdi>{html(text, most)}</bdi>"


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def _css(verdict: Verdict) -> str:
    return verdict.value.replace(" ", "-")


def _cell(label: str, content: str | None, kind: str, *, is_html: bool = False) -> str:
    if content is None:
        return f'<td role="cell" class="{f"{kind} unknown".strip()}" data-label="{label}">&ndash;</td>'
    shown = content if is_html else html(content)
    return f'<td role="cell"{_class(kind)} data-label="{label}"><div>{shown}</div></td>'


def _notes(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    return f'<ul class="notes">{"".join(f"<li>{_bdi(_sentence(note), 300)}</li>" for note in notes)}</ul>'


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _figure(title: str, description: str, svg: str, caption: str) -> str:
    return (
        f'<figure><h3>{title}</h3><div role="img" aria-label="{html(description, 1_000)}">{svg}</div>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


_LINE_KEYS = {
    "baseline": '<path d="M0 6H22" stroke="var(--baseline)" stroke-width="2" stroke-dasharray="5,3"/>',
    "current": '<path d="M0 6H22" stroke="var(--current)" stroke-width="2"/>',
}
_POINT_KEYS = {
    "earlier": '<circle cx="6" cy="6" r="3.5" fill="none" stroke="var(--baseline)" stroke-width="1.5"/>',
    "baseline": '<circle cx="6" cy="6" r="4" fill="var(--baseline)"/>',
    "current": '<path d="M6 1 11 6 6 11 1 6Z" fill="var(--current)"/>',
}


def _legend(groups: Iterable[str], keys: Mapping[str, str]) -> str:
    width = 22 if keys is _LINE_KEYS else 12
    entries = "".join(
        f'<span><svg class="key" width="{width}" height="12" viewBox="0 0 {width} 12" aria-hidden="true">'
        f"{keys[group]}</svg>{group}</span>"
        for group in groups
    )
    return f'<p class="legend">{entries}</p>'


# -- the interval plot -------------------------------------------------------------------------------------


_PLOT_WIDTH, _PLOT_HEIGHT = 200, 22
_MIN_EXTENT, _MAX_EXTENT = 3.0, 12.0


def _change(metric: MetricComparison, extent: float) -> str | None:
    if metric.change is None:
        return None
    text = f"<span>{_unbroken(format_change(metric.change))}</span>"
    if metric.low is None or metric.high is None:
        return text
    interval = f"{_unbroken(format_change(metric.low))} to {_unbroken(format_change(metric.high))}"
    of = " of the odds" if _is_rate(metric) else ""
    return f'{text} <span class="interval">({interval}){of}</span>{_interval_plot(metric, extent)}'


def _unbroken(text: str) -> str:
    return text.replace(" ", "\u00a0")


def _extent(metrics: Sequence[MetricComparison]) -> float:
    """Return the end of the axis of interval plots, in margins: equal margins make rows comparable."""
    ends = [
        abs(_in_margins(end, metric.margin))
        for metric in metrics
        for end in (metric.low, metric.high, metric.change)
        if end is not None
    ]
    return min(max([_MIN_EXTENT, *(end * 1.1 for end in ends)]), _MAX_EXTENT)


def _in_margins(change: float, margin: float) -> float:
    """Return a change in units of the margin, on a logarithmic scale: half and double are equally far."""
    return math.log1p(max(change, -1 + 1e-12)) / math.log1p(margin)


def _interval_plot(metric: MetricComparison, extent: float) -> str:
    def x(change: float) -> float:
        place = min(max(_in_margins(change, metric.margin), -extent), extent)
        return round(_PLOT_WIDTH / 2 + place / extent * (_PLOT_WIDTH / 2 - 8), 1)

    low, high, estimate = metric.low or 0.0, metric.high or 0.0, metric.change or 0.0
    left, right, upper = x(low), x(high), x(metric.margin)
    lower = _PLOT_WIDTH - upper
    middle = _PLOT_HEIGHT / 2
    arrows = ""
    if abs(_in_margins(low, metric.margin)) > extent and low < 0:
        arrows += f'<path class="arrow" d="M1 {middle:g}l8-5v10z"/>'
    if abs(_in_margins(high, metric.margin)) > extent and high > 0:
        arrows += f'<path class="arrow" d="M{_PLOT_WIDTH - 1} {middle:g}l-8-5v10z"/>'
    edges = "".join(
        f'<path class="edge" d="M{place:g} 0V{_PLOT_HEIGHT}"/>' for place in (round(lower, 1), upper)
    )
    return (
        f'<svg class="plot {_css(metric.verdict)}" width="{_PLOT_WIDTH}" height="{_PLOT_HEIGHT}"'
        f' viewBox="0 0 {_PLOT_WIDTH} {_PLOT_HEIGHT}" aria-hidden="true">'
        f'<path class="band" d="M{lower:g} 0H{upper:g}V{_PLOT_HEIGHT}H{lower:g}Z"/>{edges}'
        f'<path class="zero" d="M{_PLOT_WIDTH / 2:g} 0V{_PLOT_HEIGHT}"/>'
        f'<path class="span" d="M{left:g} {middle:g}H{right:g}M{left:g} 6v10M{right:g} 6v10"/>{arrows}'
        f'<circle class="dot" cx="{x(estimate):g}" cy="{middle:g}" r="4.5"/></svg>'
    )


# -- data of the charts ------------------------------------------------------------------------------------


def _is_changed(metric: MetricComparison) -> bool:
    return metric.verdict in (Verdict.REGRESSION, Verdict.IMPROVEMENT, Verdict.CHANGED)


def _stem(key: str) -> str | None:
    """Return the key of the distribution behind a metric, or ``None``."""
    if key == "throughput" or key.startswith("latency."):
        return "latency"
    stem, slash, statistic = key.rpartition("/")
    return stem if slash and statistic in STATISTICS and statistic != "count" else None


def _merge(runs: Iterable[ComparedRun], stem: str) -> Distribution | None:
    """Return the samples of all runs; ``None`` without samples above 0, which a logarithmic axis needs."""
    merged: Distribution | None = None
    for one in runs:
        found = one.distributions.get(stem)
        if found is not None and found.count:
            merged = found if merged is None else merged.merge(found)
    return None if merged is None or merged.quantiles(0.5)[0] <= 0 else merged


def _is_of(run: Run, benchmark: str | None) -> bool:
    return benchmark is None or run.tags.get(LATENCY_TAG) == benchmark


def _of_benchmark(runs: Iterable[ComparedRun], benchmark: str | None) -> list[ComparedRun]:
    return [one for one in runs if _is_of(one.run, benchmark)]


def _by_date(runs: Iterable[ComparedRun]) -> list[MeasuredRun]:
    return [(one.run, one.values) for one in sorted(runs, key=lambda one: one.run.date)]


def _without_current(history: Sequence[MeasuredRun], current: Sequence[ComparedRun]) -> list[MeasuredRun]:
    ids = {one.run.run_id for one in current if one.run.run_id is not None}
    return [(run, values) for run, values in history if run.run_id not in ids]


def _points(runs: Iterable[tuple[Run, Mapping[str, float], str]], key: str) -> list[HistoryPoint]:
    """Return the mean of each job, in the order of their first runs."""
    jobs: dict[object, list[tuple[Run, float, str]]] = {}
    for number, (run, values, group) in enumerate(runs):
        if key in values:
            job = run.tags.get(JOB_TAG, number)
            jobs.setdefault((job, run.commit, group), []).append((run, values[key], group))
    return [
        HistoryPoint(
            math.fsum(value for _, value, _ in found) / len(found),
            found[0][0].date,
            _short_commit(found[0][0].commit),
            found[0][2],
        )
        for found in jobs.values()
    ]


def _short_commit(commit: str | None) -> str:
    if commit is not None and re.fullmatch("[0-9a-f]{10,64}", commit):
        return commit[:10]
    return plain(commit or "no commit", 16)


def _levels(points: Sequence[HistoryPoint]) -> tuple[list[Level], str]:
    """Return the levels of a history, and a sentence to show if they are one level."""
    if len(points) < MIN_VALUES:
        return [], f"Shifts are not marked: the search needs {MIN_VALUES} jobs."
    if any(point.value <= 0 for point in points):
        return [], "Shifts are not marked: the search needs values above 0."
    return find_levels([point.value for point in points]), "No shift before the current runs."


# -- the context -------------------------------------------------------------------------------------------


def _branches(runs: Sequence[ComparedRun]) -> list[str]:
    return [name for name, _ in Counter(one.run.branch for one in runs if one.run.branch).most_common()]


def _side(name: str, runs: Sequence[ComparedRun]) -> str:
    branches = _branches(runs)
    if not branches:
        return format_count(len(runs), f"{name} run")
    more = f" and {len(branches) - 1} more" if len(branches) > 1 else ""
    return f"{format_count(len(runs), 'run')} of {_bdi(branches[0])}{more}"


def _list(values: Iterable[str | None], most: int = 120) -> str:
    found = Counter(value for value in values if value).most_common()
    if not found:
        return "unknown"
    shown = ", ".join(f"<code>{_bdi(value, most)}</code>" for value, _ in found[:MAX_LISTED])
    return shown if len(found) <= MAX_LISTED else f"{shown} and {len(found) - MAX_LISTED} more"


def _samples(runs: Sequence[ComparedRun]) -> str:
    number = sum(one.distributions["latency"].count for one in runs if "latency" in one.distributions)
    return f"{number:,} of the latency" if number else "unknown: the snapshots have no sidecars"


def _dates(runs: Sequence[ComparedRun]) -> str:
    dates = sorted(one.run.timestamp for one in runs)
    if not dates:
        return "never"
    first, last = f"{dates[0]:%Y-%m-%d %H:%M}", f"{dates[-1]:%Y-%m-%d %H:%M}"
    return f"{first} UTC" if first == last else f"{first} to {last} UTC"


_CONTEXT = (
    ("Runs", lambda runs: f"{len(runs):,}"),
    ("Jobs", lambda runs: f"{number_of_jobs(runs):,}"),
    ("Samples", _samples),
    ("Commits", lambda runs: _list(_short_commit(one.run.commit) for one in runs if one.run.commit)),
    ("Branches", lambda runs: _list(one.run.branch for one in runs)),
    ("Environments", lambda runs: _list(one.run.environment.value for one in runs)),
    ("Machines", lambda runs: _list(one.run.tags.get(MACHINE_TAG) for one in runs)),
    ("Measured", _dates),
)
