"""A real browser opens the live page of a busy service: numbers, tabs, themes, a phone, the keyboard, faults.

With `PAGE_SCREENSHOTS=FOLDER`, the tests write pictures of the page into a folder.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from metrics_adapters.asgi import serve_app
from metrics_adapters.http import dashboards
from metrics_adapters.page.vega import chart_library
from metrics_framework import MetricsSystem
from tests.metrics_framework.report.sample_runs import write_run

playwright = pytest.importorskip("playwright.sync_api")
pytest.importorskip("uvicorn")
pytest.importorskip("vl_convert")

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(900)]

TIMEOUT_SECONDS = 60.0
DESKTOP = {"width": 1440, "height": 900}
PHONE = {"width": 360, "height": 740}
TABS = ("Overview", "Performance", "Errors", "Resources", "Batch")
TOKEN = "s3cret-token"
HOSTILE = "<script>alert(1)</script>\u202eexe.gnp <img src=x onerror=alert(2)>"
MEGABYTE = "x" * 1_000_000

CONNECTION_FAULTS = ("ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED_ENCODING", "ERR_EMPTY_RESPONSE")


class BusyService:
    """A service with traffic, and the server of its page.

    Attributes:
        metrics: The system.
        url: The URL of the page.
    """

    def __init__(self, **options: Any) -> None:
        self.metrics = MetricsSystem()
        self.metrics.initialize_metrics({"collection_interval": 0.5})
        self._options = options
        self._server: Any = None
        self._is_busy = threading.Event()
        self._is_ending = False
        self._thread = threading.Thread(target=self._work)
        self._port = 0

    def __enter__(self) -> BusyService:
        self.start()
        self._is_busy.set()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._is_ending = True
        self._is_busy.set()
        self._thread.join(TIMEOUT_SECONDS)
        self.stop()
        self.metrics.shutdown_metrics()

    def start(self) -> None:
        """Start the server, at the port that it had."""
        self._server = serve_app(self.metrics, self._port, **self._options)
        self._port = self._server.port
        self.url = f"{self._server.url}/"

    def stop(self) -> None:
        """Stop the server."""
        if self._server is not None:
            self._server.close()
        self._server = None

    def rest(self) -> None:
        """Stop the traffic, until the next call of `work`."""
        self._is_busy.clear()
        time.sleep(0.1)  # the last round

    def work(self) -> None:
        """Start the traffic again."""
        self._is_busy.set()

    def _work(self) -> None:
        number = 0
        while not self._is_ending:
            self._is_busy.wait()
            number += 1
            region = "eu" if number % 3 else "us"
            with suppress(TimeoutError), self.metrics.measure("checkout", {"region": region}):
                time.sleep(0.002 + 0.02 * (number % 50 == 0))
                if number % 10 == 0:
                    raise TimeoutError
            with self.metrics.measure("search"):
                time.sleep(0.001)
            self.metrics.collector.increment("orders", {"item": "book", "region": region})
            if number % 100 == 0:
                self.metrics.tracker.record_failure("checkout", HOSTILE)
                self.metrics.tracker.record_failure("search", MEGABYTE)
                with self.metrics.measure(HOSTILE, {"route": HOSTILE}):
                    time.sleep(0.01)

    def exposed(self, pattern: str) -> int:
        """Return the sum of the samples of ``/metrics`` that a pattern matches."""
        with urlopen(f"{self.url}metrics", timeout=TIMEOUT_SECONDS) as response:
            lines = response.read().decode().splitlines()
        return sum(int(float(line.rpartition(" ")[2])) for line in lines if re.match(pattern, line))


@pytest.fixture(scope="module")
def library() -> None:
    """Prepare the chart library, because a browser reports the responses before as errors."""
    until(lambda: chart_library().script() is not None, seconds=200)


@pytest.fixture(scope="module")
def service(library: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BusyService]:
    """Return a busy service, whose page needs no token."""
    with BusyService(snapshots=tmp_path_factory.mktemp("runs")) as busy:
        yield busy


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    """Return a browser. It is closed at the end."""
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()


class Visits:
    """The pages that a test has opened, and what the browser reported about them.

    Attributes:
        expected: Parts of the messages that a test provokes.
    """

    def __init__(self, browser: Any) -> None:
        self._browser = browser
        self._contexts: list[Any] = []
        self._messages: list[str] = []
        self._requests: list[str] = []
        self._origin = ""
        self.expected: tuple[str, ...] = ()

    def open(self, url: str, stream: str | None = None, **options: Any) -> Any:
        """Open a page in a new context, which shares nothing with others.

        Args:
            url: The URL.
            stream: What the page gets instead of the stream of the server.
            options: Options of the context.
        """
        context = self._browser.new_context(**{"viewport": DESKTOP, "color_scheme": "light", **options})
        context.set_default_timeout(1000 * TIMEOUT_SECONDS)
        self._contexts.append(context)
        page = context.new_page()
        self._origin = "/".join(url.split("/")[:3])
        page.on("console", lambda message: self._messages.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self._messages.append(str(error)))
        page.on("dialog", lambda dialog: (self._messages.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda sent: self._requests.append(sent.url))
        if stream is not None:
            page.route(
                "**/stream*", lambda route: route.fulfill(content_type="text/event-stream", body=stream)
            )
        page.goto(url)
        return page

    def close(self) -> None:
        """Close all pages, and check that the browser reported nothing and used no other origin."""
        for context in self._contexts:
            context.close()
        unexpected = [one for one in self._messages if not any(part in one for part in self.expected)]
        assert unexpected == []
        foreign = [url for url in self._requests if not url.startswith((self._origin, "data:"))]
        assert foreign == []


@pytest.fixture
def visits(browser: Any) -> Iterator[Visits]:
    """Return pages that are closed and checked at the end of the test."""
    opened = Visits(browser)
    yield opened
    opened.close()


def until(holds: Callable[[], object], seconds: float = TIMEOUT_SECONDS) -> None:
    """Wait until a condition holds. The page cannot wait itself: its content security policy forbids eval."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "the condition was not true in time"
        time.sleep(0.05)


