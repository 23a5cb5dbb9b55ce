"""The code blocks of the documentation that the pages do not run themselves: outputs, and other languages."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from metrics_framework import MetricsSystem
from tests.metrics_framework.report.sample_runs import write_history, write_run
from tests.servers.fixtures import found, required
from tests.servers.process import request
from tests.servers.programs import find_node
from tests.terminal import ESCAPES

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(not (ROOT / "README.md").exists(), reason="only the wheel is tested")
BLOCK = re.compile(r"(<!--- skip: next -->\s*)?^(`{3,})([^\n]*)\n(.*?)^\2$", re.MULTILINE | re.DOTALL)
RUN = {"python", "console", "sh", "toml"}
"""The languages that `conftest.py` runs."""

NOT_RUN = {
    "CONTRIBUTING.md": (1, "the form of a commit message"),
    "async-services.md": (1, "it needs Django"),
    "command-line.md": (6, "outputs: below, and in cli/ test_telemetry.py, test_top.py and test_serve.py"),
    "continuous-integration.md": (3, "examples/test_performance_workflow.py, and an output below"),
    "dashboards.md": (1, "JavaScript, below"),
    "migrating.md": (2, "OpenTelemetry, below; statsd, whose package is not installed"),
    "multiprocess.md": (1, "below"),
    "prometheus-in-five-minutes.md": (8, "examples/test_five_minutes.py"),
    "prometheus.md": (1, "below"),
    "telemetry.md": (1, "an output, below"),
    "testing.md": (2, "outputs: metrics_framework/testing/test_docs.py"),
    "web.md": (3, "JavaScript, below, and two formats of a stream"),
}
"""Page to the number of its blocks that it does not run, and why, or where they are tested."""

DATA = ROOT / "tests" / "metrics_framework" / "telemetry" / "data"


def shown(page: str, language: str, first: str) -> str:
    """Return the block of a page whose first line begins so."""
    blocks = BLOCK.findall((ROOT / "docs" / page).read_text("utf-8"))
    (text,) = [text for *_, name, text in blocks if name == language and text.startswith(first)]
    return str(text)


def printed(folder: Path, columns: int, *arguments: str | Path) -> list[str]:
    """Return the lines that a command prints on a terminal of some width, without spaces at their ends."""
    environ = {**os.environ, "COLUMNS": str(columns), "FORCE_COLOR": "1", "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-m", "metrics_framework", *arguments]
    done = subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode in {0, 1}, done.stderr
    return [line.rstrip() for line in ESCAPES.sub("", done.stdout).splitlines()]


def test_every_block_runs_or_is_accounted_for():
    """A new block has a language that `conftest.py` runs, or someone has thought about its test."""
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    counts = Counter(
        page.name
        for page in pages
        for skipped, _, language, _ in BLOCK.findall(page.read_text("utf-8"))
        if skipped or (language not in RUN and not language.startswith("{"))
    )
    assert counts == {page: number for page, (number, _) in NOT_RUN.items()}


def test_the_readme_and_the_installation_name_every_extra():
    """The list of extras in the documentation is that of the package."""
    text = " ".join((ROOT / "docs" / "installation.md").read_text("utf-8").split())
    (listed,) = re.findall(r"Each optional dependency has an extra: (.+?)\.", text)
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    (declared,) = re.findall(r"\[project.optional-dependencies\]\n(.*?)\n\n", project, re.DOTALL)
    assert re.findall(r"`(\w+)`", listed) == re.findall(r"^(\w+) =", declared, re.MULTILINE)


# -- outputs -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "first", "file", "left_out"),
    [
        ("command-line.md", "telemetry_sample.jsonl", "telemetry_sample.jsonl", 0),
        ("telemetry.md", "$ metrics-framework telemetry summary", "gpu_h100_run.jsonl", 1),
    ],
)
def test_a_summary_of_telemetry_looks_as_shown(page, first, file, left_out):
    """The page shows lines of the output in their order."""
    lines = iter(printed(DATA, 76, "telemetry", "summary", file))
    expected = shown(page, "text", first).splitlines()[left_out:]
    assert [line for line in expected if line not in lines] == []


@pytest.mark.slow
def test_a_chart_of_the_history_looks_as_shown(tmp_path):
    """The page shows the chart of twelve runs."""
    write_history(tmp_path / "snapshots", jobs=12, shift_at=9, shift=1.3)
    lines = printed(tmp_path, 80, "history", "snapshots", "latency.p95")
    assert lines == shown("command-line.md", "text", "latency.p95, 12 runs").splitlines()


@pytest.mark.slow
def test_a_comparison_looks_as_shown(tmp_path):
    """The pages show a regression, and the last line of an inconclusive comparison."""
    write_history(tmp_path / "snapshots", jobs=20, shift_at=20)
    write_run(tmp_path / "new", 30, branch="topic", factor=1.25)
    write_run(tmp_path / "same", 31, branch="topic")
    lines = printed(tmp_path, 110, "compare", "snapshots", "new")
    assert lines == shown("command-line.md", "text", "baseline ").splitlines()
    last = printed(tmp_path, 200, "compare", "snapshots", "same")[-1]
    assert last == " ".join(shown("continuous-integration.md", "text", "Inconclusive").split())


# -- other languages and programs --------------------------------------------------------------------------


def run_javascript(program: str) -> str:
    """Return what a program prints."""
    node = found("node", find_node())
    done = subprocess.run(
        [node, "-e", program], capture_output=True, encoding="utf-8", check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.heavy
def test_the_panels_of_a_dashboard_can_be_drawn():
    """The page's JavaScript turns each panel of lines into data sets with times in milliseconds."""
    metrics = MetricsSystem()
    for _ in range(3):
        with metrics.measure("checkout"):
            pass
    panels = json.dumps(metrics.create_dashboard_data("overview")["panels"])
    code = shown("dashboards.md", "js", "panel.series.map").removesuffix(";\n")
    drawn = json.loads(run_javascript(f"console.log(JSON.stringify({panels}.map(panel => {code})))"))
    points = [
        (one["label"], point["x"] / 1e3) for panel in drawn for one in panel if one for point in one["data"]
    ]
    assert "checkout" in {label for label, _ in points}
    assert all(abs(seconds - time.time()) < 7200 for _, seconds in points)


