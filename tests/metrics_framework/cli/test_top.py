"""`metrics-framework top`: the numbers of a stream, how they are drawn, and the terminal that a user sees."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.cells import cell_len

from metrics_adapters.asgi import serve_app
from metrics_framework import MetricsSystem
from metrics_framework.cli.app import app
from metrics_framework.cli.live_metrics import MAX_SERIES, LiveMetrics, LiveView, Row
from metrics_framework.cli.live_service import ServiceUrl
from metrics_framework.cli.top import TableLayout, TableState, draw_bars, select_rows, state_text
from metrics_framework.errors import InvalidInputError
from tests.metrics_framework.cli.test_app import CTTY
from tests.terminal import Terminal

TOKEN = "s3cret-t0ken"
TIMEOUT_SECONDS = 15.0
HOSTILE = (
    "evil\x1b[2J\x1b]0;pwned\x07",
    "\u202egnp.exe\u2066",
    "x" * 1_000_000,
    "界" * 60,
    "a\nb\r\tc\x9b1m",
)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be independent of the terminal and the token of the person that runs the tests."""
    for name in ("FORCE_COLOR", "NO_COLOR", "COLUMNS", "LINES", "TTY_COMPATIBLE", "METRICS_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def event(kind: str, name: str, value: object, recorded: object, count: int, **more: Any) -> dict[str, Any]:
    """Return an event as the stream sends it."""
    operation = {"operation": True} if kind == "rate" or more.pop("operation", False) else {}
    unit = {"timer": "milliseconds", "rate": "ops/sec"}.get(kind, "count")
    metadata = {"count": count, "recorded": recorded, **operation}
    return {
        "name": name,
        "type": kind,
        "value": value,
        "unit": unit,
        "metadata": metadata,
        "tags": {},
        **more,
    }


def rows_of(view: LiveView) -> dict[str, Row]:
    """Return the rows by name."""
    return {row.key.name: row for row in view.rows}


def wait_until(holds: Callable[[], object], what: Callable[[], str] = str) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + TIMEOUT_SECONDS
    while not holds():
        assert time.monotonic() < end, what()
        time.sleep(0.02)


# -- the numbers -------------------------------------------------------------------------------------------


def test_an_operation_has_rate_percentiles_and_failures_of_its_window() -> None:
    """The rate covers ten seconds, and the other columns a minute; older records do not count."""
    metrics = LiveMetrics()
    metrics.connected(100.0)
    for number in range(1000):
        now = 100.0 + number / 10  # ten per second, for 100 seconds
        duration = 1.0 if number < 300 else float(number % 100)
        metrics.add_event(event("timer", "checkout", 0, duration, number + 1, operation=True), now)
        failed = "Old" if number < 300 else "Timeout" if number % 10 == 0 else None
        metrics.add_event(event("rate", "checkout", 0, failed, number + 1), now)
    row = rows_of(metrics.view(200.0))["checkout"]
    assert row.rate == pytest.approx(10, rel=0.02)
    assert row.p50 == pytest.approx(49.5, rel=0.05)
    assert row.p99 == pytest.approx(98.5, rel=0.02)
    assert row.failures == pytest.approx(0.1, abs=0.005)
    assert row.error_types == (("Timeout", 59),)
    assert row.bars == (10.0,) * 60
    idle = rows_of(metrics.view(300.0))["checkout"]
    assert (idle.rate, idle.p50, idle.failures, set(idle.bars)) == (0, None, None, {0.0})


def test_dropped_events_do_not_change_a_rate() -> None:
    """The totals in the next event include the dropped ones."""
    metrics = LiveMetrics()
    metrics.connected(0.0)
    for second in range(20):
        metrics.add_event(event("counter", "bytes", 1000 * second, 1, second), second)
        metrics.add_event(event("rate", "op", 0, None, 500 * second), second)
    metrics.add_dropped({"dropped": 12})
    view = metrics.view(20.0)
    assert rows_of(view)["bytes"].rate == pytest.approx(1000, rel=0.15)
    assert rows_of(view)["op"].rate == pytest.approx(500, rel=0.15)
    assert (view.dropped, rows_of(view)["bytes"].value) == (12, 19_000)


def test_a_gap_is_blank_and_no_burst_follows_it() -> None:
    """Records from the time without a connection are in the total, but not in a rate or a bar."""
    metrics = LiveMetrics()
    metrics.connected(0.0)
    for second in range(20):
        metrics.add_event(event("counter", "orders", second, 1, second), second)
    metrics.disconnected("connection refused", 20.0)
    lost = metrics.view(32.0)
    assert (lost.is_connected, lost.problem, lost.data_age > 11) == (False, "connection refused", True)
    assert state_text(lost).plain == "last data 32 s ago, reconnecting: connection refused"
    assert rows_of(lost)["orders"].rate is None
    metrics.connected(40.0)
    metrics.add_event(event("counter", "orders", 1_000_000, 1, 2), 40.5)
    row = rows_of(metrics.view(42.0))["orders"]
    assert row.value == 1_000_000
    assert row.rate == pytest.approx(0.5)
    assert row.bars[-22:] == (*[None] * 20, 1.0, 0.0)


def test_values_of_a_process_that_has_ended_are_not_shown() -> None:
    """After a restart, a series has no value until it is recorded, and others disappear."""
    metrics = LiveMetrics()
    metrics.connected(0.0)
    metrics.add_event(event("gauge", "queue", 7, 7, 1), 0.0)
    metrics.add_event(event("gauge", "gone", 7, 7, 1), 0.0)
    metrics.restarted()
    metrics.add_event(event("gauge", "queue", 8, 8, 1), 1.0)
    view = rows_of(metrics.view(2.0))
    assert (view["queue"].value, view["gone"].value) == (8, None)
    assert rows_of(metrics.view(100.0)).keys() == {"queue"}


def test_a_snapshot_adds_the_series_that_are_idle() -> None:
    """They are the same series as those of the stream, which has the constant tags of the service as well."""
    metrics = LiveMetrics()
    metrics.add_snapshot(
        {
            "metadata": {"tags": {"region": "eu", "latency_metric": "checkout"}},
            "metrics": {
                "memory_mb": 38.5,
                "custom": {"orders[item:book]": 3, "operation:checkout/success_rate": 1, "size/p95": 2},
            },
        }
    )
    metrics.connected(0.0)
    tags = {"region": "eu", "item": "book"}
    metrics.add_event({**event("counter", "orders", 4, 1, 4), "tags": tags}, 0.0)
    view = metrics.view(1.0)
    assert sorted(view.rows and [row.key.name for row in view.rows]) == ["checkout", "orders", "size"]
    assert rows_of(view)["orders"].key.tags == (("item", "book"),)
    assert (rows_of(view)["orders"].value, view.process) == (4, {"memory_mb": 38.5})
    metrics.add_event(event("gauge", "process.memory.usage", 40e6, 40e6, 1), 1.0)
    assert metrics.view(2.0).process == {"memory_mb": pytest.approx(40)}


@pytest.mark.parametrize(
    "broken",
    [
        None,
        [],
        {},
        {**event("counter", "a", 1, 1, 1), "name": 7},
        {**event("counter", "a", 1, 1, 1), "tags": {"a": [1]}},
        {**event("counter", "a", 1, 1, 1), "unit": "parsecs"},
        {**event("counter", "a", 1, 1, 1), "metadata": None},
    ],
)
def test_an_event_that_is_not_understood_is_counted(broken: object) -> None:
    """It changes nothing else. Numbers that are not finite are unknown."""
    metrics = LiveMetrics()
    metrics.connected(0.0)
    metrics.add_event(broken, 0.0)
    assert (metrics.view(1.0).invalid, metrics.view(1.0).rows) == (1, ())
    metrics.add_event(event("gauge", "a", 10**400, float("nan"), 1), 1.0)
    assert rows_of(metrics.view(2.0))["a"].value is None


def test_the_number_of_series_is_limited() -> None:
    """A service with endless names does not fill the memory, and the view says so."""
    metrics = LiveMetrics()
    metrics.connected(0.0)
    for number in range(MAX_SERIES + 5):
        metrics.add_event(event("counter", f"c{number}", 1, 1, 1), 0.0)
    view = metrics.view(1.0)
    assert (len(view.rows), view.is_full) == (MAX_SERIES, True)


# -- sorting, filtering and drawing ------------------------------------------------------------------------


def test_rows_are_sorted_by_any_column_and_filtered_by_words() -> None:
    """Rows without the number come last in either order, and equal ones are sorted by name."""
    metrics = LiveMetrics()
    metrics.connected(0.0)
    for name, duration, rate in (("slow", 900.0, 1), ("fast", 1.0, 9), ("often", 5.0, 50)):
        for number in range(rate):
            metrics.add_event(event("timer", name, 0, duration, number + 1), 1.0)
    metrics.add_event(event("rate", "unmeasured", 0, "Timeout", 1), 1.0)
    metrics.add_event({**event("gauge", "queue", 3, 3, 1), "tags": {"zone": "north"}}, 1.0)
    view = metrics.view(2.0)

    def names(**state: Any) -> list[str]:
        return [row.key.name for rows in select_rows(view, TableState(**state)).values() for row in rows]

    assert names() == ["often", "fast", "slow", "unmeasured", "queue"]
    assert names(sort=0) == ["fast", "often", "slow", "unmeasured", "queue"]
    assert names(sort=3) == ["slow", "often", "fast", "unmeasured", "queue"]
    assert names(sort=3, is_reversed=True) == ["fast", "often", "slow", "unmeasured", "queue"]
    assert names(sort=5)[0] == "unmeasured"
    assert names(section="values") == ["queue"]
    assert names(filter="NORTH que") == ["queue"]
    assert names(filter="north fast") == []


@pytest.mark.parametrize("width", [40, 80, 200])
def test_hostile_names_are_text_and_keep_the_columns(width: int) -> None:
    """Every line has the width of the terminal and no character that moves the cursor or reorders text."""
    metrics = LiveMetrics()
    metrics.connected(0.0)
    for name in HOSTILE:
        metrics.add_event({**event("counter", name, 1, 1, 1), "tags": {name: name}}, 1.0)
        metrics.add_event(event("rate", name, 0, name, 1), 1.0)
    layout = TableLayout.of(width)
    columns = layout.name + layout.fixed
    for section, rows in select_rows(metrics.view(2.0), TableState()).items():
        for line in [layout.heading(section, len(rows), TableState()), *map(layout.line, rows)]:
            assert cell_len(line.plain) <= columns
            assert not {unicodedata.category(one) for one in line.plain} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    evil = select_rows(metrics.view(2.0), TableState(filter="evil"))
    assert width < 200 or layout.line(evil["values"][0]).plain.startswith(r"evil\x1b[2J\x1b]0;pwned\x07 evil")


def test_bars_show_levels_gaps_and_negative_numbers() -> None:
    """A column is the mean of its seconds."""
    assert draw_bars([0, 0, 4, 4, None, None, 8, 8], 4) == "▁▅ █"
    assert draw_bars([-5, 0, 5], 3) == "▁▅█"
    assert draw_bars([0.0] * 60, 10) == "▁" * 10


@pytest.mark.parametrize(
    "url", ["ftp://host", "http://", "http://[::1", "http://a b", "http://h:99999", "http://ü"]
)
def test_a_url_that_cannot_be_read_is_refused(url: str) -> None:
    """The message never quotes a password."""
    with pytest.raises(InvalidInputError, match="pass the URL of the service") as caught:
        ServiceUrl(url.replace("://", "://me:hunter2@"))
    assert "hunter2" not in str(caught.value)


def test_a_url_may_be_that_of_the_stream() -> None:
    """Its query filters the stream; a scheme is not required."""
    url = ServiceUrl("localhost:8000/internal/stream?name=http.*")
    assert (url.base, url.query) == ("http://localhost:8000/internal", "name=http.*")


# -- without a terminal ------------------------------------------------------------------------------------


def cli(*arguments: str) -> Result:
    """Run the command line without a terminal."""
    return CliRunner().invoke(app, ["top", *arguments])


@contextmanager
def recording(metrics: MetricsSystem) -> Iterator[None]:
    """Record until the end of the block."""
    ended = threading.Event()

    def record() -> None:
        number = 0
        while not ended.wait(0.01):
            number += 1
            try:
                with metrics.measure("checkout", {"item": "book"}):
                    if number % 2:
                        raise TimeoutError
            except TimeoutError:
                pass
            metrics.collector.record_counter("bytes.sent", 1000)
            metrics.collector.record_gauge("queue.size", number % 9)

    thread = threading.Thread(target=record)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.mark.slow
def test_a_pipe_gets_one_table() -> None:
    """It has the process, all series with their rates, also idle ones, and no escape codes."""
    with MetricsSystem() as metrics, serve_app(metrics, 0, bearer_token=TOKEN) as server:
        metrics.collector.increment("started", {"version": "1.2"})
        with recording(metrics):
            result = CliRunner(env={"METRICS_TOKEN": TOKEN}).invoke(
                app, ["top", f"{server.url}/stream", "--interval", "1.2"], catch_exceptions=False
            )
    assert (result.exit_code, result.stderr) == (0, "")
    assert "\x1b" not in result.stdout
    lines = result.stdout.splitlines()
    assert lines[0].startswith(("healthy  up ", "unhealthy"))
    cells = {line.split("  ")[0]: line.split() for line in lines}
    checkout = cells["checkout item=book"]
    assert checkout[2].endswith("/s")
    assert float(checkout[2].removesuffix("/s")) > 5
    assert "TimeoutError" in checkout or "%" in checkout
    assert cells["bytes.sent"][1].endswith("/s")
    assert cells["started version=1.2"][-1] == "1"
    assert "queue.size" in cells


@pytest.mark.slow
def test_a_wrong_token_is_an_error_at_once() -> None:
    """The message names the remedy, and never the token."""
    with MetricsSystem() as metrics, serve_app(metrics, 0, bearer_token=TOKEN) as server:
        for arguments in ([], ["--token", "guess-1234"]):
            result = cli(server.url, *arguments)
            assert result.exit_code == 1
            assert "HTTP status 401, unauthorized: pass the token" in result.output
            assert "guess-1234" not in result.output
        assert cli(server.url, "--token", "a\nb").exit_code == 2


class Other(BaseHTTPRequestHandler):
    """A server that is not a service, and echoes the credentials."""

    def do_GET(self) -> None:
        """Respond according to the path."""
        status = int(self.path.split("/")[1])
        self.send_response(status)
        self.send_header("Content-Type", "text/html")
        self.send_header("Location", "http://elsewhere/")
        self.end_headers()
        self.wfile.write(b"<p>\x1b[2J" + self.headers.get("Authorization", "").encode())

    def log_message(self, *arguments: object) -> None:
        """Print nothing."""


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (200, "the answer is not a stream of events"),
        (302, "a redirect, which is not followed"),
        (404, "serve the system with metrics_adapters.asgi"),
        (500, r"HTTP status 500: <p>\x1b[2JBearer ***"),
    ],
)
def test_a_server_without_a_stream_is_an_error(status: int, text: str) -> None:
    """The message names the remedy, and shows neither control characters nor the token that is echoed."""
    with HTTPServer(("127.0.0.1", 0), Other) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            result = cli(f"http://127.0.0.1:{server.server_port}/{status}", "--token", TOKEN)
        finally:
            server.shutdown()
            thread.join()
    assert result.exit_code == 1
    assert text in result.output
    assert TOKEN not in result.output