def expect(locator: Any) -> Any:
    """Return the assertions of a locator, which wait until they hold."""
    playwright.expect.set_options(timeout=1000 * TIMEOUT_SECONDS)
    return playwright.expect(locator)


def records(page: Any) -> int:
    """Return the number of records that the page shows."""
    fact = page.locator("#facts div", has_text="Records").locator("dd")
    return int(fact.get_attribute("title").split()[0])


def show(page: Any, tab: str) -> None:
    """Choose a tab, and wait for its panels."""
    page.get_by_role("tab", name=tab).click()
    expect(page.get_by_role("tabpanel", name=tab)).to_be_visible()
    expect(page.locator("#waiting")).to_be_hidden()
    expect(page.locator("#tiles > *, #cards > *").first).to_be_visible()


ARE_CHARTS_DRAWN = """[...document.querySelectorAll(".image:not([hidden]) .plot")]
  .every(plot => plot.querySelector("svg, canvas") !== null)"""


def wait_for_charts(page: Any) -> None:
    """Wait until each panel with numbers over time is a chart."""
    expect(page.locator("#waiting")).to_be_hidden()
    expect(page.locator(".card").first).to_be_visible()
    until(lambda: page.evaluate(ARE_CHARTS_DRAWN))
    page.wait_for_timeout(500)  # the numbers follow their axes in another task