@pytest.mark.heavy
def test_a_page_reads_the_stream():
    """The page's JavaScript shows metrics, tells of dropped events, and tries again after the end."""
    code = shown("web.md", "javascript", "const source")
    prepared = """
        class EventSource extends EventTarget {
            static CLOSED = 2;
            constructor(url) { super(); console.log(url); }
        }
        const show = (event) => console.log("shown", event.name);
        const warn = (number) => console.log("dropped", number);
        const tryAgainLater = () => console.log("again");
        const send = (type, data) =>
            source.dispatchEvent(Object.assign(new Event(type), { data: JSON.stringify(data) }));
    """
    events = """
        send("metric", { name: "http.requests" });
        send("dropped", { dropped: 12 });
        source.readyState = EventSource.CLOSED;
        source.onerror();
    """
    assert run_javascript(prepared + code + events).splitlines() == [
        "/internal/stream?name=http.*",
        "shown http.requests",
        "dropped 12",
        "again",
    ]


def test_the_code_for_opentelemetry_does_what_ours_does():
    """The page's code for OpenTelemetry records the metrics that its translation records."""
    metrics = pytest.importorskip("opentelemetry.sdk.metrics")
    reader = metrics.export.InMemoryMetricReader()
    provider = metrics.MeterProvider([reader])
    exec(shown("migrating.md", "text", "meter = metrics"), {"metrics": provider})
    (scope,) = reader.get_metrics_data().resource_metrics[0].scope_metrics
    sums = {metric.name: next(iter(metric.data.data_points)) for metric in scope.metrics}
    provider.shutdown()
    namespace = {"MetricsSystem": MetricsSystem}
    exec(shown("migrating.md", "python", "collector = MetricsSystem().collector"), namespace)
    ours = MetricsSystem(collector=namespace["collector"]).aggregator
    assert sums["http.requests"].value == ours.get_metric_summary("http.requests")["sum"] == 1
    assert (
        sums["http.request.duration"].sum == ours.get_metric_summary("http.request.duration")["sum"] == 12.5
    )


@pytest.mark.heavy
def test_prometheus_accepts_the_configuration(tmp_path):
    """The configuration with TLS and a token is valid."""
    (tmp_path / "prometheus.yml").write_text(shown("prometheus.md", "yaml", "scrape_configs"))
    command = [required("promtool"), "check", "config", "--syntax-only", "prometheus.yml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def serving(command: list[str], address: str, log: Path) -> Iterator[None]:
    """Run a server until it answers, and end it and its workers afterwards."""
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
    try:
        end = time.monotonic() + 120
        while True:
            try:
                request("GET", address, "/metrics")
                break
            except OSError:
                assert time.monotonic() < end, log.read_text()
                assert process.poll() is None, log.read_text()
                time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.heavy
@pytest.mark.parametrize(("place", "option"), [(0, "--bind=127.0.0.1:{}"), (1, "--port={}")])
def test_a_server_with_several_workers_starts_as_shown(place, option, tmp_path):
    """The page's command starts workers of which any answers a scrape for all."""
    lines = shown("multiprocess.md", "text", "gunicorn").splitlines()
    assert lines[2] == "curl http://127.0.0.1:8000/metrics"
    program, *arguments = shlex.split(lines[place])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", program, option.format(port), *arguments]
    with (
        serving(command, f"127.0.0.1:{port}", tmp_path / "log"),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
    ):
        client.post("/orders", json={"item": "book", "quantity": 2}).raise_for_status()
        text = client.get("/metrics").raise_for_status().text
    assert "# TYPE orders" in text
