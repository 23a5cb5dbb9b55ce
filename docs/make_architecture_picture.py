"""Draws `docs/images/architecture.svg`: the packages, and which of them import which.

``python docs/make_architecture_picture.py`` reads the imports of the source files. It draws an arrow only for
an import that does not follow from other arrows. Imports that a contract of import-linter ignores, such as
those for type checkers only, are left out. The places of the boxes are in `BOXES`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from html import escape
from pathlib import Path
from typing import NamedTuple

import grimp

ROOT = Path(__file__).parent.parent
PICTURE = ROOT / "docs" / "images" / "architecture.svg"

CORE, ADAPTERS = "metrics_framework", "metrics_adapters"

EXTRAS = {
    "cli": ("click", "rich"),
    "web": ("uvicorn",),
    "compare": ("scipy", "ruptures", "vl_convert"),
    "otlp": ("opentelemetry",),
    "grafana": ("grafana_foundation_sdk",),
    "gpu": ("pynvml",),
    "testing": ("pytest", "hypothesis"),
}
"""The extras, and the packages that they install."""


class Box(NamedTuple):
    """A box of the drawing.

    Attributes:
        package: The package of its modules.
        modules: The modules that it shows. If there are several, each may import those after it.
        row: Its row in the panel of the package.
        left: Its first column.
        right: Its last column.
        note: What is in it.
        hidden: Modules that belong to it and are not named.
    """

    package: str
    modules: tuple[str, ...]
    row: int
    left: int
    right: int
    note: str = ""
    hidden: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The names of the modules."""
        return " · ".join(self.modules)


BOXES = (
    Box(ADAPTERS, ("asgi",), 0, 0, 1, "public names of the two below"),
    Box(ADAPTERS, ("instrumentation",), 1, 0, 1, "middleware, httpx, tasks"),
    Box(ADAPTERS, ("http",), 2, 0, 3, "server, ASGI, SSE, the page's endpoint"),
    Box(ADAPTERS, ("prometheus",), 3, 0, 1, "registry, push, textfile"),
    Box(ADAPTERS, ("page",), 3, 2, 3, "live page: files, login, charts"),
    Box(ADAPTERS, ("snapshot_writer",), 4, 2, 3, "snapshot files and their history"),
    Box(ADAPTERS, ("null",), 3, 5, 5, "discards"),
    Box(ADAPTERS, ("fan_out",), 3, 6, 6, "to several"),
    Box(ADAPTERS, ("resources",), 3, 7, 7, "psutil, cgroups"),
    Box(ADAPTERS, ("gpu",), 3, 8, 8),
    Box(ADAPTERS, ("in_memory",), 5, 1, 2, "collector, timer, tracker, …"),
    Box(ADAPTERS, ("combined",), 5, 3, 3, "of several"),
    Box(ADAPTERS, ("grafana",), 5, 4, 4),
    Box(ADAPTERS, ("otlp",), 5, 5, 5),
    Box(ADAPTERS, ("webhook", "influx", "graphite", "statsd"), 5, 6, 8, "endpoints"),
    Box(ADAPTERS, ("file", "http_client", "line_protocols", "ranking"), 6, 0, 8, "used by several adapters"),
    Box(CORE, ("cli",), 0, 0, 3, hidden=("__main__",)),
    Box(CORE, ("testing",), 0, 4, 5),
    Box(CORE, ("context",), 0, 6, 8, "current(), use()"),
    Box(CORE, ("system",), 1, 3, 8, "MetricsSystem, the facade"),
    Box(CORE, ("config",), 2, 3, 3, "table of keys"),
    Box(CORE, ("streams",), 2, 5, 5, "every record"),
    Box(CORE, ("measure",), 2, 6, 6, "measure()"),
    Box(CORE, ("export",), 3, 3, 3, "all outputs"),
    Box(CORE, ("report",), 3, 2, 2),
    Box(CORE, ("callbacks",), 3, 8, 8, "of gauges"),
    Box(CORE, ("batch",), 4, 0, 0),
    Box(CORE, ("telemetry",), 4, 1, 1, "GPU events"),
    Box(CORE, ("snapshots",), 4, 2, 3, "v1, comparison"),
    Box(CORE, ("dashboard",), 4, 4, 4, "plain data"),
    Box(CORE, ("health",), 5, 3, 4, "is this process healthy?"),
    Box(CORE, ("exposition",), 5, 5, 5, "text formats"),
    Box(CORE, ("processes",), 5, 7, 7, "several workers"),
    Box(CORE, ("recording",), 6, 0, 7, "the store, its series and windows, and the two engines"),
    Box(
        CORE,
        (
            *("plugins", "capabilities", "protocols", "runtime", "log"),
            *("error_types", "validation", "values", "clock", "errors"),
        ),
        7,
        0,
        8,
        "everything above may import all of them",
        ("_version",),
    ),
)