def take_picture(page: Any, name: str) -> None:
    """Write a picture into the folder of `PAGE_SCREENSHOTS`, if it is set."""
    folder = os.environ.get("PAGE_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def is_within_window(page: Any) -> bool:
    """Return whether the page does not scroll sideways."""
    return page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def check_accessibility(page: Any, axe_core: str) -> list[tuple[str, list[str]]]:
    """Return the rules of axe-core that the page breaks, and the elements that break them."""
    page.evaluate(axe_core)
    violations = page.evaluate("axe.run().then(result => result.violations)")
    return [(one["id"], [node["html"] for node in one["nodes"]]) for one in violations]


# -- numbers -----------------------------------------------------------------------------------------------


def test_numbers_move_and_agree_with_the_metrics(visits: Visits, service: BusyService) -> None:
    """The numbers of the page grow with the traffic, and without traffic they are those of `/metrics`."""
    page = visits.open(f"{service.url}#tab=errors&range=3600")
    expect(page.locator("#connection")).to_have_text("● Live")
    first = records(page)
    until(lambda: records(page) > first)

    service.rest()
    try:
        failures = service.exposed(r'checkout_operations_total\{.*error_type="TimeoutError"')
        cell = page.locator("[data-panel=failures-by-kind] tr", has_text="error_type:TimeoutError").locator(
            "td"
        )
        assert failures > 0
        until(lambda: cell.first.get_attribute("title") == f"{failures} count")
    finally:
        service.work()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("tab", TABS)
def test_tabs(visits: Visits, service: BusyService, axe_core: str, tab: str, theme: str) -> None:
    """Each tab draws its panels in both themes, and axe-core finds nothing to improve."""
    page = visits.open(service.url, color_scheme=theme)
    show(page, tab)
    wait_for_charts(page)
    assert page.locator(".problem", has_text="cannot be drawn").count() == 0
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(map(int, re.findall(r"\d+", background)[:3])) / 3
    assert (brightness < 128) is (theme == "dark")
    assert check_accessibility(page, axe_core) == []
    take_picture(page, f"{tab.lower()}-{theme}")


def test_charts_have_gaps_and_text_alternatives(visits: Visits, service: BusyService) -> None:
    """A chart is an image with a sentence about its numbers, and a table of them opens by its button."""
    page = visits.open(f"{service.url}#tab=performance")
    wait_for_charts(page)
    card = page.locator("[data-panel=throughput]")
    label = card.get_by_role("img").get_attribute("aria-label")
    assert label.startswith("Throughput over time. ")
    assert "checkout" in label
    card.locator("summary").click()
    table = card.get_by_role("table")
    expect(table.get_by_role("columnheader").first).to_have_text("Time")
    assert table.get_by_role("row").count() > 2


def test_history_compares_two_runs(visits: Visits, library: None, axe_core: str, tmp_path: Path) -> None:
    """The History tab lists the runs, compares two, and keeps them in the link."""
    pytest.importorskip("scipy")
    for number in range(12):
        write_run(tmp_path, number, benchmark=HOSTILE, hostile=True)
        write_run(tmp_path, 30 + number, factor=1.3, branch="topic", benchmark=HOSTILE, hostile=True)
    with BusyService(snapshots=tmp_path) as service:
        page = visits.open(service.url)
        page.get_by_role("tab", name="History").click()
        expect(page.locator(".comparison table")).to_be_visible()
        page.get_by_role("radio", name=re.compile("Baseline")).last.check()
        expect(page.locator(".verdict[data-verdict=regression]").first).to_have_text("✕ regression")
        expect(page.locator(".comparison h3")).to_contain_text("latency")
        link, sides = page.url, page.locator(".sides").inner_text()
        assert "baseline=" in link
        assert check_accessibility(page, axe_core) == []
        take_picture(page, "history-light")
        assert is_within_window(page)
        other = visits.open(link, viewport=PHONE)
        expect(other.locator(".sides")).to_have_text(sides, use_inner_text=True)
        take_picture(other, "history-phone")
        assert is_within_window(other)


def test_theme_is_remembered(visits: Visits, service: BusyService) -> None:
    """A chosen theme overrides that of the system, also after the page is loaded again."""
    page = visits.open(service.url)
    page.locator("#theme").select_option("dark")
    page.reload()
    expect(page.locator("#theme")).to_have_value("dark")
    assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "dark"
    wait_for_charts(page)


@pytest.mark.parametrize("tab", TABS)
def test_phone(visits: Visits, service: BusyService, tab: str) -> None:
    """At 360 pixels, nothing is wider than the window, with all tables open."""
    page = visits.open(service.url, viewport=PHONE, has_touch=True, is_mobile=True)
    show(page, tab)
    wait_for_charts(page)
    assert is_within_window(page)
    take_picture(page, f"{tab.lower()}-phone")
    for summary in page.locator("summary:visible").all():
        summary.click()
    assert is_within_window(page)


# -- controls ----------------------------------------------------------------------------------------------


def test_keyboard(visits: Visits, service: BusyService) -> None:
    """The page is used by keyboard only: skip link, tabs by arrows, a filter, the range and the pause."""
    page = visits.open(service.url)
    expect(page.locator("#connection")).to_have_text("● Live")
    press = page.keyboard.press
    press("Tab")
    expect(page.locator("#skip")).to_be_focused()
    press("Enter")
    expect(page.locator("#panel")).to_be_focused()

    page.locator("#pause").focus()
    press("Tab")
    press("Tab")
    expect(page.get_by_role("tab", name="Overview")).to_be_focused()
    for key, tab in (
        ("ArrowRight", "Performance"),
        ("End", "History"),
        ("Home", "Overview"),
        ("ArrowLeft", "History"),
    ):
        press(key)
        expect(page.get_by_role("tab", name=tab)).to_be_focused()
        expect(page.get_by_role("tab", name=tab)).to_have_attribute("aria-selected", "true")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"

    press("Home")
    press("Tab")
    page.keyboard.type("region:eu")
    press("Enter")
    expect(page.get_by_role("button", name="Remove the filter region:eu")).to_be_visible()
    press("Shift+Tab")
    press("Enter")
    expect(page.get_by_role("button", name="Remove the filter region:eu")).to_have_count(0)
    expect(page.locator("#tag")).to_be_focused()

    page.locator("#pause").focus()
    press("Space")
    expect(page.locator("#connection")).to_have_text("‖ Paused")


def test_pause(visits: Visits, service: BusyService) -> None:
    """While the page is paused, its numbers do not change, and it says how old they are."""
    page = visits.open(service.url)
    expect(page.locator("#connection")).to_have_text("● Live")
    page.get_by_role("button", name="Pause").click()
    paused = records(page)
    expect(page.locator("#notice")).to_contain_text(
        re.compile(r"Paused\. The numbers are from [\d:]+, [3-9] s ago\.")
    )
    assert records(page) == paused
    page.get_by_role("button", name="Pause").click()
    until(lambda: records(page) > paused)
    expect(page.locator("#notice")).to_be_hidden()


def test_a_link_shows_the_same(visits: Visits, service: BusyService) -> None:
    """The tab, the range and the filter are in the link, and the server filters by the tags."""
    page = visits.open(service.url)
    show(page, "Performance")
    page.locator("#range").select_option("300")
    page.locator("#tag").fill("region:us")
    page.get_by_role("button", name="Add").click()
    other = visits.open(page.url)
    expect(other.get_by_role("tab", name="Performance")).to_have_attribute("aria-selected", "true")
    expect(other.locator("#range")).to_have_value("300")
    expect(other.get_by_role("button", name="Remove the filter region:us")).to_be_visible()
    with other.expect_request("**/stream*") as caught:
        other.reload()
    assert caught.value.url.endswith("stream?dashboard=performance&window=300&tag=region%3Aus")


# -- faults ------------------------------------------------------------------------------------------------


def test_a_lost_connection_returns(visits: Visits, library: None) -> None:
    """The page says that the connection is lost and how old its numbers are, and goes on with the server."""
    visits.expected = CONNECTION_FAULTS
    with BusyService() as service:
        page = visits.open(service.url)
        wait_for_charts(page)
        service.stop()
        expect(page.locator("#connection")).to_have_text("▲ Connection lost")
        expect(page.locator("#announcement")).to_have_text("Connection lost. Trying to connect again.")
        expect(page.locator("#notice")).to_contain_text(
            re.compile(r"Connection lost\. The numbers are from [\d:]+, \d+ s ago\. Trying again")
        )
        take_picture(page, "connection-lost")
        lost = records(page)
        service.start()
        expect(page.locator("#connection")).to_have_text("● Live")
        until(lambda: records(page) > lost)
        expect(page.locator("#notice")).to_be_hidden()


def test_login(visits: Visits, library: None) -> None:
    """Without the token, the server sends only the form, which explains a failure; then the page opens."""
    visits.expected = ("401 (Unauthorized)",)
    with BusyService(bearer_token=TOKEN) as service:
        page = visits.open(service.url)
        take_picture(page, "login")
        page.get_by_label("Token").fill("wrong")
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("alert")).to_contain_text("not the token")
        assert page.get_by_label("Token").get_attribute("type") == "password"
        page.get_by_label("Token").fill(TOKEN)
        page.get_by_role("button", name="Log in").click()
        expect(page.locator("#connection")).to_have_text("● Live")
        wait_for_charts(page)
        assert TOKEN not in page.url
        assert page.evaluate("document.cookie") == ""  # scripts cannot read it
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_label("Token")).to_be_visible()
        page.goto(service.url)
        expect(page.get_by_label("Token")).to_be_visible()