def test_a_service_that_cannot_be_reached_is_an_error() -> None:
    """The message has its address and the reason."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    result = cli(f"http://me:hunter2@127.0.0.1:{port}")
    assert result.exit_code == 1
    assert f"cannot connect to http://127.0.0.1:{port}: Connection refused; check that the" in result.output
    assert "hunter2" not in result.output


# -- on a terminal -----------------------------------------------------------------------------------------


class Screen(Terminal):
    """A terminal that `metrics-framework top` runs in."""

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start the program."""
        self.before = termios.tcgetattr(self.screen)
        command = [sys.executable, "-m", "metrics_framework", "top", "--interval", "0.2", *arguments]
        self.process = subprocess.Popen(
            [sys.executable, "-c", CTTY, *command],
            stdin=self.screen,
            stdout=self.screen,
            stderr=self.screen,
            start_new_session=True,
            env={**os.environ, **environment},
        )
        return self.process

    def press(self, keys: str) -> None:
        """Press keys."""
        os.write(self.keyboard, keys.encode())

    def wait_for(self, *texts: str) -> str:
        """Wait until the screen contains some texts, and return it."""
        wait_until(lambda: all(text in self.frame() for text in texts), lambda: f"{texts}\n{self.frame()}")
        return self.frame()

    def end(self, code: int) -> str:
        """Wait for the exit code, check that the terminal is restored, and return the whole output."""
        try:
            assert self.process.wait(TIMEOUT_SECONDS) == code
            assert termios.tcgetattr(self.screen) == self.before
        finally:
            self.process.kill()
            self.process.wait()
            output = self.drawn()
        assert output.rindex("\x1b[?1049l") > output.rindex("\x1b[?1049h")
        assert output.rindex("\x1b[?25h") > output.rindex("\x1b[?25l")
        return output


