"""The cost of a record, beside other libraries: time, instructions and memory.

Each library runs each case in a process of its own, and the libraries take turns of some milliseconds, so
that a machine that slows down slows all of them. A time is the CPU time of the recording thread, the least of
all turns; deferred work is part of it. The processes are started again in each round, as their layout in
memory is random.

``python -m benchmarks.recording [--rounds N] [--only PATTERN] [--quick] [--no-instructions]
[--json FILE]`` prints the tables.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from rich.console import Console
from rich.progress import track

from benchmarks.peers import BASE, OURS, PEERS, PURE, environment
from benchmarks.plot import MEASURED, PICTURE, draw
from benchmarks.recording_workers import CASES, COUNTED, EMPTY, MEMORY, WINDOWS
from benchmarks.tables import Report

ROUNDS = 3
TURNS = 12
"""How many turns each library gets in a round."""

QUICK = 0.02
"""The share of calls and series in a quick run, which only shows that everything runs."""

TAIL = "40 000 histogram records"
TAILED = (OURS, PURE, BASE)

Results = dict[str, Any]


def main(rounds: int = ROUNDS) -> Report:
    """Measure everything, print and draw it, and return the tables; `plot.MEASURED` keeps the numbers."""
    results = measure(rounds)
    MEASURED.write_text(json.dumps(results, indent=1) + "\n")
    PICTURE.write_text(draw(results))
    report = tables(results)
    report.show()
    return report


def measure(rounds: int, only: str = "", scale: float = 1, *, instructions: bool = True) -> Results:
    """Return all numbers, of the cases whose titles match a pattern.

    Args:
        rounds: How often each process is started.
        only: A regular expression.
        scale: Share of the calls and series, 1 for all.
        instructions: Whether to count instructions, if valgrind is installed.
    """
    cases = [title for title in CASES if re.search(only, title)]
    turns = TURNS if scale == 1 else 1
    failures: dict[str, str] = {}
    found: Results = {"times": {}, "instructions": {}, "tail": {}, "memory": {}, "windows": {}}
    console = Console(stderr=True)
    for title in track([EMPTY, *cases] * rounds, "times", console=console):
        _add_least(found["times"].setdefault(title, {}), _times(title, turns, scale, failures))
    if instructions and shutil.which("valgrind"):
        found["instructions"] = _instructions(cases if scale == 1 else cases[:1], failures, console)
    others = [
        *(("tail", TAIL, peer) for peer in TAILED),
        *(("memory", title, peer) for title in MEMORY for peer in PEERS),
        *(("windows", title, peer) for title in WINDOWS for peer in (OURS, PURE)),
    ]
    wanted = [job for job in others if re.search(only, f"{job[0]}, {job[1]}")]
    for measure, title, peer in track(wanted, "memory", console=console):
        result = _run_once(measure, peer, title, scale, failures)
        if result is not None:
            found[measure].setdefault(title, {})[peer] = result
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "rounds": rounds,
        "turns": turns,
        "versions": {peer: _version(library.package) for peer, library in PEERS.items()},
        **found,
        "failures": failures,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _add_least(into: dict[str, float], times: dict[str, float]) -> None:
    for peer, ns in times.items():
        into[peer] = min(ns, into.get(peer, ns))


# -- processes ---------------------------------------------------------------------------------------------


class Worker:
    """The process of one library in one case; see `recording_workers.serve_turns`."""

    def __init__(self, peer: str, title: str, scale: float) -> None:
        self.peer = peer
        self._errors: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in __exit__
        self._process = subprocess.Popen(
            _command("time", peer, title, scale),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            bufsize=1,
            env=environment(peer),
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def answer(self) -> Any:
        """Return the next line of the process; ``None`` if it ended."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return json.loads(line) if line else None

    def turn(self) -> float | None:
        """Return nanoseconds a call, of one turn; ``None`` if the process ended."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("\n")
        except BrokenPipeError:
            return None
        ns: float | None = self.answer()
        return ns

    def last_words(self) -> str:
        """Return the last line on standard error."""
        status = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().split("\n")
        return next((line for line in reversed(lines) if line.strip()), f"ended with status {status}")


def _times(title: str, turns: int, scale: float, failures: dict[str, str]) -> dict[str, float]:
    """Return the least time of a call in each library that has the case."""
    does = None if title == EMPTY else CASES[title].does
    peers = [peer for peer, library in PEERS.items() if does is None or does in library.statements]
    peers = peers if does else peers[:1]
    least: dict[str, float] = {}
    workers = [Worker(peer, title, scale) for peer in peers]
    try:
        running = [worker for worker in workers if worker.answer() is not None]
        if title != EMPTY:
            turns = CASES[title].turns or turns
        for _ in range(turns):
            for worker in list(running):
                ns = worker.turn()
                if ns is None:
                    running.remove(worker)
                else:
                    _add_least(least, {worker.peer: ns})
        for worker in set(workers) - set(running):
            least.pop(worker.peer, None)
            failures[f"{worker.peer}: {title}"] = worker.last_words()
    finally:
        for worker in workers:
            worker.__exit__(None, None, None)
    return least


def _instructions(
    cases: Iterable[str], failures: dict[str, str], console: Console
) -> dict[str, dict[str, float]]:
    """Return the instructions of a call, counted by valgrind; other load does not change them."""
    jobs = [
        (title, peer)
        for title in cases
        if CASES[title].threads == 1 and CASES[title].given != "name"
        for peer, library in PEERS.items()
        if CASES[title].does in library.statements and f"{peer}: {title}" not in failures
    ]
    counts: dict[str, dict[str, float]] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(lambda job: _count(*job), jobs)
        for (title, peer), count in track(
            zip(jobs, results, strict=True), "instructions", len(jobs), console=console
        ):
            if isinstance(count, str):
                failures[f"{peer}: {title}, instructions"] = count
            else:
                counts.setdefault(title, {})[peer] = count
    return counts


def _count(title: str, peer: str) -> float | str:
    """Return the instructions of a call, or an error message."""
    totals = []
    for index in range(len(COUNTED)):
        done = subprocess.run(
            [
                "valgrind",
                "--tool=cachegrind",
                "--cache-sim=no",
                "--cachegrind-out-file=/dev/null",
                *_command("count", peer, title, index),
            ],
            env={**environment(peer), "PYTHONHASHSEED": "0"},
            capture_output=True,
            text=True,
            check=False,
        )
        total = re.search(r"I +refs: +([\d,]+)", done.stderr)
        if done.returncode or not total:
            return done.stderr.strip().rpartition("\n")[2]
        totals.append(int(total[1].replace(",", "")))
    return (totals[1] - totals[0]) / (COUNTED[1] - COUNTED[0])


def _run_once(
    measure: str, peer: str, title: str, scale: float, failures: dict[str, str]
) -> dict[str, float] | None:
    done = subprocess.run(
        _command(measure, peer, title, scale),
        env=environment(peer),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        failures[f"{peer}: {measure}, {title}"] = done.stderr.strip().rpartition("\n")[2]
        return None
    result: dict[str, float] = json.loads(done.stdout)
    return result


def _command(measure: str, peer: str, title: str, scale: float) -> list[str]:
    return [sys.executable, "-m", "benchmarks.recording_workers", measure, peer, title, str(scale)]


# -- tables ------------------------------------------------------------------------------------------------


def tables(results: Results) -> Report:
    """Return the tables of the documentation."""
    report = Report()
    versions = ", ".join(
        f"{peer} {version}" for peer, version in results["versions"].items() if version and peer != PURE
    )
    empty = results["times"][EMPTY][OURS]
    report.say(
        f"{results['python']}; {versions}. The minimum of {results['rounds'] * results['turns']} turns; the "
        f"loop alone takes {empty:.0f} ns a call."
    )
    busy = results["times"].get("2 000 histograms, each once a second", {})
    if OURS in busy:
        report.say(
            "2 000 histograms that record once a second, and so close a time slot with every record, take "
            f"{busy[OURS] * 2_000 / 1e7:.1f} % of a core"
            + (f", with the pure engine {busy[PURE] * 2_000 / 1e7:.1f} %." if PURE in busy else ".")
        )
    times = {title: row for title, row in results["times"].items() if title != EMPTY}
    _table(report, "Recording: nanoseconds of CPU a call (ratio to prometheus_client)", times)
    _table(report, "Instructions a call (ratio to prometheus_client)", results["instructions"])
    memory = {
        title: {peer: found["bytes"] for peer, found in row.items()}
        for title, row in results["memory"].items()
    }
    _table(report, "Resident bytes a series (ratio to prometheus_client)", memory)
    if results["windows"]:
        report.table("Bytes of the time windows of one name over 30 days", [OURS, PURE])
        for title, row in results["windows"].items():
            report.row(title, [_cell(row.get(peer, {}).get("bytes"), None) for peer in (OURS, PURE)])
    if results["tail"]:
        keys = ["p50", "p99.99", "max"]
        report.table(f"Slowest of {TAIL} beside a reader in a loop, in microseconds", keys)
        for peer, found in results["tail"][TAIL].items():
            report.row(peer, [f"{found[key]:.1f}" for key in keys])
    by_reason: dict[str, list[str]] = {}
    for where, why in results["failures"].items():
        by_reason.setdefault(why, []).append(where)
    for why, places in by_reason.items():
        more = f" and {len(places) - 1} more" if len(places) > 1 else ""
        report.say(f"Not measured: {places[0]}{more}: {why}")
    return report


def _table(report: Report, title: str, rows: dict[str, dict[str, float]]) -> None:
    if rows:
        report.table(title, list(PEERS))
    for label, row in rows.items():
        base = row.get(BASE)
        report.row(label, [_cell(row.get(peer), base) for peer in PEERS])


def _cell(value: float | None, base: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.0f} ({value / base:.2f})" if base else f"{value:.0f}"


def run(arguments: list[str] | None = None) -> None:
    """Measure the cases that the command line selects and print the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.recording", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how often each process is started")
    parser.add_argument("--only", default="", metavar="PATTERN", help="the cases that match")
    parser.add_argument("--quick", action="store_true", help="do little: the numbers mean nothing")
    parser.add_argument("--no-instructions", action="store_true", help="count no instructions")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers into a file")
    chosen = parser.parse_args(arguments)
    results = measure(
        1 if chosen.quick else chosen.rounds,
        chosen.only,
        QUICK if chosen.quick else 1,
        instructions=not chosen.no_instructions,
    )
    if chosen.json:
        chosen.json.write_text(json.dumps(results, indent=1) + "\n")
    tables(results).show()


if __name__ == "__main__":
    run()
