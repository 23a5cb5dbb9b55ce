"""Real servers with several workers: any worker answers for all, whatever happens to the others."""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from metrics_framework.recording import engine

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(sys.platform != "linux", reason="finds and kills the workers of Linux servers"),
]

SERVICE = "tests.metrics_framework.processes.service"
ROOT = Path(__file__).parents[3]
STARTING = 60.0
"""Seconds until a server answers, on a busy machine."""
WORKERS = 4

SERVERS = {
    "gunicorn": ["gunicorn", "-w", str(WORKERS), "-k", "gthread", "--threads", "4", f"{SERVICE}:wsgi"],
    "gunicorn preloaded": [
        *("gunicorn", "--preload", "-w", str(WORKERS), "-k", "gthread", "--threads", "4", f"{SERVICE}:wsgi"),
    ],
    "gunicorn asgi": ["gunicorn", "-w", str(WORKERS), "-k", "asgi", f"{SERVICE}:asgi"],
    "gunicorn gevent": ["gunicorn", "-w", str(WORKERS), "-k", "gevent", f"{SERVICE}:wsgi"],
    "uvicorn": ["uvicorn", "--workers", str(WORKERS), "--log-level", "warning", f"{SERVICE}:asgi"],
}


class Server:
    """A running server with several workers.

    Args:
        name: Its name in `SERVERS`.
        folder: The folder of the shared numbers and of its log.
        options: More arguments.
        environ: More variables of its environment.
    """

    def __init__(self, name: str, folder: Path, *options: str, **environ: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        program, *arguments = SERVERS[name]
        where = ["--bind", f"127.0.0.1:{self.port}"] if program == "gunicorn" else ["--port", str(self.port)]
        self.log = folder / "server.log"
        paths = [str(ROOT), str(ROOT / "adapters"), *filter(None, [os.environ.get("PYTHONPATH")])]
        variables = {**os.environ, "SHARED_FOLDER": str(folder / "shared"), **environ}
        variables["PYTHONPATH"] = os.pathsep.join(paths)
        with self.log.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", program, *arguments, *where, *options],
                cwd=folder,
                env=variables,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def workers(self) -> list[psutil.Process]:
        """Return the workers: the children that are not helpers of multiprocessing."""
        with suppress(psutil.Error):
            every = psutil.Process(self.process.pid).children()
            return [each for each in every if not any("resource_tracker" in word for word in _command(each))]
        return []

    def get(self, path: str) -> str:
        """Return the body of a response.

        Raises:
            OSError: If the worker that took the request has died, for example.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path, headers={"Connection": "close"})
            response = connection.getresponse()
            body = response.read().decode()
            if response.status != http.client.OK:
                raise OSError(f"{path} answered {response.status}: {body[:200]}")
            return body
        except http.client.HTTPException as error:
            raise OSError(repr(error)) from error
        finally:
            connection.close()

    def wait(self) -> None:
        """Wait until all workers have answered.

        Raises:
            AssertionError: If they have not in time; the message has the log.
        """
        end, seen = time.monotonic() + STARTING, set()
        while len(seen) < WORKERS:
            with suppress(OSError):
                seen.add(json.loads(self.get("/numbers"))["pid"])
            is_waiting = time.monotonic() < end and self.process.poll() is None
            assert is_waiting, f"{seen}\n{self.log.read_text()}"

    def get_later(self, path: str) -> str:
        """Return the body of a response, also if the worker that takes the first request has just died."""
        end = time.monotonic() + STARTING
        while True:
            try:
                return self.get(path)
            except OSError:
                assert time.monotonic() < end, self.log.read_text()


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@contextmanager
def running(name: str, folder: Path, *options: str, **environ: str) -> Iterator[Server]:
    """Run a server in the block, and wait until all of its workers answer."""
    pytest.importorskip(SERVERS[name][0])
    if "gevent" in name:
        pytest.importorskip("gevent")
    server = Server(name, folder, *options, **environ)
    try:
        server.wait()
        yield server
        assert server.process.poll() is None, server.log.read_text()
    finally:
        children = server.workers()
        server.process.terminate()
        try:
            server.process.wait(15)
        except subprocess.TimeoutExpired:
            server.process.kill()
            server.process.wait()
        for child in children:
            with suppress(psutil.Error):
                child.kill()


def samples(text: str) -> dict[str, float]:
    """Return the samples of a scrape by name and labels."""
    return {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line and not line.startswith("#")
    }


GROWING = re.compile(r".*(_total|_count|_bucket\{.*\})$")


class Load:
    """Requests of several threads, and scrapes beside them, until the end of a block.

    Attributes:
        sent: The number of requests that were sent.
        answered: The values of the requests that were answered.
        fallen: The samples of counters that were lower than in an earlier scrape.
        scrapes: The number of scrapes that were answered.
    """

    def __init__(self, server: Server, seed: int = 1) -> None:
        self.sent = self.scrapes = 0
        self.answered: list[float] = []
        self.fallen: list[str] = []
        self._server = server
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._ends = threading.Event()
        self._threads = [threading.Thread(target=self._send) for _ in range(3)]
        self._threads.append(threading.Thread(target=self._scrape))

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join()

    def _send(self) -> None:
        while not self._ends.is_set():
            with self._lock:
                self.sent += 1
                value = self._random.lognormvariate(3, 1)
            try:
                self._server.get(f"/work?value={value!r}")
            except OSError:
                time.sleep(0.01)
                continue
            with self._lock:
                self.answered.append(value)

    def _scrape(self) -> None:
        before: dict[str, float] = {}
        while not self._ends.is_set():
            try:
                found = samples(self._server.get("/metrics"))
            except OSError:
                continue
            self.scrapes += 1
            for name, value in before.items():
                if found.get(name, -1.0) < value:
                    self.fallen.append(f"{name}: {value} -> {found.get(name)}")
            before |= {name: value for name, value in found.items() if GROWING.fullmatch(name)}
            time.sleep(0.05)

    def check(self, lost: int = 0) -> None:
        """Assert that each worker knows the requests of all, after the end of the load.

        Args:
            lost: How many answered requests may be missing.
        """
        assert self.fallen == []
        assert self.scrapes > 0
        counts: set[float] = set()
        for _ in range(2 * WORKERS):
            found = samples(self._server.get_later("/metrics"))
            numbers: dict[str, Any] = json.loads(self._server.get_later("/numbers"))
            counts |= {found["requests_total"], found["values_count"], numbers["count"]}
        least = len(self.answered) - lost
        is_right = all(least <= count <= self.sent for count in counts)
        assert is_right, f"{least} <= {counts} <= {self.sent}\n{self._server.log.read_text()}"
        values = sorted(self.answered)
        for share in (50, 90, 95, 99):
            # The requests that a killed worker did not answer may be counted or not.
            slack = self.sent - len(values) + lost
            low = values[max(0, len(values) * share // 100 - 1 - slack)]
            high = values[min(len(values) - 1, len(values) * share // 100 + 1 + slack)]
            assert low * 0.99 <= numbers[f"p{share}"] <= high * 1.01


LOST_BY_A_KILL = 0 if engine.ENGINE == "compiled" else 100_000
"""The pure engine loses what a killed worker recorded since its last frame."""


@pytest.mark.parametrize("name", SERVERS)
def test_any_worker_answers_for_all(name, tmp_path):
    """After requests to all workers, each scrape has the exact totals, and each snapshot the percentiles."""
    with running(name, tmp_path) as server:
        with Load(server) as load:
            time.sleep(2)
        if engine.ENGINE != "compiled":
            time.sleep(1.5)  # the next frames
        assert load.sent == len(load.answered)
        load.check()


@pytest.mark.parametrize("name", ["gunicorn", "gunicorn preloaded", "gunicorn asgi", "uvicorn"])
def test_killed_workers_lose_nothing(name, tmp_path, soak):
    """Workers are killed under load: totals lie between the answered and the sent requests and never fall."""
    with running(name, tmp_path) as server:
        with Load(server) as load:
            end = time.monotonic() + soak(120)
            kills = 0
            while time.monotonic() < end:
                time.sleep(1)
                if workers := server.workers():
                    random.Random(kills).choice(workers).kill()
                    kills += 1
        assert kills >= 3
        time.sleep(1.5)
        load.check(lost=LOST_BY_A_KILL)


@pytest.mark.parametrize("name", ["gunicorn", "gunicorn preloaded"])
def test_recycled_and_reloaded_workers_lose_nothing(name, tmp_path, soak):
    """Workers end after some requests, and all of them at a reload: the totals go on and never fall."""
    with running(name, tmp_path, "--max-requests", "40", "--max-requests-jitter", "10") as server:
        with Load(server) as load:
            for _ in range(soak(30)):
                time.sleep(2)
                server.process.send_signal(signal.SIGHUP)
                time.sleep(1)
                server.wait()  # gunicorn ends if a reload interrupts a worker that begins
        time.sleep(1.5)
        load.check()


def test_gauges_count_living_workers(tmp_path):
    """No request is in flight after workers were killed in the middle of some."""
    with running("gunicorn", tmp_path) as server:
        with Load(server):
            for _ in range(4):
                time.sleep(0.5)
                if workers := server.workers():
                    workers[0].kill()
        time.sleep(1.5)
        assert samples(server.get_later("/metrics"))["in_flight"] == 0


def test_a_restarted_server_counts_from_zero(tmp_path):
    """A new master is a new generation, and the folder of the old one is removed."""
    with running("gunicorn", tmp_path) as server:
        for _ in range(20):
            server.get("/work?value=1")
    before = {each.name for each in (tmp_path / "shared").iterdir()}
    with running("gunicorn", tmp_path) as server:
        server.get("/work?value=1")
        time.sleep(1.5)
        assert samples(server.get_later("/metrics"))["requests_total"] == 1
        folders = {each.name for each in (tmp_path / "shared").iterdir()}
        assert len(folders) == 1
        assert not folders & before


def test_prometheus_sees_one_service(tmp_path, prometheus):
    """A real Prometheus that scrapes whichever worker answers sees totals that agree and never fall."""
    with running("gunicorn", tmp_path) as server:
        job = f"workers-{server.port}"
        prometheus.add_target(job, f"127.0.0.1:{server.port}")
        with Load(server) as load:
            prometheus.wait_until(f'requests_total{{job="{job}"}}', bool, 30)
            for _ in range(5):
                time.sleep(1)
                if workers := server.workers():
                    workers[0].kill()
        time.sleep(1.5)
        load.check(lost=LOST_BY_A_KILL)
        [(_, resets)] = prometheus.query(f'resets(requests_total{{job="{job}"}}[5m])')
        assert resets == 0
        counted = prometheus.wait_until(
            f'requests_total{{job="{job}"}}', lambda found: found[0][1] >= len(load.answered) - LOST_BY_A_KILL
        )
        assert counted[0][1] <= load.sent
