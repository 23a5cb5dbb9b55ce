"""The cost of a history query over thousands of snapshots, beside reading them all as JSON.

The ways take turns, each in a process of its own as the command line is, and a ratio is the median of the
ratios within a turn. The cost of starting an interpreter and importing the library is excluded.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console
from rich.progress import track

from benchmarks.tables import Report

FILES = 5_000
ROUNDS = 11
INDEX = ".history.sqlite"
ASK = """
import glob, json, sys, time
from pathlib import Path
from metrics_adapters.snapshot_writer import SnapshotAggregator
folder = sys.argv[1]
begin = time.perf_counter()
{question}
print(time.perf_counter() - begin)
"""
READ = """
runs = [json.loads(Path(path).read_bytes()) for path in glob.glob(folder + "/*.json")]
values = sorted((run["metadata"]["timestamp"], run["metrics"]["latency"]["p95"]) for run in runs)
"""
SUMMARY = "SnapshotAggregator(folder).get_metric_summary('latency.p95')"
OF_BRANCH = "SnapshotAggregator(folder).where(branch='main').get_metric_summary('latency.p95')"
WAYS = {
    "every file read as JSON": READ,
    "a summary, no index yet": SUMMARY,
    "a summary": SUMMARY,
    "a summary of one branch": OF_BRANCH,
    "the values, run by run": "SnapshotAggregator(folder).values('latency.p95')",
    "a summary, one file is new": SUMMARY,
    "all series, summarized": "SnapshotAggregator(folder).get_metrics_by_tag({})",
}


def main() -> Report:
    """Measure, print, and return the table."""
    took: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        chosen = random.Random(1)
        for number in range(FILES):
            _write(folder, number, chosen)
        files = sum(path.stat().st_size for path in folder.glob("*.json"))
        for turn in track(range(ROUNDS), "history", console=Console(stderr=True)):
            for way, question in WAYS.items():
                if way.endswith("no index yet"):
                    (folder / INDEX).unlink(missing_ok=True)
                elif way.endswith("is new"):
                    _write(folder, FILES + turn, chosen)
                took[way].append(_time(question, folder))
        index = (folder / INDEX).stat().st_size
    report = Report()
    report.say(
        f"Medians of {ROUNDS} turns; ratios within a turn. {FILES} files of {files / FILES / 1e3:.1f} kB"
        f" with 19 measurements each; the index takes {index / files:.2f} of their size."
    )
    report.table(f"A query of {FILES} snapshots", ["ms", "of reading every file"])
    base = took["every file read as JSON"]
    for way, seconds in took.items():
        ratio = statistics.median(one / other for one, other in zip(seconds, base, strict=True))
        report.row(way, [f"{statistics.median(seconds) * 1e3:.0f}", f"{ratio:.2f}"])
    report.show()
    return report


def _time(question: str, folder: Path) -> float:
    command = [sys.executable, "-c", ASK.format(question=question), str(folder)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _write(folder: Path, number: int, chosen: random.Random) -> None:
    taken = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=number)
    document = {
        "schema_version": 1,
        "metadata": {
            "run_id": f"{chosen.getrandbits(128):032x}",
            "commit": f"{chosen.getrandbits(160):040x}",
            "branch": chosen.choice(["main", "topic"]),
            "timestamp": taken.isoformat(),
            "environment": "ci",
            "tags": {"latency_metric": "parse"},
        },
        "metrics": {
            "latency": {key: chosen.uniform(1, 100) for key in ("mean", "p50", "p95", "p99")},
            "throughput": chosen.uniform(1, 1_000),
            "memory_mb": chosen.uniform(1, 1_000),
            "cpu_percent": chosen.uniform(0, 100),
            "custom": {f"http/requests[endpoint:/{place}]": chosen.random() for place in range(12)},
        },
    }
    path = folder / f"{number:05}.json"
    path.write_text(json.dumps(document, indent=2))
    os.utime(path, (taken.timestamp(), taken.timestamp()))


if __name__ == "__main__":
    main()
