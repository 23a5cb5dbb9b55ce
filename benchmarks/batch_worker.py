"""One library recording and exporting a batch, in a process of its own: numbers on standard output.

``python benchmarks/batch_worker.py LIBRARY FILES`` prints one JSON object: seconds of each stage, and
resident bytes at the end of each, above what there was before the first. It runs in the environment of the
library.
"""

from __future__ import annotations

import gc
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

STAGES = ("record", "summary", "JSON", "CSV")


def load(library: str) -> Any:
    """Return the module of a library's batch metrics."""
    if library == "tracekit":
        # Without the packages around it, which need far more than it does.
        sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "metrics_framework" / "batch"))
        import tracekit_peer

        return tracekit_peer.load()
    from metrics_framework import batch

    return batch


def stages(batch: Any, files: int, folder: str) -> dict[str, Callable[[], object]]:
    """Return what to do, in this order."""
    chosen = random.Random(4)
    durations = [chosen.lognormvariate(-3, 1) for _ in range(1_000)]

    def record() -> None:
        batch.start()
        for number in range(files):
            if number % 100 == 7:
                batch.record_error(f"/data/run/file{number:07}.wfm", "ValueError", "too short", 0.5)
            else:
                batch.record_file(
                    f"/data/run/file{number:07}.wfm", duration=durations[number % 1_000], samples=4_096
                )
        batch.finish()

    return {
        "record": record,
        "summary": batch.summary,
        "JSON": lambda: batch.export_json(Path(folder, "out.json")),
        "CSV": lambda: batch.export_csv(Path(folder, "out.csv")),
    }


def peak_bytes() -> int:
    """Return the most resident memory that this process ever had, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("Linux says so")


def main(library: str, files: int) -> dict[str, dict[str, float]]:
    """Measure every stage."""
    module = load(library)
    with tempfile.TemporaryDirectory() as folder:
        warm = module.BatchMetrics()  # whatever is imported late is imported now
        for stage in stages(warm, 20, folder).values():
            stage()
        batch = module.BatchMetrics()
        gc.collect()
        before = peak_bytes()
        seconds, memory = {}, {}
        for name, stage in stages(batch, files, folder).items():
            begin = time.perf_counter()
            stage()
            seconds[name] = time.perf_counter() - begin
            memory[name] = float(peak_bytes() - before)
    return {"seconds": seconds, "bytes": memory}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]))))
