"""The drawing of the architecture shows the imports as they are."""

from __future__ import annotations

import re
import runpy
import tomllib
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "docs" / "make_architecture_picture.py"

pytestmark = pytest.mark.skipif(
    not (SCRIPT.exists() and (ROOT / "metrics_framework").is_dir()), reason="only the wheel is tested"
)

SVG = "{http://www.w3.org/2000/svg}"
PACKAGES = ("metrics_framework", "metrics_adapters")
UNNAMED = {"metrics_framework.__main__", "metrics_framework._version"}


class DrawnBox(NamedTuple):
    """The modules of a box, and its edges."""

    modules: tuple[str, ...]
    left: float
    top: float
    right: float
    bottom: float


class DrawnArrow(NamedTuple):
    """A vertical arrow: its boxes and its ends."""

    start: tuple[str, ...]
    end: tuple[str, ...]
    x: float
    top: float
    bottom: float


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    """Return the names of the script that draws."""
    return runpy.run_path(str(SCRIPT))


@pytest.fixture(scope="module")
def imports(script) -> set[tuple[str, str]]:
    """Return the imports between the direct children of the two packages."""
    pairs = {(script["top_level"](a), script["top_level"](b)) for a, b in script["imports"]() if "." in a}
    return {(a, b) for a, b in pairs if a != b and b.startswith(tuple(f"{each}." for each in PACKAGES))}


@pytest.fixture(scope="module")
def drawing() -> tuple[list[DrawnBox], list[DrawnArrow]]:
    """Read the boxes and the arrows from the picture in the repository."""
    root = ET.parse(ROOT / "docs" / "images" / "architecture.svg").getroot()
    boxes = []
    for group in root.iter(f"{SVG}g"):
        rect = group.find(f"{SVG}rect")
        assert rect is not None
        x, y, width, height = (float(rect.attrib[name]) for name in ("x", "y", "width", "height"))
        boxes.append(DrawnBox(tuple(group.attrib["data-modules"].split()), x, y, x + width, y + height))
    arrows = []
    for path in root.iter(f"{SVG}path"):
        if "data-from" in path.attrib:
            start, end = (tuple(path.attrib[name].split()) for name in ("data-from", "data-to"))
            x, top, bottom = map(float, re.findall(r"[\d.]+", path.attrib["d"]))
            arrows.append(DrawnArrow(start, end, x, top, bottom))
    return boxes, arrows


def test_the_drawing_is_up_to_date(script):
    """The picture in the repository is what the script draws from the imports of today."""
    assert script["PICTURE"].read_text("utf-8") == script["draw"](*script["read_graph"]()), (
        "an import, a package or an extra has changed: run `python docs/make_architecture_picture.py`"
    )


def test_every_extra_is_known(script):
    """The extras of the drawing are those of the project."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert {*script["EXTRAS"], "all"} == {*project["optional-dependencies"]}


def test_every_package_has_one_box(drawing):
    """Each module and package below the two packages is named once, and nothing else is."""
    named = [module for box in drawing[0] for module in box.modules]
    existing = {
        f"{folder.name}.{path.stem}"
        for folder in (ROOT / PACKAGES[0], ROOT / "adapters" / PACKAGES[1])
        for path in folder.iterdir()
        if (path.suffix == ".py" and path.stem != "__init__") or (path / "__init__.py").exists()
    }
    assert sorted(named) == sorted(existing - UNNAMED), (
        "a package is new or gone: change BOXES of docs/make_architecture_picture.py, and run it"
    )


def test_every_arrow_is_an_import(drawing, imports):
    """For each arrow, a module of the first box imports a module of the second."""
    without_import = [
        (arrow.start, arrow.end)
        for arrow in drawing[1]
        if not any((a, b) in imports for a in arrow.start for b in arrow.end)
    ]
    assert drawing[1]
    assert without_import == []


def test_every_import_is_drawn_or_follows(drawing, imports):
    """An import leads along the arrows, to the right in its box, or from an adapter to the core."""
    boxes, arrows = drawing
    box_of = {module: box.modules for box in boxes for module in box.modules}

    def leads_to(start: tuple[str, ...], end: tuple[str, ...]) -> bool:
        return start == end or any(leads_to(arrow.end, end) for arrow in arrows if arrow.start == start)

    def is_shown(importer: str, imported: str) -> bool:
        start, end = box_of[importer], box_of[imported]
        if start == end:
            return start.index(importer) < start.index(imported)
        if importer.partition(".")[0] != imported.partition(".")[0]:
            return importer.startswith("metrics_adapters.")
        return leads_to(start, end)

    shown = {pair for pair in imports if not {*pair} & UNNAMED}
    assert len(shown) > 100
    assert [pair for pair in sorted(shown) if not is_shown(*pair)] == []


def test_arrows_lead_from_box_to_box(drawing):
    """Each arrow points down, begins and ends at its boxes, and crosses no other."""
    boxes, arrows = drawing
    by_modules = {box.modules: box for box in boxes}
    for arrow in arrows:
        start, end = by_modules[arrow.start], by_modules[arrow.end]
        assert arrow.top == start.bottom
        assert 0 < end.top - arrow.bottom < 10  # for the arrowhead
        for box in boxes:
            is_beside = not box.left < arrow.x < box.right
            assert is_beside == (box not in (start, end)) or box.bottom <= arrow.top or end.bottom <= box.top


@pytest.mark.parametrize(
    ("importer", "imported", "message"),
    [
        ("batch", "health", "the arrow from batch to health cannot lead straight down: move a box"),
        (
            "system",
            "recording",
            "the arrow from system to recording would cross streams and exposition: move",
        ),
        ("recording", "health", "the arrow from recording to health cannot lead straight down: move a box"),
    ],
)
def test_an_arrow_that_does_not_fit_is_an_error(script, importer, imported, message):
    """A new import that the layout has no room for is reported with what to do."""
    graph: dict[str, set[str]] = {box.title: set() for box in script["BOXES"]}
    graph[importer] = {imported}
    with pytest.raises(ValueError, match=message):
        script["draw"](graph, {box: set() for box in graph})