Graph = Mapping[str, set[str]]
"""The title of a box to the titles of the boxes that it imports."""


def box_of() -> dict[str, Box]:
    """Return the box of each module, by its dotted name."""
    return {f"{box.package}.{name}": box for box in BOXES for name in (*box.modules, *box.hidden)}


def imports() -> Iterator[tuple[str, str]]:
    """Yield each import of a module of the library: importer and imported, by their dotted names.

    Imports that a contract of import-linter ignores are left out.
    """
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    ignored = [
        pair.split(" -> ")
        for contract in contracts
        if contract["id"] in ("layers", "circles")
        for pair in contract.get("ignore_imports", ())
    ]
    graph = grimp.build_graph(CORE, ADAPTERS, include_external_packages=True, cache_dir=None)
    for importer in sorted(graph.modules):
        for imported in sorted(graph.find_modules_directly_imported_by(importer)):
            if not any(fnmatchcase(importer, a) and fnmatchcase(imported, b) for a, b in ignored):
                yield importer, imported


def top_level(module: str) -> str:
    """Return the package directly below `metrics_framework` or `metrics_adapters` that has a module."""
    return ".".join(module.split(".")[:2])


def read_graph() -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Return the imports between the boxes of one panel, and the extras that each box imports."""
    places = box_of()
    graph: dict[str, set[str]] = {box.title: set() for box in BOXES}
    extras: dict[str, set[str]] = {box.title: set() for box in BOXES}
    for importer, imported in imports():
        if importer in (CORE, ADAPTERS) or "." not in importer:
            continue  # the package itself exports names of its modules
        box = places.get(top_level(importer))
        if box is None:
            raise ValueError(f"{top_level(importer)} has no box: add it to BOXES of {Path(__file__).name}")
        extras[box.title] |= {extra for extra, packages in EXTRAS.items() if imported in packages}
        other = places.get(top_level(imported))
        if other is not None and other is not box and other.package == box.package:
            graph[box.title].add(other.title)
    return graph, extras


def reachable(graph: Graph, start: str) -> set[str]:
    """Return all boxes that a box imports, directly or through others."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = graph[waiting.pop()] - found
        found |= new
        waiting += new
    return found


def arrows(graph: Graph) -> list[tuple[str, str]]:
    """Return the imports that do not follow from others."""
    return [
        (box, other)
        for box, others in graph.items()
        for other in sorted(others)
        if not any(other in reachable(graph, between) for between in others - {other})
    ]


WIDTH, COLUMN, SIDE, HEIGHT, GAP = 922, 98, 20, 40, 22
ROWS = {ADAPTERS: 7, CORE: 8}
TOPS = {ADAPTERS: 46, CORE: 550}
"""The top of the first row of each panel."""
LEGEND = (
    ("An arrow is an import. An import that follows from other arrows is not drawn.", "note start"),
    ("Several names in one box: each may import those to its right.", "note start"),
    ("Extra: optional dependencies that some of its modules use.", "extra start"),
)
STYLE = (
    "text{font:12px -apple-system,BlinkMacSystemFont,'Segoe UI','Noto Sans',Helvetica,Arial,sans-serif;"
    "fill:#1f2328;text-anchor:middle}.name,.panel{font-weight:600}"
    ".start{text-anchor:start}.note{font-size:10.5px;fill:#59636e}.extra{font-size:10.5px;fill:#9a6700}"
    ".page{fill:#fff;stroke:#d1d9e0}.area{fill:#f6f8fa;stroke:#d1d9e0}.box rect{fill:#fff;stroke:#0969da}"
    ".arrow{stroke:#59636e;stroke-width:1.2}.head{fill:#59636e}.down{stroke-width:3}"
    "@media(prefers-color-scheme:dark){text{fill:#f0f6fc}.note{fill:#9198a1}.extra{fill:#d29922}"
    ".page{fill:#0d1117;stroke:#3d444d}.area{fill:#151b23;stroke:#3d444d}"
    ".box rect{fill:#0d1117;stroke:#58a6ff}.arrow{stroke:#9198a1}.head{fill:#9198a1}}"
)


