"""The picture of the recording benchmark, drawn from the numbers of its last full run.

``python -m benchmarks.plot [NUMBERS PICTURE]`` draws it again.
"""

from __future__ import annotations

import json
import math
import sys
from html import escape
from pathlib import Path
from typing import Any

from benchmarks.peers import BASE, OURS, PEERS, PURE

PICTURE = Path(__file__).parent.parent / "docs" / "images" / "recording-benchmark.svg"
MEASURED = Path(__file__).with_name("recording.json")
"""The numbers of the last full run."""

ROWS = {
    "By name and tags": {
        "counter, one series": "counter, one series",
        "counter, 2 000 series": "counter, 2 000 series",
        "counter, 10 000 series": "counter, 10 000 series",
        "gauge, 2 000 series": "gauge, 2 000 series",
        "histogram, 2 000 series": "histogram, 2 000 series",
        "histogram, 10 000 series": "histogram, 10 000 series",
        "8 threads, 100 counters": "8 threads, 100 counters",
    },
    "Bound instruments": {
        "bound counter, add": "counter.add()",
        "bound gauge, set": "gauge.set(…)",
        "bound histogram, observe": "histogram.observe(…)",
        "bound timer, with time()": "with timer.time():",
    },
    "Timing by name": {
        "timer by id, start and stop": "start and stop by id",
        "measure": "with metrics.measure(…):",
    },
}
"""The rows of the table that are drawn, in groups, with their labels."""

LABELS = {OURS: "metrics-framework", PURE: "in pure Python"}
# Light and dark, each at least 3:1 against its background.
COLORS = {
    OURS: ("#0969da", "#58a6ff"),
    PURE: ("#0969da", "#58a6ff"),
    BASE: ("#bc4c00", "#f0883e"),
    "OpenTelemetry": ("#8250df", "#bc8cff"),
    "pyformance": ("#6e7781", "#9da7b1"),
    "aioprometheus": ("#1a7f37", "#3fb950"),
}
TICKS = (0.03, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)

WIDTH, LEFT, RIGHT = 880, 200, 220
NUMBERS_AT = (WIDTH - 140, WIDTH - 20)
"""The right edges of the columns with our times and prometheus_client's."""
TOP, ROW, GAP = 122, 25, 22


def draw(results: dict[str, Any]) -> str:
    """Return the picture as an SVG that follows the reader's light or dark mode."""
    times: dict[str, dict[str, float]] = results["times"]
    groups = {
        group: [title for title in rows if BASE in times.get(title, {})] for group, rows in ROWS.items()
    }
    groups = {group: titles for group, titles in groups.items() if titles}
    shown = [times[title] for titles in groups.values() for title in titles]
    ratios = [ns / row[BASE] for row in shown for ns in row.values()]
    low, high = min([0.05, *ratios]) / 1.5, max([2, *ratios]) * 1.3

    def x(ratio: float) -> float:
        share = math.log(ratio / low) / math.log(high / low)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    body: list[str] = []
    y = TOP
    for group, titles in groups.items():
        body.append(_text(20, y, group, "group"))
        y += GAP
        for title in titles:
            if y == TOP + GAP:
                body += _names({peer: x(ns / times[title][BASE]) for peer, ns in times[title].items()}, y)
            body += _row(ROWS[group][title], times[title], x, y)
            y += ROW
        y += GAP // 2
    bottom = y - ROW // 2
    grid = [
        _line(x(tick), x(tick), TOP, bottom, "base" if tick == 1 else "grid")
        + _text(x(tick), bottom + 17, f"{tick:g}×", "tick")
        for tick in TICKS
        if low <= tick <= high
    ]
    height = bottom + 32
    note = (
        "CPU time with all deferred work, relative to prometheus_client. The axis is logarithmic; "
        f"further left is faster. {results['python']}."
    )
    heading = [
        _text(20, 32, "Time of one record", "title"),
        _text(20, 52, note, "note"),
        _text(NUMBERS_AT[0], TOP, "ours, ns", f"number {_class(OURS)}"),
        _text(NUMBERS_AT[1], TOP, BASE, f"number {_class(BASE)}"),
    ]
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-labelledby="heading all">',
            '<title id="heading">Time of one record, beside other libraries</title>',
            f'<desc id="all">{escape(_described(times, groups))}</desc>',
            f"<style>{_style()}</style>",
            f'<rect class="page" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8"/>',
            *heading,
            *grid,
            *body,
            "</svg>\n",
        ]
    )


