"""Draws `docs/images/telemetry.svg` from the events of a run on a GPU.

``python docs/make_telemetry_picture.py``. The run is the file of a test, which `TelemetryLog` wrote.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from metrics_framework.telemetry import ProjectedTelemetryRecord, read_projected_telemetry

ROOT = Path(__file__).parent.parent
RUN = ROOT / "tests" / "metrics_framework" / "telemetry" / "data" / "gpu_h100_run.jsonl"
PICTURE = ROOT / "docs" / "images" / "telemetry.svg"

PANELS = (
    ("memory.device.used_bytes", "Device memory, GB", 1e-9, 5),
    ("gpu.utilization", "Utilization, %", 100, 50),
    ("gpu.power_watts", "Power, W", 1, 200),
)
"""An attribute of the events, the title of its panel, a factor, and the step of the vertical axis."""

WIDTH, LEFT, RIGHT, TOP, PANEL, GAP = 880, 56, 24, 84, 104, 36
STYLE = (
    "svg{font-family:system-ui,sans-serif}.page{fill:#fff;stroke:#d0d7de}.title{font-size:17px;font-weight:600}"
    "text{fill:#1f2328;font-size:12px}.note,.tick{fill:#59636e}.tick{text-anchor:end}.second{text-anchor:middle}"
    ".grid{stroke:#d0d7de}.series{fill:none;stroke:#0969da;stroke-width:2}"
    "@media(prefers-color-scheme:dark){.page{fill:#0d1117;stroke:#3d444d}text{fill:#f0f6fc}"
    ".note,.tick{fill:#9198a1}.grid{stroke:#3d444d}.series{stroke:#58a6ff}}"
)


def main() -> None:
    """Read the run and write the picture."""
    records = [record for record in read_projected_telemetry(RUN) if record.source_kind == "cuda"]
    PICTURE.write_text(draw(records))


def draw(records: Sequence[ProjectedTelemetryRecord]) -> str:
    """Return an SVG with a panel for each measurement, which follows the reader's light or dark mode."""
    begin = records[0].timestamp_ns
    seconds = [(record.timestamp_ns - begin) / 1e9 for record in records]
    scale = (WIDTH - LEFT - RIGHT) / max(seconds)
    body: list[str] = []
    for number, (attribute, title, factor, step) in enumerate(PANELS):
        values = [record.attributes[attribute] * factor for record in records]
        highest = -(-max(values) // step) * step
        bottom = TOP + number * (PANEL + GAP) + PANEL
        body.append(_text(LEFT, bottom - PANEL - 10, title, ""))
        for tick in range(0, int(highest) + 1, step):
            y = bottom - PANEL * tick / highest
            body.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
            body.append(_text(LEFT - 8, y + 4, str(tick), "tick"))
        points = [
            f"{LEFT + second * scale:.1f},{bottom - PANEL * value / highest:.1f}"
            for second, value in zip(seconds, values, strict=True)
        ]
        body.append(f'<polyline class="series" points="{" ".join(points)}"/>')
    height = TOP + len(PANELS) * (PANEL + GAP)
    body += [
        _text(LEFT + second * scale, height - 14, f"{second} s", "note second")
        for second in range(0, int(max(seconds)) + 1, 5)
    ]
    name = records[0].attributes["gpu.name"]
    described = f"Device memory, utilization and power of {name} over {max(seconds):.0f} seconds."
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-labelledby="heading all">',
            '<title id="heading">A run on a GPU</title>',
            f'<desc id="all">{escape(described)}</desc>',
            f"<style>{STYLE}</style>",
            f'<rect class="page" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8"/>',
            _text(20, 30, "A run on a GPU", "title"),
            _text(20, 50, f"{name}, {len(records)} events of GpuMonitor, written by TelemetryLog", "note"),
            *body,
            "</svg>\n",
        ]
    )


def _text(x: float, y: float, text: str, classes: str) -> str:
    return f'<text class="{classes}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


if __name__ == "__main__":
    main()
