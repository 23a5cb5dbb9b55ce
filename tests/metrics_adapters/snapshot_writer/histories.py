"""Folders of snapshots, and reading them file by file, for comparison with the index."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

START = datetime(2026, 1, 1, tzinfo=UTC)


def document(
    minute: float = 0.0, run_id: str | None = "run", latency: dict[str, float] | None = None, **more: Any
) -> dict[str, Any]:
    """Return a snapshot that was taken so many minutes after `START`; ``custom`` holds what else is given.

    Args:
        minute: When it was taken.
        run_id: ``None`` for a document without one.
        latency: Its latency, if any.
        **more: ``branch``, ``commit``, ``environment`` and ``tags``; the rest are custom keys.
    """
    metadata = {"timestamp": (START + timedelta(minutes=minute)).isoformat(), "environment": "ci"}
    if run_id is not None:
        metadata["run_id"] = run_id
    for name in ("branch", "commit", "environment", "tags"):
        if name in more:
            metadata[name] = more.pop(name)
    metrics: dict[str, Any] = {"custom": more} if more else {}
    if latency:
        metrics["latency"] = latency
    return {"schema_version": 1, "metadata": metadata, "metrics": metrics}


def write(path: Path, content: dict[str, Any] | bytes) -> Path:
    """Write a file with an old modification time, so that it is read only once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    os.utime(path, (1_700_000_000 + len(path.name), 1_700_000_000 + path.stat().st_size))
    return path


def flat(metrics: dict[str, Any]) -> dict[str, float]:
    """Return the measurements of a document by flat key."""
    found = {f"latency.{key}": value for key, value in (metrics.get("latency") or {}).items()}
    found |= {key: metrics[key] for key in ("throughput", "memory_mb", "cpu_percent") if key in metrics}
    found |= {f"custom.{key}": value for key, value in metrics.get("custom", {}).items()}
    return {key: float(value) for key, value in found.items()}


def read_all(folder: Path) -> list[tuple[dict[str, Any], dict[str, float]]]:
    """Return metadata and measurements of every valid snapshot, oldest first, from all files."""
    found = []
    for path in sorted(folder.glob("*.json"), key=lambda path: (len(path.name), path.name)):
        try:
            read = json.loads(path.read_bytes())
            taken = datetime.fromisoformat(read["metadata"]["timestamp"])
        except (ValueError, KeyError, TypeError):
            continue
        if read not in [other for _, other in found] or "run_id" not in read["metadata"]:
            found.append((taken, read))
    found.sort(key=lambda one: one[0])
    return [(read["metadata"], flat(read["metrics"])) for _, read in found]


def summarize(values: list[float]) -> dict[str, float]:
    """Return the statistics of values by their definitions."""
    if not values:
        return {"count": 0}
    ordered, exact = sorted(values), [Fraction(value) for value in values]
    average = sum(exact) / len(exact)
    variance = sum((value - average) ** 2 for value in exact) / len(exact)
    deviation = (Decimal(variance.numerator) / Decimal(variance.denominator)).sqrt()

    def rank(share: float) -> float:
        return next(
            value for place, value in enumerate(ordered, 1) if place >= round(share * len(ordered), 6)
        )

    return {
        "count": len(values),
        "avg": float(average),
        "min": ordered[0],
        "max": ordered[-1],
        "stddev": float(deviation),
        "p50": rank(0.50),
        "p90": rank(0.90),
        "p95": rank(0.95),
        "p99": rank(0.99),
    }