@pytest.fixture
def screen() -> Iterator[Screen]:
    """Return a terminal, and end what runs in it."""
    with Screen() as terminal:
        yield terminal
        if terminal.process.poll() is None:
            terminal.process.kill()
            terminal.process.wait()


@pytest.mark.heavy
def test_a_user_sorts_filters_pauses_and_quits(screen: Screen) -> None:
    """Keys change the table at once, a new size too, and q restores the terminal."""
    with MetricsSystem() as metrics, serve_app(metrics, 0) as server, recording(metrics):
        screen.start(server.url)
        drawn = screen.wait_for("live", "checkout", "bytes.sent", "queue.size", "rate▼", "failed", " %")
        assert all(cell_len(line) <= 120 for line in drawn.splitlines())
        screen.press("\x1b[C")
        screen.wait_for("p50▼")
        screen.press("\x1b[D\x1b[Dr")
        screen.wait_for("operations (1)▼")
        screen.press("/QUEUE")
        screen.wait_for("/QUEUE█", "counters and gauges (1)")
        screen.press("\r")
        assert "checkout" not in screen.wait_for("filter: QUEUE", "q quit")
        screen.press("\x1b")
        screen.wait_for("checkout")
        screen.press("\t")
        screen.wait_for("operations")
        wait_until(lambda: "queue.size" not in screen.frame())
        screen.press("\tp")
        paused = screen.wait_for("paused for ", "bytes.sent")
        time.sleep(0.5)
        assert paused.split("bytes.sent")[1].split("queue")[0] in screen.frame()
        screen.press("p")
        screen.wait_for("live")
        screen.resize(12, 80)
        wait_until(lambda: screen.frame().count("\n") == 11)
        assert all(cell_len(line.rstrip("\r")) <= 80 for line in screen.frame().splitlines())
        screen.press("q")
        screen.end(0)