def test_login_without_javascript(visits: Visits, library: None) -> None:
    """The form works without JavaScript."""
    visits.expected = ("401 (Unauthorized)",)
    with BusyService(bearer_token=TOKEN) as service:
        page = visits.open(service.url, java_script_enabled=False)
        page.get_by_label("Token").fill(TOKEN)
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("tab", name="Overview")).to_be_visible()
        assert page.get_by_label("Token").count() == 0


def test_hostile_texts_are_shown_as_text(visits: Visits, service: BusyService) -> None:
    """Markup, scripts, bidirectional marks and a megabyte of text in names, tags and error types are text."""
    page = visits.open(f"{service.url}#tab=errors")
    cell = page.locator("[data-panel=failures-by-kind] tr", has_text="<script>alert(1)</script>")
    expect(cell.first).to_be_visible()
    for tab in TABS:
        show(page, tab)
        wait_for_charts(page)
        text = page.locator("body").inner_text()
        assert "\u202e" not in text
        assert len(text) < 50_000
        assert page.locator("img:not([role]), iframe, [onerror], [onclick]").count() == 0
        assert page.locator("script").count() == 2  # the page and the chart library
        assert is_within_window(page)


def test_unknown_panels_are_drawn_as_far_as_possible(visits: Visits, service: BusyService) -> None:
    """A panel of a kind that the page does not know is a table, and one without fields breaks nothing."""
    panels = [
        {
            "id": "new",
            "title": "A new kind",
            "kind": "pie",
            "unit": "litres",
            "series": [{"name": "milk", "value": 3}],
        },
        {"kind": "line", "series": [{"name": None, "points": [[1], "x", None]}]},
        {"kind": "heatmap", "series": [{"cells": [[1, 2]]}]},
        None,
        {"id": "last", "title": "Last", "kind": "stat", "unit": "count", "series": [{"value": 7}]},
    ]
    event = {"dashboard": {"type": "overview", "panels": panels}}
    page = visits.open(service.url, stream=f"event: dashboard\ndata: {json.dumps(event)}\n\n")
    expect(page.locator("[data-panel=new] td")).to_have_text("3")
    expect(page.locator("[data-panel=last] .number")).to_have_text("7")
    assert page.locator(".card").count() == len(panels)