def draw(graph: Graph, extras: Mapping[str, set[str]]) -> str:
    """Return the drawing as an SVG that follows the reader's light or dark mode.

    Raises:
        ValueError: If an arrow cannot be drawn straight down from its box to the other, past all others.
    """
    named = {box.title: box for box in BOXES}
    drawn = [(named[box], named[other]) for box, other in arrows(graph)]
    height = _bottom(CORE) + 14
    middle, below, above = WIDTH / 2, _bottom(ADAPTERS), TOPS[CORE] - 32
    legend = enumerate(LEGEND)
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-labelledby="heading all">',
            '<title id="heading">The packages of metrics-framework and their imports</title>',
            f'<desc id="all">{escape(_described(drawn, extras))}</desc>',
            f"<style>{STYLE}</style>",
            f'<rect class="page" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8"/>',
            *(_panel(package) for package in TOPS),
            *(_text(_left(2) + 26, TOPS[ADAPTERS] + 14 + 18 * at, *line) for at, line in legend),
            f'<path class="arrow down" d="M{middle:g} {below}V{above - 9}"/>',
            f'<path class="head" d="M{middle - 7:g} {above - 10}h14l-7 10z"/>',
            _text(
                middle + 16, (below + above) / 2 + 4, "adapters import the core, never the reverse", "start"
            ),
            *(_arrow(box, other) for box, other in drawn),
            *(_box(box, extras[box.title]) for box in BOXES),
            "</svg>\n",
        ]
    )


def _left(column: float) -> float:
    return SIDE + column * COLUMN


def _top(box: Box) -> int:
    return TOPS[box.package] + box.row * (HEIGHT + GAP)


def _bottom(package: str) -> int:
    return TOPS[package] + ROWS[package] * (HEIGHT + GAP) - GAP + 12


def _panel(package: str) -> str:
    top = TOPS[package] - 32
    area = (
        f'<rect class="area" x="14" y="{top}" width="{WIDTH - 28}" height="{_bottom(package) - top}" rx="6"/>'
    )
    return area + _text(_left(0) + 4, top + 20, package, "panel start")


def _box(box: Box, extras: set[str]) -> str:
    left, width, top = _left(box.left) + 4, (box.right - box.left + 1) * COLUMN - 8, _top(box)
    lines = [(box.title, "name")]
    if extras:
        note = f"{box.note}; extra " if box.note else "extra "
        lines.append((note + ", ".join(sorted(extras)), "extra"))
    elif box.note:
        lines.append((box.note, "note"))
    first = top + HEIGHT / 2 + (4 if len(lines) == 1 else -3)
    texts = [_text(left + width / 2, first + 15 * at, *line) for at, line in enumerate(lines)]
    rect = f'<rect x="{left}" y="{top}" width="{width}" height="{HEIGHT}" rx="5"/>'
    return f'<g class="box" data-modules="{" ".join(_modules(box))}">{rect}{"".join(texts)}</g>'


def _arrow(box: Box, other: Box) -> str:
    first, last = max(box.left, other.left), min(box.right, other.right)
    x = _left((first + last + 1) / 2)
    top, bottom = _top(box) + HEIGHT, _top(other)
    crossed = [
        each.title
        for each in BOXES
        if each.package == box.package
        and top < _top(each) < bottom
        and _left(each.left) < x < _left(each.right + 1)
    ]
    if first > last or top > bottom or crossed:
        fault = f"would cross {' and '.join(crossed)}" if crossed else "cannot lead straight down"
        raise ValueError(
            f"the arrow from {box.title} to {other.title} {fault}: "
            f"move a box in BOXES of {Path(__file__).name}"
        )
    ends = f'data-from="{" ".join(_modules(box))}" data-to="{" ".join(_modules(other))}"'
    line = f'<path class="arrow" {ends} d="M{x:g} {top}V{bottom - 6}"/>'
    return line + f'<path class="head" d="M{x - 4:g} {bottom - 7}h8l-4 7z"/>'


def _modules(box: Box) -> list[str]:
    return [f"{box.package}.{name}" for name in box.modules]


def _text(x: float, y: float, text: str, classes: str) -> str:
    return f'<text class="{classes}" x="{x:g}" y="{y:g}">{escape(text)}</text>'


def _described(drawn: list[tuple[Box, Box]], extras: Mapping[str, set[str]]) -> str:
    said = ["The adapters import the core."]
    for package in TOPS:
        for box in BOXES:
            others = [other.title for each, other in drawn if each is box and box.package == package]
            if others:
                said.append(f"{box.title} imports {', '.join(others)}.")
    said += [f"{box} uses the extra {', '.join(sorted(names))}." for box, names in extras.items() if names]
    return " ".join(said)


if __name__ == "__main__":
    PICTURE.write_text(draw(*read_graph()), "utf-8")
