"""The links of the documentation lead somewhere, and the files that it shows are the real ones."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from metrics_framework.telemetry import read_projected_telemetry

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(not (ROOT / "README.md").exists(), reason="only the wheel is tested")
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
CODE = re.compile(r"^ *(`{3,})[^\n]*\n.*?^ *\1`*$|(`+).+?\2", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(<?([^()\s>]+)>?\)")

SHOWN = {
    "prometheus-in-five-minutes.md": ["five_minutes/app.py", "five_minutes/prometheus.yml"],
    "continuous-integration.md": ["workflows/performance.yml"],
}
"""Page of ``docs`` to the files of ``examples`` that it shows."""

BUILT = {"index.md", "reference.md", "changelog.md", "contributing.md"}
"""Pages of the built site only: their text is in other files."""


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings of a page, as GitHub makes them."""
    text = re.sub(r"^ *(`{3,}).*?^ *\1`*$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE)
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}


def dead_links(page: Path) -> list[str]:
    """Return the relative links of a page whose file or heading does not exist."""
    dead = []
    for link in LINK.findall(CODE.sub("", page.read_text("utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    return dead


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_somewhere(page):
    """The file of each link exists, and so does the heading of its anchor."""
    assert dead_links(page) == []


def test_a_dead_link_is_found(tmp_path):
    """A missing file and a missing heading are found, in code neither."""
    page = tmp_path / "page.md"
    page.write_text(
        "# A `b` title!\n[a](#a-b-title) [b](page.md#gone) [c](gone.md) <https://x> [d](https://x)\n"
        "```md\n# gone\n[e](gone.md)\n```\n`[f](gone.md)` [the `g`](page.md)\n"
    )
    assert dead_links(page) == ["page.md#gone", "gone.md"]


def test_every_page_can_be_reached_from_the_readme():
    """Links lead from the README to each page; the sidebar of the site alone lists those of `BUILT`."""
    reached: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page.suffix == ".md" and page not in reached:
            reached.add(page)
            links = LINK.findall(CODE.sub("", page.read_text("utf-8")))
            paths = [link.partition("#")[0] for link in links if not re.match(r"[a-z]+:|#", link)]
            waiting += [(page.parent / path).resolve() for path in paths]
    assert {page.name for page in {*PAGES} - reached} == BUILT


@pytest.mark.parametrize(("page", "name"), [(page, name) for page, names in SHOWN.items() for name in names])
def test_a_page_shows_the_file_as_it_is(page, name):
    """A code block of the page is the whole file, so a reader copies what the tests run."""
    file = ROOT / "examples" / name
    language = {".py": "python", ".yml": "yaml"}[file.suffix]
    assert f"```{language}\n{file.read_text('utf-8')}```\n" in (ROOT / "docs" / page).read_text("utf-8")


def test_the_figures_of_the_comparison_are_measured():
    """Each figure on the page that compares libraries stands in a table of the benchmarks, with its ratio."""
    page = (ROOT / "docs" / "why.md").read_text("utf-8")
    compared = page[page.index("## Faster") : page.index("## What the others do better")]
    figures = re.findall(r"\b(\d[\d.]*) (?:ns|B|ms|MB|% of a core)(?: (\([\d.]+\)))?", compared)
    figures += [(ratio, "") for ratio in re.findall(r"\b(\d[\d.]*) of its time", compared)]
    tables = (ROOT / "docs" / "benchmarks.md").read_text("utf-8")
    wrong = [
        f"{value} {ratio}".strip()
        for value, ratio in figures
        if not re.search(rf"(\| |take |engine ){re.escape(f'{value} {ratio}'.strip())}( |\.\n)", tables)
    ]
    assert len(figures) > 40
    assert wrong == []


def test_the_picture_of_a_run_shows_its_data() -> None:
    """The picture of the telemetry page is drawn from the events of a test."""
    made = runpy.run_path(str(ROOT / "docs" / "make_telemetry_picture.py"))
    records = [record for record in read_projected_telemetry(made["RUN"]) if record.source_kind == "cuda"]
    assert made["PICTURE"].read_text() == made["draw"](records)