# -- cost --------------------------------------------------------------------------------------------------


COUNT_UPDATES = """() => {
  window.updates = 0;
  const records = [...document.querySelectorAll("#facts dt")].find(term => term.textContent === "Records");
  new MutationObserver(() => { window.updates += 1; })
    .observe(records.nextSibling, {attributes: true, attributeFilter: ["title"]});
}"""


def test_ten_thousand_series(visits: Visits, library: None) -> None:
    """An update with ten thousand series takes the page little longer than one with few."""
    with BusyService() as service:
        page = visits.open(f"{service.url}#tab=performance")
        wait_for_charts(page)
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable", {"timeDomain": "threadTicks"})
        few = update_seconds(page, session)
        for metric in range(100):
            for user in range(100):
                service.metrics.collector.increment(f"requests{metric}", {"user": str(user)})
        series = page.locator("#facts div", has_text="Series").locator("dd")
        until(lambda: int(series.get_attribute("title").split()[0]) >= 10_000)
        wait_for_charts(page)
        assert update_seconds(page, session) < 2 * few


def update_seconds(page: Any, session: Any) -> float:
    """Return the CPU time of the tasks of a page for each update."""
    page.wait_for_timeout(2000)
    page.evaluate(COUNT_UPDATES)
    before = reading(session, "TaskDuration")
    page.wait_for_timeout(12_000)
    return (reading(session, "TaskDuration") - before) / page.evaluate("updates")


