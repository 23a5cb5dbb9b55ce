"""The figures in the README and the documentation are those of the last run of the benchmarks."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.servers.fixtures import required

pages = pytest.importorskip("benchmarks.pages", reason="the wheel does not contain the benchmarks")

from benchmarks import bucket_accuracy  # noqa: E402
from benchmarks.__main__ import BENCHMARKS, ON_REQUEST  # noqa: E402
from benchmarks.plot import MEASURED, PICTURE, draw  # noqa: E402

QUOTED = {"scraping": "| 7777.7 (1.000) |", "summary": "| 7 778 ms |", "faster": "| 7777.7 ms |"}
"""Table to the cell that it has if a result of the benchmark `scraping` is 7777.7."""


def blocks(page: Path) -> list[str]:
    """Return the names of the generated tables of a page."""
    return [block[1] for block in pages.BLOCK.finditer(page.read_text("utf-8"))]


@pytest.mark.parametrize("page", [page for page in pages.PAGES if blocks(page)], ids=lambda page: page.name)
def test_the_tables_are_those_of_the_results(page):
    """Writing the tables of a page again changes nothing."""
    assert pages.filled(page.read_text("utf-8")) == page.read_text("utf-8"), (
        "run `python -m benchmarks.pages`"
    )


def test_every_result_is_shown_once():
    """Each benchmark and each table that quotes others has one place, but the source of another table."""
    shown = sorted(name for page in pages.PAGES for name in blocks(page))
    assert shown == sorted({*BENCHMARKS, *pages.DERIVED} - {"verdicts-real"})
    assert {path.stem for path in pages.RESULTS.iterdir()} == {*BENCHMARKS} - {"recording"}
    assert {*BENCHMARKS} > ON_REQUEST


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.name)
def test_no_table_of_numbers_is_typed_by_hand(page):
    """Tables with columns of numbers, which are aligned to the right, are generated."""
    assert re.findall(r"^.*---:.*$", pages.BLOCK.sub("", page.read_text("utf-8")), re.MULTILINE) == []


@pytest.mark.parametrize(
    ("page", "phrase"), [(page, phrase) for page, phrases in pages.quotations().items() for phrase in phrases]
)
def test_a_sentence_quotes_the_results(page, phrase):
    """A sentence with figures has those of the results."""
    assert phrase in " ".join((pages.ROOT / page).read_text("utf-8").split())


def test_a_new_result_reaches_every_table_that_quotes_it(tmp_path, monkeypatch):
    """After a run, the page of the benchmark and the pages that quote it show the new figure."""
    report, before = pages.load("scraping"), pages.SCRAPE.figures()[pages.BASE].text
    changed = json.loads(json.dumps(report.to_data()).replace(f"{before} (1.000)", "7777.7 (1.000)"))
    monkeypatch.setattr(pages, "RESULTS", shutil.copytree(pages.RESULTS, tmp_path / "results"))
    pages.save("scraping", report.from_data(changed))
    try:
        shown = {name: pages.filled(f"<!-- measured: {name} -->\n\n\n<!-- end -->\n") for name in QUOTED}
    finally:
        pages.load.cache_clear()
    assert {name for name, figure in QUOTED.items() if figure not in shown[name]} == set()


def test_the_picture_is_drawn_from_the_numbers():
    """The picture of the recording benchmark has the numbers of the table."""
    assert PICTURE.read_text("utf-8") == draw(json.loads(MEASURED.read_text("utf-8")))


@pytest.mark.heavy
def test_the_accuracy_of_buckets_can_be_measured_again():
    """Prometheus returns exactly the quantiles that the table shows."""
    required("prometheus")
    assert bucket_accuracy.main().to_data() == pages.load("bucket-accuracy").to_data()
