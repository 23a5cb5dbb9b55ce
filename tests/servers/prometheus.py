"""A real Prometheus server, and its queries."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.servers.process import LOOPBACK, request, running

Sample = tuple[dict[str, str], float]
"""The labels of a series, with its name as ``__name__``, and its number."""

_CONFIGURATION = """
global: {scrape_interval: 100ms, scrape_timeout: 100ms}
scrape_configs:
- job_name: targets
  file_sd_configs: [{files: ["targets/*.json"]}]
"""


class Prometheus:
    """A running server.

    Args:
        address: Its host and port.
        folder: The folder with its targets.
    """

    def __init__(self, address: str, folder: Path) -> None:
        self.address = address
        self._folder = folder

    def add_target(self, job: str, address: str) -> None:
        """Have ``/metrics`` of an address scraped every 100 ms, as a separate job.

        Prometheus takes up to ten seconds until it begins: add all targets before you wait for the first.
        """
        written = self._folder / f"{job}.written"
        written.write_text(json.dumps([{"targets": [address], "labels": {"job": job}}]))
        written.rename(self._folder / "targets" / f"{job}.json")  # never seen half written

    def api(self, endpoint: str, **parameters: str) -> Any:
        """Return the data of a response of ``/api/v1/``.

        Raises:
            ValueError: If it answers an error.
        """
        _, text = request("GET", self.address, f"/api/v1/{endpoint}?{urlencode(parameters)}")
        answer = json.loads(text)
        if answer["status"] != "success":
            raise ValueError(f"{endpoint} of {parameters}: {answer['error']}")
        return answer["data"]

    def query(self, query: str) -> list[Sample]:
        """Return the result of an instant query: a vector."""
        result = self.api("query", query=query)["result"]
        return [(series["metric"], float(series["value"][1])) for series in result]

    def wait_until(
        self, query: str, holds: Callable[[list[Sample]], bool], seconds: float = 15.0
    ) -> list[Sample]:
        """Repeat an instant query until its result meets a condition, and return that result.

        Raises:
            AssertionError: If it does not hold in time; the message has the last result.
        """
        end = time.monotonic() + seconds
        while not holds(result := self.query(query)):
            assert time.monotonic() < end, f"{query} after {seconds} s: {result}"
            time.sleep(0.05)
        return result


@contextmanager
def running_prometheus(program: str, folder: Path, jobs: str = "") -> Iterator[Prometheus]:
    """Run a Prometheus in an empty folder.

    Args:
        program: Its path.
        folder: Its working directory.
        jobs: More entries of ``scrape_configs`` in YAML, beside the targets that are added later.
    """
    (folder / "targets").mkdir()
    (folder / "prometheus.yml").write_text(_CONFIGURATION + jobs)
    arguments = ("--config.file=prometheus.yml", "--storage.tsdb.path=data")
    with running([program, *arguments, f"--web.listen-address={LOOPBACK}"], folder) as address:
        yield Prometheus(address, folder)
