"""The checks in `tools/` accept what they should and find what they should."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).parents[1] / "tools"

pytestmark = pytest.mark.skipif(not TOOLS.exists(), reason="only the wheel is tested")


def load(name: str) -> ModuleType:
    """Import a script of `tools/`."""
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_repeated_class_name_is_found(tmp_path):
    """A public class of the same name is found in any two modules, but no private or inner class."""
    (tmp_path / "a").mkdir()
    (tmp_path / "one.py").write_text("class Row: ...\nclass _Row: ...\nclass MetricsSystem: ...\n")
    (tmp_path / "a" / "two.py").write_text("if True:\n    class Row: ...\n")
    (tmp_path / "a" / "three.py").write_text("class _Row: ...\nclass Once:\n    class Row: ...\n")
    (tmp_path / "a" / "four.py").write_text("def f():\n    class Once: ...\nclass MetricsSystem: ...\n")
    found = load("check_class_names").find_repeated([str(tmp_path)])
    assert found == {"Row": [(tmp_path / name).as_posix() for name in ("a/two.py", "one.py")]}


@pytest.mark.parametrize(
    "message",
    [
        "otlp: retry after a time-out\n",
        "recording: keep sums exact\n\nFloat sums lost a bit per million records.\n# a comment\n",
        "http, prometheus: bring both endpoints together\n",
        "snapshots/v1: embed the schema\n",
        "tests: feed the parser one byte at a time\n",
        "Merge branch 'part'\n",
        'Revert "otlp: retry"\n',
        "fixup! otlp: retry\n",
    ],
)
def test_a_good_commit_message_passes(message):
    """The form is `scope: summary`; generated messages pass."""
    assert load("check_commit_message").find_faults(message) == []


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        ("", "is not of the form"),
        ("retry after a time-out", "is not of the form"),
        ("OTLP: retry", "is not of the form"),
        ("otlp:retry", "is not of the form"),
        ("otlp: retried after a time-out", "'retried' is not an imperative"),
        ("otlp: Adding retries", "'Adding' is not an imperative"),
        ("otlp: fixes retries", "'fixes' is not an imperative"),
        ("otlp: retry.", "ends with a period"),
        (f"otlp: {'x' * 66}", "has 72 characters"),
        ("otlp: retry\nbecause it failed", "the second line is not empty"),
    ],
)
def test_a_bad_commit_message_is_rejected(message, fault):
    """Each fault is named with its remedy."""
    faults = load("check_commit_message").find_faults(message)
    assert len(faults) == 1
    assert fault in faults[0]


SITE = {
    "index.html": '<a href="a%20b.html#one">1</a><link href="_static/look.css"><img src="data:image/png,">',
    "a b.html": '<h1 id="one">1</h1><a href="#one">1</a><a href="https://other.example/">2</a>',
    "_static/look.css": "",
}


@pytest.mark.parametrize(
    ("page", "fault"),
    [
        ('<a href="gone.html">1</a>', "index.html links to gone.html, which does not exist"),
        ('<img src="gone.png">', "index.html links to gone.png, which does not exist"),
        ('<a href="a b.html#two">1</a>', "index.html links to a b.html#two, which has no such anchor"),
        ('<a href="#two">1</a>', "index.html links to #two, which has no such anchor"),
        ('<script src="//cdn.example/x.js">', "index.html loads //cdn.example/x.js from another site"),
        ('<link href="https://cdn.example/x">', "index.html loads https://cdn.example/x from another site"),
        (None, "c.html cannot be reached from index.html"),
    ],
)
def test_a_fault_of_the_site_is_found(tmp_path, page, fault):
    """Dead links and anchors, parts of other sites and pages without a link are found, and no more."""
    (tmp_path / "_static").mkdir()
    for name, text in SITE.items():
        (tmp_path / name).write_text(text)
    assert list(load("check_site").find_faults(tmp_path)) == []
    if page is None:
        (tmp_path / "c.html").write_text(SITE["a b.html"] + '<a href="c.html">3</a>')
    else:
        (tmp_path / "index.html").write_text(SITE["index.html"] + page)
    assert list(load("check_site").find_faults(tmp_path)) == [fault]