def reading(session: Any, name: str) -> float:
    """Return one of the browser's own measurements of a page."""
    metrics = session.send("Performance.getMetrics")["metrics"]
    return next(one["value"] for one in metrics if one["name"] == name)


@pytest.mark.soak
def test_memory_is_flat(
    visits: Visits, service: BusyService, monkeypatch: pytest.MonkeyPatch, soak: Callable[[int], int]
) -> None:
    """The updates of an hour, made in ten minutes, leave neither elements nor objects behind."""
    monkeypatch.setattr(dashboards, "MIN_PERIOD_SECONDS", 0.1)
    monkeypatch.setattr(dashboards, "MAX_CPU_SHARE", 1.0)
    page = visits.open(f"{service.url}#tab=performance&range=60")
    wait_for_charts(page)
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")

    def kept() -> tuple[float, float]:
        for _ in range(3):
            session.send("HeapProfiler.collectGarbage")
        return reading(session, "JSHeapUsedSize"), reading(session, "Nodes")

    page.wait_for_timeout(15_000)
    heap, nodes = kept()
    page.wait_for_timeout(1000 * soak(480))
    later_heap, later_nodes = kept()
    assert later_heap < heap + 4e6  # garbage collection is not exact
    assert later_nodes < 1.2 * nodes


# -- what the server refuses -------------------------------------------------------------------------------


def opened(visits: Visits, url: str, pattern: str, answer: Callable[[Any], object]) -> Any:
    """Open a page whose requests that match a pattern are answered by a test."""
    page = visits.open(url)
    page.route(pattern, answer)
    page.reload()
    return page


def with_document(visits: Visits, service: BusyService, event: dict[str, Any]) -> Any:
    """Open the page with a document of a test."""
    body = f"event: dashboard\ndata: {json.dumps(event)}\n\n"
    return opened(
        visits,
        service.url,
        "**/stream*",
        lambda route: route.fulfill(content_type="text/event-stream", body=body),
    )


