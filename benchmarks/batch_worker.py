"""Records and exports a batch with one library, and prints the numbers. Each run is a separate process.

``python benchmarks/batch_worker.py LIBRARY FILES`` prints one JSON object: seconds of the processor that each
stage took, and resident bytes at the end of each, above what there was before the first. It runs in the
environment of the library.
"""

from __future__ import annotations

import gc
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

STAGES = ("record", "summary", "JSON", "CSV")

SLICE = 1_000
"""The number of files generated at a time. Generating is not measured."""


def load(library: str) -> Any:
    """Return the module of a library's batch metrics."""
    if library == "tracekit":
        # Without its parent packages, which have many more dependencies.
        sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "metrics_framework" / "batch"))
        import tracekit_peer

        return tracekit_peer.load()
    from metrics_framework import batch

    return batch


def stages(batch: Any, files: int, folder: str) -> dict[str, Callable[[], float]]:
    """Return the stages in order. Each returns its time in seconds."""
    chosen = random.Random(4)
    durations = [chosen.lognormvariate(-3, 1) for _ in range(SLICE)]

    def record_slice(names: list[str]) -> None:
        for place, name in enumerate(names):
            if place % 100 == 7:
                batch.record_error(name, "ValueError", "too short", 0.5)
            else:
                batch.record_file(name, duration=durations[place], samples=4_096)

    def record() -> float:
        seconds = timed(batch.start)
        for begin in range(0, files, SLICE):
            names = [f"/data/run/file{number:07}.wfm" for number in range(begin, min(files, begin + SLICE))]
            seconds += timed(partial(record_slice, names))
        return seconds + timed(batch.finish)

    return {
        "record": record,
        "summary": lambda: timed(batch.summary),
        "JSON": lambda: timed(lambda: batch.export_json(Path(folder, "out.json"))),
        "CSV": lambda: timed(lambda: batch.export_csv(Path(folder, "out.csv"))),
    }


def timed(action: Callable[[], object]) -> float:
    """Return the CPU seconds of this process for an action. Other processes do not count."""
    begin = time.process_time()
    action()
    return time.process_time() - begin


def peak_bytes() -> int:
    """Return the peak resident memory of this process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("Linux says so")


def main(library: str, files: int) -> dict[str, dict[str, float]]:
    """Measure every stage."""
    module = load(library)
    with tempfile.TemporaryDirectory() as folder:
        warm = module.BatchMetrics()  # runs lazy imports
        for stage in stages(warm, 20, folder).values():
            stage()
        batch = module.BatchMetrics()
        gc.collect()
        before = peak_bytes()
        seconds, memory = {}, {}
        for name, stage in stages(batch, files, folder).items():
            seconds[name] = stage()
            memory[name] = float(peak_bytes() - before)
    return {"seconds": seconds, "bytes": memory}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]))))