def _row(label: str, row: dict[str, float], x: Any, y: float) -> list[str]:
    base = row[BASE]
    places = {peer: x(ns / base) for peer, ns in row.items()}
    parts = [
        _text(LEFT - 16, y + 4, label, "label"),
        _line(min(places.values()), max(places.values()), y, y, "span"),
    ]
    # Ours last, so that they are on top.
    for peer in sorted(places, key=lambda peer: (peer in LABELS, peer == OURS)):
        radius = 6 if peer in LABELS else 4.5
        parts.append(f'<circle class="{_class(peer)}" cx="{places[peer]:.1f}" cy="{y}" r="{radius}"/>')
    if OURS in row:
        beside = min(place for place in places.values() if place > places[OURS] - 45)
        parts.append(_text(beside - 11, y + 4, f"{row[OURS] / base:.2f}", f"number {_class(OURS)}"))
        parts.append(_text(NUMBERS_AT[0], y + 4, _grouped(row[OURS]), f"number {_class(OURS)}"))
    parts.append(_text(NUMBERS_AT[1], y + 4, _grouped(base), f"number {_class(BASE)}"))
    return parts


def _names(places: dict[str, float], y: float) -> list[str]:
    """Return the libraries' names above their dots in the first row, on as many lines as they need."""
    ends: list[float] = []
    parts = []
    for peer, place in sorted(places.items(), key=lambda item: -item[1]):
        text = LABELS.get(peer, peer)
        half = len(text) * 3.5 + 4
        line = next((line for line, end in enumerate(ends) if place + half <= end), len(ends))
        ends[line : line + 1] = [place - half]
        top = y - 30 - 15 * line
        parts.append(_line(place, place, top + 4, y, f"lead {_class(peer)}"))
        parts.append(_text(place, top, text, f"name {_class(peer)}"))
    return parts


def _described(times: dict[str, dict[str, float]], groups: dict[str, list[str]]) -> str:
    said = []
    for group, titles in groups.items():
        for title in titles:
            row = times[title]
            ratios = ", ".join(f"{LABELS.get(peer, peer)} {ns / row[BASE]:.2f}" for peer, ns in row.items())
            said.append(f"{ROWS[group][title]}: {ratios}.")
    return "Times relative to prometheus_client. " + " ".join(said)


def _grouped(ns: float) -> str:
    return f"{ns:,.0f}".replace(",", "\u202f")


def _class(peer: str) -> str:
    return f"peer{list(PEERS).index(peer)}"


def _text(x: float, y: float, text: str, classes: str) -> str:
    return f'<text class="{classes}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _line(x1: float, x2: float, y1: float, y2: float, classes: str) -> str:
    return f'<line class="{classes}" x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}"/>'


def _style() -> str:
    rules = [
        "text{font:12px -apple-system,BlinkMacSystemFont,'Segoe UI','Noto Sans',Helvetica,Arial,sans-serif}",
        ".title{font-size:16px;font-weight:600}.group{font-weight:600}",
        ".label,.number{text-anchor:end}.tick,.name{text-anchor:middle}",
        ".number{font-variant-numeric:tabular-nums}.span,.lead{stroke-width:1}.lead{opacity:.5}",
        f"circle.{_class(PURE)}{{stroke-width:2}}.{_class(OURS)}{{font-weight:600}}",
    ]
    for index, (page, ink, faint, line) in enumerate(
        [("#ffffff", "#1f2328", "#59636e", "#d1d9e0"), ("#0d1117", "#f0f6fc", "#9198a1", "#3d444d")]
    ):
        mode = [f".page{{fill:{page};stroke:{line}}}text{{fill:{ink}}}.note,.tick{{fill:{faint}}}"]
        mode.append(f".name{{paint-order:stroke;stroke:{page};stroke-width:4px}}")
        mode.append(f".grid,.span{{stroke:{line}}}.grid{{opacity:.5}}.base{{stroke:{COLORS[BASE][index]}}}")
        mode += [
            f".{_class(peer)}{{fill:{colors[index]}}}.lead.{_class(peer)}{{stroke:{colors[index]}}}"
            for peer, colors in COLORS.items()
        ]
        mode.append(f"circle.{_class(PURE)}{{fill:{page};stroke:{COLORS[PURE][index]}}}")
        rules.append(
            "".join(mode) if index == 0 else f"@media (prefers-color-scheme: dark){{{''.join(mode)}}}"
        )
    return "".join(rules)


if __name__ == "__main__":
    source, target, *_ = [Path(each) for each in sys.argv[1:]] or [MEASURED, PICTURE]
    target.write_text(draw(json.loads(source.read_text())))
