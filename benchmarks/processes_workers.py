"""Measures the sharing of numbers between processes.

``python -m benchmarks.processes_workers PEER scrape`` forks workers of one library that record the same
series, kills more and more of them, and prints what a scrape costs as JSON. With ``record``, all libraries
record in turns.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import sys
import tempfile
import time
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from benchmarks.peers import BASE, OURS, TAGS
from benchmarks.scraping_workers import BUCKETS

LIVE = 4
DEAD = (0, 20, 100, 1_000)
COUNTERS, HISTOGRAMS = 100, 20
SCRAPES = 9

ARCHIVE_SECONDS = 120.0
"""How long the numbers of workers that have ended may take to be archived."""

RECORDS = 20_000
TURNS = 15


class Library(Protocol):
    """One library in a process that others will share numbers with."""

    def record(self) -> None:
        """Record into every series once."""
        ...

    def scrape(self) -> bytes:
        """Return the numbers of all processes."""
        ...

    def is_settled(self) -> bool:
        """Return whether nothing is left to do for workers that have ended."""
        ...


class Ours:
    """This library."""

    def __init__(self, folder: Path) -> None:
        from metrics_adapters.prometheus import Exposition
        from metrics_framework import MetricsSystem

        metrics = MetricsSystem(shared=folder)
        collector = metrics.collector
        self._folder = folder
        self._exposition = Exposition(collector.store)
        self._counters = [collector.counter("requests", tags) for tags in _tags(COUNTERS)]
        self._histograms = [collector.histogram("latency", tags) for tags in _tags(HISTOGRAMS)]

    def record(self) -> None:
        for counter in self._counters:
            counter.add()
        for histogram in self._histograms:
            histogram.observe(0.3)

    def scrape(self) -> bytes:
        return self._exposition.render()

    def is_settled(self) -> bool:
        return len(list(self._folder.glob("*/*.page"))) <= LIVE + 1  # that of the process that forked them


class PrometheusClient:
    """prometheus_client in its multiprocess mode."""

    def __init__(self, folder: Path) -> None:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
        from prometheus_client import Counter, Histogram

        requests = Counter("requests", "help", ["route", "method"])
        latency = Histogram("latency", "help", ["route", "method"], buckets=BUCKETS)
        # Made in each process: files belong to the process that makes a child.
        self._make: Callable[[], tuple[list[Any], list[Any]]] = lambda: (
            [requests.labels(**tags) for tags in _tags(COUNTERS)],
            [latency.labels(**tags) for tags in _tags(HISTOGRAMS)],
        )
        self._children: tuple[list[Any], list[Any]] | None = None

    def record(self) -> None:
        if self._children is None:
            self._children = self._make()
        counters, histograms = self._children
        for counter in counters:
            counter.inc()
        for histogram in histograms:
            histogram.observe(0.3)

    def scrape(self) -> bytes:
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.multiprocess import MultiProcessCollector

        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)

    def is_settled(self) -> bool:
        return True


LIBRARIES: dict[str, Callable[[Path], Library]] = {OURS: Ours, BASE: PrometheusClient}


def _tags(number: int) -> list[dict[str, str]]:
    return [{"route": f"/items/{index}", "method": "GET"} for index in range(number)]


# -- scrapes ---------------------------------------------------------------------------------------------


class Worker:
    """A forked worker that obeys commands of one letter."""

    def __init__(self, library: Library) -> None:
        self._commands, commands = os.pipe()
        answers, self._answers = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self._serve(library)
            finally:
                os._exit(1)
        os.close(self._commands)
        os.close(self._answers)
        self._to, self._from = os.fdopen(commands, "w"), os.fdopen(answers)

    def _serve(self, library: Library) -> None:
        with os.fdopen(self._commands) as commands, os.fdopen(self._answers, "w") as answers:
            while True:
                command = commands.readline().strip()
                if command == "record":
                    library.record()
                    answer: Any = None
                elif command == "scrape":
                    begin = time.thread_time()
                    text = library.scrape()
                    answer = [1e3 * (time.thread_time() - begin), _requests(text)]
                else:
                    answer = _resident_bytes()
                answers.write(json.dumps(answer) + "\n")
                answers.flush()

    def ask(self, command: str) -> Any:
        """Send a command, and return the answer."""
        self._to.write(command + "\n")
        self._to.flush()
        return json.loads(self._from.readline())

    def kill(self) -> None:
        """Kill the worker."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self._to.close()
        self._from.close()