@pytest.mark.heavy
@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM", "SIGINT"])
def test_an_interruption_restores_the_terminal(screen: Screen, how: str) -> None:
    """The exit code is 130, and no traceback is printed."""
    with MetricsSystem() as metrics, serve_app(metrics, 0) as server:
        process = screen.start(server.url)
        screen.wait_for("live", "nothing is recorded yet")
        if how == "Ctrl-C":
            screen.press("\x03")
        else:
            process.send_signal(getattr(signal, how))
        assert "Traceback" not in screen.end(130)


@pytest.mark.heavy
def test_a_lost_connection_is_shown_and_heals(screen: Screen) -> None:
    """The age of the data and the reason are shown until the service is back with its new numbers."""
    with MetricsSystem() as metrics, serve_app(metrics, 0, bearer_token=TOKEN) as server:
        port = server.port
        metrics.collector.record_gauge("queue.size", 7)
        metrics.collector.record_gauge("old.gauge", 7)
        screen.start(server.url, METRICS_TOKEN=TOKEN)
        screen.wait_for("live", "queue.size")
    screen.wait_for("last data ", " s ago, reconnecting: Connection refused")
    with MetricsSystem() as metrics, serve_app(metrics, port, bearer_token=TOKEN), recording(metrics):
        screen.wait_for("live", "bytes.sent")
    with MetricsSystem() as metrics, serve_app(metrics, port, bearer_token="another"):
        output = screen.end(1)
    assert "HTTP status 401, unauthorized" in output
    assert TOKEN not in output


