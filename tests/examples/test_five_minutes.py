"""The instructions of the page "Prometheus in five minutes" work."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.examples.conftest import EXAMPLES
from tests.servers.fixtures import required
from tests.servers.process import LOOPBACK, running
from tests.servers.prometheus import Prometheus

pytestmark = pytest.mark.heavy

PAGE = EXAMPLES.parent / "docs" / "prometheus-in-five-minutes.md"
QUERIES = re.findall(r"```promql\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Return a Prometheus with the page's configuration that scrapes the page's application."""
    program = required("prometheus")
    folder: Path = tmp_path_factory.mktemp("five_minutes")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    configuration = (EXAMPLES / "five_minutes" / "prometheus.yml").read_text()
    assert "127.0.0.1:9464" in configuration
    assert "scrape_interval: 5s" in configuration
    configuration = configuration.replace("9464", str(port)).replace("5s", "200ms")
    (folder / "prometheus.yml").write_text(configuration)
    application = subprocess.Popen(
        [sys.executable, EXAMPLES / "five_minutes" / "app.py", str(port)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert application.stdout is not None
        assert application.stdout.readline() == f"metrics at http://127.0.0.1:{port}/metrics\n"
        arguments = ("--config.file=prometheus.yml", "--storage.tsdb.path=data")
        with running([program, *arguments, f"--web.listen-address={LOOPBACK}"], folder) as address:
            yield Prometheus(address, folder)
    finally:
        application.kill()
        application.communicate()


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.split("(")[0].strip())
def test_each_query_of_the_page_returns_data(server, query):
    """Prometheus has data for each query of the page within a minute."""
    everything = {"book", "chair", "lamp"} if "item" in query else {None}
    found = server.wait_until(
        query,
        lambda found: (
            {labels.get("item") for labels, _ in found} == everything
            and ("queue" in query or all(value > 0 for _, value in found))
        ),
        60,
    )
    if "outcome" in query:
        assert found[0][1] < 0.3
    if "quantile" in query:
        assert 0.005 < found[0][1] < 1