def _requests(text: bytes) -> float:
    lines = text.decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("requests_total{"))


def _resident_bytes() -> int:
    with Path("/proc/self/statm").open() as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def scrapes(peer: str) -> dict[str, float]:
    """Return milliseconds of a scrape with more and more dead workers, and what all of it takes up."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        folder = Path(name)
        library = LIBRARIES[peer](folder)
        live = [Worker(library) for _ in range(LIVE)]
        dead = rounds = 0
        for number in DEAD:
            while dead < number:
                worker = Worker(library)
                worker.ask("record")
                worker.kill()
                dead += 1
            milliseconds = []
            for scrape in range(SCRAPES + 1):
                for worker in live:
                    worker.ask("record")
                rounds += 1
                taken, requests = live[0].ask("scrape")
                if requests != COUNTERS * (LIVE * rounds + dead):
                    sys.exit(f"{peer}: {requests:g} requests with {dead} dead workers")
                if scrape == 0:
                    found[f"first, {number}"] = taken
                    _settle(library)
                else:
                    milliseconds.append(taken)
            found[f"later, {number}"] = statistics.median(milliseconds)
            files = [path.stat() for path in folder.rglob("*") if path.is_file()]
            found[f"disk, {number}"] = sum(512 * file.st_blocks for file in files) / 1e6
            found[f"memory, {number}"] = live[0].ask("memory") / 1e6
        for worker in live:
            worker.kill()
    return found


def _settle(library: Library) -> None:
    end = time.monotonic() + ARCHIVE_SECONDS
    while not library.is_settled():
        if time.monotonic() > end:
            sys.exit("the numbers of workers that have ended were not archived")
        time.sleep(0.1)


# -- records ---------------------------------------------------------------------------------------------


def records() -> dict[str, float]:
    """Return nanoseconds of CPU of a record: shared, in one process, and in prometheus_client."""
    from metrics_framework import MetricsSystem

    with tempfile.TemporaryDirectory() as ours, tempfile.TemporaryDirectory() as theirs:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = theirs
        from prometheus_client import CollectorRegistry, Counter, Histogram

        registry = CollectorRegistry()
        requests = Counter("requests", "help", list(TAGS), registry=registry)
        latency = Histogram("latency", "help", list(TAGS), registry=registry, buckets=BUCKETS)
        shared, single = MetricsSystem(shared=ours).collector, MetricsSystem().collector
        bound, bound_single = shared.counter("bound", TAGS), single.counter("bound", TAGS)
        seen, seen_single = shared.histogram("seen", TAGS), single.histogram("seen", TAGS)
        timers = {
            f"{what}, {whose}": timeit.Timer(
                statement, timer=time.thread_time, globals={**names, "tags": TAGS}
            )
            for what, whose, statement, names in (
                ("bound counter", "shared", "add()", {"add": bound.add}),
                ("bound counter", "single", "add()", {"add": bound_single.add}),
                ("bound counter", "theirs", "inc()", {"inc": requests.labels(**TAGS).inc}),
                ("counter", "shared", "record('requests', 1, tags)", {"record": shared.record_counter}),
                ("counter", "single", "record('requests', 1, tags)", {"record": single.record_counter}),
                ("counter", "theirs", "labels(**tags).inc()", {"labels": requests.labels}),
                ("bound histogram", "shared", "observe(0.3)", {"observe": seen.observe}),
                ("bound histogram", "single", "observe(0.3)", {"observe": seen_single.observe}),
                ("bound histogram", "theirs", "observe(0.3)", {"observe": latency.labels(**TAGS).observe}),
            )
        }
        found: dict[str, float] = {}
        for _ in range(TURNS):
            for name, timer in timers.items():
                taken = 1e9 * timer.timeit(RECORDS) / RECORDS
                found[name] = min(found.get(name, taken), taken)
        return found


if __name__ == "__main__":
    print(json.dumps(records() if sys.argv[2] == "record" else scrapes(sys.argv[1])))