@pytest.mark.heavy
def test_hostile_names_reach_a_terminal_as_text(screen: Screen) -> None:
    """A service whose names are commands for the terminal cannot send one."""
    body = b"".join(
        b"id: 1-ab\nevent: metric\ndata: %b\n\n" % json.dumps(event("counter", name, 1, 1, 1)).encode()
        for name in HOSTILE
    ) + (b"id: 2-ab\nevent: metric\ndata: %b\n\n" % (b"[" * 3_000_000))

    class Hostile(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not self.path.startswith("/stream?name=x"):
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            self.wfile.write(body)
            ended.wait(TIMEOUT_SECONDS)

        def log_message(self, *arguments: object) -> None:
            pass

    ended = threading.Event()
    with ThreadingHTTPServer(("127.0.0.1", 0), Hostile) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            screen.start(f"http://127.0.0.1:{server.server_port}?name=x")
            screen.wait_for(r"evil\x1b[2J\x1b]0;pwned\x07", r"\u202egnp.exe\u2066", "1 invalid event")
            screen.press("q")
            output = screen.end(0)
        finally:
            ended.set()
            server.shutdown()
            thread.join()
    assert not {"\x07", "\u202e", "\x9b"} & set(output)
    assert "\x1b[2J" not in output.replace("\x1b[?1049h", "")
