"""The cost of projecting telemetry events, beside Stormlog's own projection.

Both project the same events in one process, in alternating batches, so that a machine that slows down slows
both. A ratio is the median of the ratios of neighbouring batches.
"""

from __future__ import annotations

import json
import random
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from stormlog.telemetry_model import project_telemetry_mapping as project_with_stormlog
from stormlog.telemetry_model import projected_record_to_dict as stormlog_to_dict

from benchmarks.tables import Report
from metrics_adapters.in_memory import InMemoryCollector
from metrics_framework.telemetry import (
    TelemetryRecorder,
    project_telemetry_mapping,
    projected_record_to_dict,
    read_projected_telemetry,
    read_telemetry,
)

EVENTS = 100_000
STRETCH = 1_000


def main() -> Report:
    """Measure, print, and return the tables."""
    events = _events()
    report = Report()
    report.say(
        f"{EVENTS:,} events of a GPU tracker, with a phase and the tracker's capabilities in the metadata;"
        f" ratios of stretches of {STRETCH:,}."
    )
    report.table("Projecting an event", ["µs", "of Stormlog 0.3.9"])
    _compare(
        report,
        events,
        {
            "Stormlog 0.3.9": project_with_stormlog,
            "metrics_framework": project_telemetry_mapping,
        },
    )
    report.table("Projecting an event, as plain data", ["µs", "of Stormlog 0.3.9"])
    _compare(
        report,
        events[: EVENTS // 4],
        {
            "Stormlog 0.3.9": lambda event: stormlog_to_dict(project_with_stormlog(event)),
            "metrics_framework": lambda event: projected_record_to_dict(project_telemetry_mapping(event)),
        },
    )
    _reading(report, events[: EVENTS // 4])
    report.show()
    return report


def _compare(
    report: Report, events: list[dict[str, Any]], ways: dict[str, Callable[[dict[str, Any]], object]]
) -> None:
    took: dict[str, list[float]] = {name: [] for name in ways}
    chosen = random.Random(1)  # the first one in a turn is at a disadvantage
    for begin in track(range(0, len(events), STRETCH), "telemetry", console=Console(stderr=True)):
        stretch = events[begin : begin + STRETCH]
        for name, project in chosen.sample(list(ways.items()), len(ways)):
            start = time.perf_counter()
            for event in stretch:
                project(event)
            took[name].append((time.perf_counter() - start) / len(stretch) * 1e6)
    base = next(iter(took.values()))
    for name, each in took.items():
        ratio = statistics.median(one / other for one, other in zip(each, base, strict=True))
        report.row(name, [f"{statistics.median(each):.1f}", f"{ratio:.2f}"])


def _reading(report: Report, events: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events.jsonl"
        path.write_text("".join(json.dumps(event) + "\n" for event in events))
        ways: dict[str, Callable[[], object]] = {
            "json.loads of its lines": lambda: _load(path),
            "read_telemetry": lambda: deque(read_telemetry(path), maxlen=0),
            "read_projected_telemetry": lambda: deque(read_projected_telemetry(path), maxlen=0),
            "the same, into gauges": lambda: TelemetryRecorder(InMemoryCollector()).record_all(
                read_projected_telemetry(path)
            ),
        }
        report.table(
            f"Reading a file of {path.stat().st_size / 1e6:.0f} MB", ["µs an event", "of json.loads"]
        )
        took: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(3):
            for name, read in ways.items():
                start = time.perf_counter()
                read()
                took[name].append((time.perf_counter() - start) / len(events) * 1e6)
    base = took["json.loads of its lines"]
    for name, each in took.items():
        ratio = statistics.median(one / other for one, other in zip(each, base, strict=True))
        report.row(name, [f"{statistics.median(each):.1f}", f"{ratio:.2f}"])


def _load(path: Path) -> None:
    with path.open("rb") as lines:
        deque(map(json.loads, lines), maxlen=0)


def _events() -> list[dict[str, Any]]:
    """Return events as read from a file."""
    chosen = random.Random(1)
    flags = dict.fromkeys(
        [
            f"supports_{what}"
            for what in ("allocated", "reserved", "active", "used", "free", "total", "history")
        ],
        True,
    )
    lines = [
        json.dumps(
            {
                "schema_version": 4,
                "session_id": "17cec52a-eb75-4388-828b-b892c3bc27de",
                "timestamp_ns": 1_795_308_564_447_756_032 + number * 50_000_000,
                "event_type": chosen.choice(["sample", "allocation", "peak", "warning"]),
                "collector": "stormlog.cuda_tracker",
                "sampling_interval_ms": 50,
                "pid": 3328,
                "host": "node-1",
                "device_id": number % 8,
                "allocator_allocated_bytes": chosen.randrange(10**10),
                "allocator_reserved_bytes": chosen.randrange(10**10),
                "allocator_active_bytes": chosen.randrange(10**10),
                "allocator_inactive_bytes": None,
                "allocator_change_bytes": chosen.randrange(-(10**6), 10**6),
                "device_used_bytes": chosen.randrange(10**10),
                "device_free_bytes": chosen.randrange(10**10),
                "device_total_bytes": 80_000_000_000,
                "context": "allocated 4.00 KB",
                "job_id": "job-7",
                "rank": number % 8,
                "local_rank": number % 8,
                "world_size": 8,
                "metadata": {
                    "backend": "cuda",
                    "memory_capabilities": {"backend": "cuda", "sampling_source": "torch", **flags},
                    "phase_scope": {
                        "name": "forward",
                        "path": ["train", "forward"],
                        "scope_id": f"scope-{number // 100}",
                        "sequence": number,
                    },
                },
            }
        )
        for number in range(EVENTS)
    ]
    return [json.loads(line) for line in lines]


if __name__ == "__main__":
    main()
