"""A real browser opens the report: both themes, a phone, hostile names, and the keyboard."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("click")
pytest.importorskip("scipy")
pytest.importorskip("vl_convert")
playwright = pytest.importorskip("playwright.sync_api")

from click.testing import CliRunner  # noqa: E402

from metrics_framework.cli.app import app  # noqa: E402
from tests.metrics_framework.report.sample_runs import HOSTILE, write_history, write_run  # noqa: E402

pytestmark = pytest.mark.heavy

PHONE = {"width": 375, "height": 740}
TABLET = {"width": 900, "height": 900}
DESKTOP = {"width": 1200, "height": 900}

CONTRAST = """() => {
  const channel = value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const luminance = color => {
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map(value => channel(value / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const background = element => {
    const color = getComputedStyle(element).backgroundColor;
    return color === "rgba(0, 0, 0, 0)" && element.parentElement ? background(element.parentElement) : color;
  };
  const texts = [...document.querySelectorAll("body *")].filter(element =>
    [...element.childNodes].some(node => node.nodeType === Node.TEXT_NODE && node.data.trim()));
  return texts.map(element => {
    const style = getComputedStyle(element);
    const ink = element instanceof SVGElement ? style.fill : style.color;
    const [low, high] = [luminance(ink), luminance(background(element))].sort((a, b) => a - b);
    return [(high + 0.05) / (low + 0.05), element.textContent.trim().slice(0, 40)];
  });
}"""
"""The contrast of each text with its background, as WCAG 2 defines it."""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a report on a regression, in which every text from a file is hostile."""
    folder = tmp_path_factory.mktemp("report")
    write_history(folder / "history", benchmark=HOSTILE, hostile=True)
    for number in range(30, 35):
        write_run(
            folder / "new", number, factor=1.3, branch=f"{HOSTILE} topic", benchmark=HOSTILE, hostile=True
        )
    arguments = [
        "report",
        "--history",
        folder / "history",
        "--last",
        10,
        folder / "new",
        "-o",
        folder / "r.html",
    ]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return folder / "r.html"


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    """Return a browser. It is closed at the end."""
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(params=["light", "dark", "phone", "tablet", "without JavaScript"])
def page(request: pytest.FixtureRequest, browser: Any, report: Path) -> Iterator[Any]:
    """Return the report in a browser. At the end, the browser has reported nothing and requested nothing."""
    context = browser.new_context(
        viewport={"phone": PHONE, "tablet": TABLET}.get(request.param, DESKTOP),
        color_scheme="dark" if request.param == "dark" else "light",
        java_script_enabled=request.param != "without JavaScript",
    )
    opened = context.new_page()
    reported: list[str] = []
    requested: list[str] = []
    opened.on("console", lambda message: reported.append(message.text))
    opened.on("pageerror", lambda error: reported.append(str(error)))
    opened.on("dialog", lambda dialog: (reported.append(dialog.message), dialog.dismiss()))
    opened.on("request", lambda sent: requested.append(sent.url))
    opened.goto(report.as_uri())
    yield opened
    context.close()
    assert reported == []
    assert [url for url in requested if not url.startswith("data:")] == [report.as_uri()]


def test_nothing_is_wider_than_the_window(page: Any) -> None:
    """The page does not scroll sideways, on a phone of 375 px or elsewhere, with all details open."""
    for summary in page.locator("summary").all():
        summary.click()
    for element in ("html", "main", "figure", "table", "h1"):
        for box in page.locator(element).all():
            measured = box.bounding_box()
            assert measured["x"] >= 0
            assert measured["x"] + measured["width"] <= page.viewport_size["width"]
    widths = page.locator("html").evaluate("html => [html.scrollWidth, html.clientWidth]")
    assert widths[0] <= widths[1]


def test_hostile_texts_are_shown_as_text(page: Any) -> None:
    """A name with markup, scripts and bidirectional marks is text, and adds no element to the page."""
    assert page.locator("script, img, iframe, object, embed, form, b, a").count() == 0
    assert page.locator("[onerror], [onclick], [onload]").count() == 0
    text = page.locator("main").inner_text()
    assert "<script>alert(1)</script>" in text
    assert "<img src=x onerror=alert(2)>" in text
    assert "\\u202e" in text
    assert "\u202e" not in text


def test_details_open_by_keyboard(page: Any) -> None:
    """Tab reaches the details of other metrics, and Enter opens and closes them."""
    details = page.locator("details").first
    assert details.get_attribute("open") is None
    page.keyboard.press("Tab")
    assert page.locator("summary:focus").count() == 1
    page.keyboard.press("Enter")
    assert details.get_attribute("open") is not None
    assert details.locator("tbody tr").first.is_visible()
    page.keyboard.press("Enter")
    assert details.get_attribute("open") is None


@pytest.mark.parametrize("page", ["light", "dark", "phone"], indirect=True)
def test_texts_have_enough_contrast(page: Any) -> None:
    """Every text, also in charts, has the contrast of WCAG AA with its background: 4.5."""
    measured = page.evaluate(CONTRAST)
    assert len(measured) > 100
    assert [one for one in measured if one[0] < 4.5] == []


@pytest.mark.parametrize("page", ["light"], indirect=True)
def test_charts_have_a_text_alternative(page: Any) -> None:
    """Each chart is an image with a label, and its figure has a caption."""
    figures = page.locator("figure")
    assert figures.count() >= 4
    for figure in figures.all():
        assert figure.get_by_role("img").get_attribute("aria-label")
        assert figure.locator("figcaption").inner_text()
    snapshot = json.dumps(page.locator("main").aria_snapshot())
    for role in ("rowheader", "columnheader", "table", "img"):
        assert role in snapshot


@pytest.mark.parametrize("page", ["light", "dark"], indirect=True)
def test_charts_follow_the_theme(page: Any) -> None:
    """The colors of a chart are those of the theme, and both sides differ in more than color."""
    fills = page.locator("figure [role=img] text").first.evaluate("text => getComputedStyle(text).fill")
    theme = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    brightness = sum(int(part) for part in fills.removeprefix("rgb(").removesuffix(")").split(",")) / 3
    assert (brightness > 128) is theme
    outlines = page.locator("figure [role=img] path[fill-opacity]")
    dashes = {outline.get_attribute("stroke-dasharray") for outline in outlines.all()}
    assert dashes == {"5,3", "1,0"}
