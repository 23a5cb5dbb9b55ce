"""Fixtures that start real servers; each worker of a test run has its own.

A test that uses one is skipped if the program is missing, and fails in CI.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.servers.process import LOOPBACK, running
from tests.servers.programs import find, find_axe, find_carbon, find_node, find_statsd, missing
from tests.servers.prometheus import Prometheus, running_prometheus
from tests.servers.receivers import Carbon, Influx, Statsd, VictoriaMetrics, started

Promtool = Callable[[str], tuple[int, str]]


def required(program: str) -> str:
    """Return the path of a program, or skip the test; in CI, fail it."""
    return found(program, find(program))


def found(program: str, path: str | None) -> str:
    """Return the path if a program was found, or skip the test; in CI, fail it."""
    if path is not None:
        return path
    if os.environ.get("CI"):
        pytest.fail(missing(program), pytrace=False)
    pytest.skip(missing(program))


@pytest.fixture(scope="session")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Return a running Prometheus; its first scrape of a target happens within ten seconds."""
    program = required("prometheus")
    with running_prometheus(program, tmp_path_factory.mktemp("prometheus")) as server:
        yield server


@pytest.fixture(scope="session")
def pushgateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of a running Pushgateway; each test should push to its own job."""
    arguments = (f"--web.listen-address={LOOPBACK}", "--persistence.file=pushed")
    command = [required("prometheus-pushgateway"), *arguments]
    with running(command, tmp_path_factory.mktemp("pushgateway")) as address:
        yield address


@pytest.fixture
def node_exporter(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Return the address of a running node_exporter, and the folder of its textfile collector."""
    folder = tmp_path / "textfiles"
    folder.mkdir()
    arguments = (
        *("--collector.disable-defaults", "--collector.textfile", "--web.disable-exporter-metrics"),
        *(f"--collector.textfile.directory={folder}", f"--web.listen-address={LOOPBACK}"),
    )
    command = [required("prometheus-node-exporter"), *arguments]
    with running(command, tmp_path, ready="/") as address:
        yield address, folder


@pytest.fixture
def victoria_metrics(tmp_path: Path) -> Iterator[VictoriaMetrics]:
    """Return a VictoriaMetrics for one test, which may kill and restart it."""
    server = VictoriaMetrics(required("victoria-metrics"), tmp_path)
    with started(server):
        yield server


@pytest.fixture
def influx(tmp_path: Path) -> Iterator[Influx]:
    """Return an InfluxDB 1.6 for one test, with a database `app`."""
    server = Influx(required("influxd"), tmp_path)
    with started(server):
        server.query("CREATE DATABASE app")
        yield server


@pytest.fixture
def statsd(tmp_path: Path) -> Iterator[Statsd]:
    """Return a StatsD daemon for one test."""
    server = Statsd(found("node", find_node()), found("statsd", find_statsd()), tmp_path)
    with started(server):
        yield server


@pytest.fixture
def carbon(tmp_path: Path) -> Iterator[Carbon]:
    """Return Graphite's daemon for one test."""
    server = Carbon(found("carbon", find_carbon()), tmp_path)
    with started(server):
        yield server


@pytest.fixture(scope="session")
def chromium() -> str:
    """Return the path of the browser Chromium."""
    return required("chromium")


@pytest.fixture(scope="session")
def axe_core() -> str:
    """Return the script of axe-core, which checks the accessibility of the page that runs it."""
    return Path(found("axe-core", find_axe())).read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def promtool() -> Promtool:
    """Return a function that runs `promtool check metrics` on a text and returns its exit status and output.

    The status is 0 for a clean text, 1 for a broken one and 3 for one with lints: advice about its names and
    help texts.
    """
    program = required("promtool")

    def check(text: str) -> tuple[int, str]:
        command = [program, "check", "metrics"]
        done = subprocess.run(command, input=text.encode(), capture_output=True, check=False, timeout=60)
        return done.returncode, (done.stdout + done.stderr).decode()

    return check