def test_a_failed_dashboard_is_explained(
    visits: Visits, service: BusyService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page names the failure of a dashboard, with old numbers and without, until it succeeds."""
    page = visits.open(service.url)
    wait_for_charts(page)
    with monkeypatch.context() as broken:
        broken.delattr(dashboards, "create_dashboard_data")
        expect(page.locator("#connection")).to_have_text("▲ Stale")
        notice = re.compile(
            r"The numbers are from .* The server answered: the dashboard failed: see the log\."
        )
        expect(page.locator("#notice")).to_have_text(notice)
        page.wait_for_timeout(1500)  # the age is checked each second
        expect(page.locator("#connection")).to_have_text("▲ Stale")
        assert page.locator("#tiles > *").count() > 0
        other = visits.open(f"{service.url}#tab=batch")
        expect(other.locator("#notice")).to_contain_text(
            "There are no numbers yet. The server answered: the dash"
        )
    for one in (page, other):
        expect(one.locator("#connection")).to_have_text("● Live")
        expect(one.locator("#notice")).to_be_hidden()


def test_a_refused_request_is_not_repeated(visits: Visits, service: BusyService) -> None:
    """The page shows why the server refuses a request, and asks again only for something else."""
    visits.expected = ("400 (Bad Request)",)
    asked: list[str] = []

    def spoil(route: Any) -> None:
        asked.append(route.request.url)
        route.continue_(url=f"{route.request.url}&tag=region:us" if "region" in route.request.url else None)

    page = opened(visits, f"{service.url}#tag=region:eu", "**/stream*", spoil)
    expect(page.locator("#connection")).to_have_text("▲ Refused")
    expect(page.locator("#notice")).to_contain_text(
        "refused the request: 400, tag 'region' occurs twice. Change the filter"
    )
    before = len(asked)
    page.wait_for_timeout(3000)
    assert len(asked) == before
    page.get_by_role("button", name="Remove the filter region:eu").click()
    expect(page.locator("#connection")).to_have_text("● Live")


def test_a_tag_replaces_one_with_the_same_key(visits: Visits, service: BusyService) -> None:
    """The filter has one value of each key, also if a link has two."""
    page = visits.open(f"{service.url}#tag=region:eu&tag=region:us")
    expect(page.locator(".chip")).to_have_text(["region:us ✕"])
    page.locator("#tag").fill("region:asia")
    page.get_by_role("button", name="Add").click()
    expect(page.locator(".chip")).to_have_text(["region:asia ✕"])
    expect(page.locator("#connection")).to_have_text("● Live")
    assert page.url.count("tag=") == 1


@pytest.mark.parametrize("status", [501, 503])
def test_a_missing_chart_library_is_named_once(visits: Visits, service: BusyService, status: int) -> None:
    """If the library will not come, the page says why, shows tables, and does not ask again."""
    visits.expected = (f"status of {status}", "MIME type ('text/plain')")
    asked: list[str] = []

    def refuse(route: Any) -> None:
        asked.append(route.request.url)
        route.fulfill(status=status, content_type="text/plain", body="the extra 'web' is missing")

    page = opened(visits, f"{service.url}#tab=performance", "**/assets/vega.js", refuse)
    text = "Charts are not available (the extra 'web' is missing). Tables show the same numbers."
    expect(page.locator("#library")).to_have_text(text)
    expect(page.locator("[data-panel=throughput] table")).to_be_visible()
    before = len(asked)
    page.wait_for_timeout(3000)
    assert len(asked) == before


def test_history(visits: Visits, library: None, tmp_path: Path) -> None:
    """The history says how many runs and jobs are compared, has no internal tags, and fits each window."""
    for number in range(12):
        slow = number >= 6
        metadata = {
            "run_id": f"run-{number}",
            "commit": ("b" if slow else "a") * 40,
            "branch": "a-branch-with-a-long-name",
            "timestamp": f"2026-01-{number + 1:02}T00:00:00+00:00",
            "environment": "ci",
            "tags": {
                "job": f"job-{number // 2}",
                "distributions": "a-digest",
                "host": "a-host",
                "side": str(slow),
            },
        }
        p95 = (130 if slow else 100) + number % 3
        custom = {f"http/request[route=/a/long/route/of/a/service,method=GET]/{number}": 1.0}
        snapshot = {
            "schema_version": 1,
            "metadata": metadata,
            "metrics": {"latency": {"p95": p95}, "custom": custom},
        }
        (tmp_path / f"run-{number}.json").write_text(json.dumps(snapshot))
    with BusyService(snapshots=tmp_path) as service:
        for name, viewport in (("desktop", {"width": 1200, "height": 900}), ("phone", PHONE)):
            page = visits.open(f"{service.url}#tab=history&baseline=run-0&current=run-11", viewport=viewport)
            sides = page.locator(".sides dd")
            expect(sides.first).to_contain_text(f"6 runs of 3 jobs of commit {'a' * 12}")
            expect(sides.last).to_contain_text(f"6 runs of 3 jobs of commit {'b' * 12}")
            expect(page.locator(".runs tbody tr")).to_have_count(12)
            assert "a-digest" not in page.locator("#history").inner_text()
            assert page.locator(".tag", has_text="host:a-host").count() == 1  # once, because all runs have it
            expect(page.locator(".verdict[data-verdict=regression]")).to_have_text("✕ regression")
            assert is_within_window(page)
            wide = page.locator("td[data-title=Note]").first.bounding_box()
            assert wide is None or wide["width"] > 200
            take_picture(page, f"history-{name}")


def test_extreme_values_and_zeros(visits: Visits, service: BusyService) -> None:
    """The zeros of a heat map are a cell with a label, and the smallest and largest numbers have axes."""
    now = 1_790_000_000

    def heat(name: str, *bounds: tuple[float, float]) -> dict[str, Any]:
        cells = [[now - 60, now, low, high, 1] for low, high in bounds]
        return {
            "id": name,
            "kind": "heatmap",
            "unit": "milliseconds",
            "series": [{"name": "a", "cells": cells}],
        }

    def line(name: str, value: float) -> dict[str, Any]:
        series = [{"name": "a", "value": value, "points": [[now - 60, value], [now - 30, value]]}]
        return {"id": name, "kind": "line", "series": series}

    extremes = [heat("tiny-heat", (5e-324, 1e-323)), line("tiny", 5e-324), line("huge", 1.7e308)]
    panels = [heat("zeros", (0, 8), (8, 16), (16, 32)), *extremes]
    dashboard = {"type": "overview", "generated_at": "2026-09-21T14:13:20Z", "panels": panels}
    page = with_document(visits, service, {"dashboard": dashboard})
    wait_for_charts(page)
    assert page.locator(".problem:visible").count() == 0
    card = page.locator("[data-panel=zeros]")
    card.locator("summary").click()
    expect(card.locator("tbody th").last).to_have_text("0 ms")
    pixel = "it => [...it.getContext('2d').getImageData(it.width / 2, it.height * 0.75, 1, 1).data]"
    assert card.locator("canvas").evaluate(pixel) == [8, 48, 95, 255]


def test_series_are_told_apart(visits: Visits, service: BusyService) -> None:
    """Series of one name have numbers and styles of their own, and no series has the tags of the service."""
    points = [[1_790_000_000, 1], [1_790_000_002, 2]]
    tags = {"service": "shop", "route": "/orders"}
    series = [{"name": "checkout", "tags": tags, "value": value, "points": points} for value in (3, 2)]
    panels = [{"id": "twins", "kind": "line", "series": series}, {"id": "none", "kind": "line", "series": []}]
    dashboard = {"type": "overview", "tags": {"route": "/orders"}, "panels": panels}
    page = with_document(visits, service, {"dashboard": dashboard, "service": {"tags": {"service": "shop"}}})
    labels = page.locator("[data-panel=twins] .legend .series-label")
    expect(labels).to_have_text(["checkoutroute:/orders", "checkoutroute:/orders(2)"])
    dashes = page.locator("[data-panel=twins] .swatch line").evaluate_all(
        "all => all.map(one => one.outerHTML)"
    )
    assert len(set(dashes)) == 2
    expect(page.locator("[data-panel=none] .problem")).to_have_text(
        "No data with route:/orders in this time range."
    )
