"""Fixtures of the tests of the service examples."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from metrics_framework import PerformanceSnapshot, read_snapshot

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def run_service(tmp_path: Path) -> Callable[[str], tuple[dict[str, float], PerformanceSnapshot]]:
    """Return a function that runs an example and returns the printed table and the snapshot."""

    def run(name: str) -> tuple[dict[str, float], PerformanceSnapshot]:
        done = subprocess.run(
            [sys.executable, str(EXAMPLES / name)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        *lines, path = done.stdout.splitlines()
        rows = [re.fullmatch(r"\s*(.*?)\s+([\d.]+)(?: ms|%)?", line) for line in lines]
        assert all(rows), lines
        return {row[1]: float(row[2]) for row in rows if row}, read_snapshot(tmp_path / path)

    return run


@pytest.fixture
def examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test import the examples."""
    monkeypatch.syspath_prepend(EXAMPLES)


def check(table: dict[str, float], snapshot: PerformanceSnapshot) -> None:
    """Assert that the table of 200 orders is consistent, and that the snapshot agrees with it."""
    metrics = snapshot.metrics
    items = ("book", "chair", "lamp")
    placed = {item: table[f"orders of {item}s"] for item in items}
    assert table["orders placed or refused"] == 200
    assert sum(placed.values()) + table.get("OutOfStock", 0) == 200
    assert table["success rate"] == pytest.approx(sum(placed.values()) / 2, abs=0.06)
    assert 1 <= table["p50"] <= table["p95"] <= table["max"]
    for item in items:
        assert metrics.custom[f"orders[item:{item}]"] == placed[item]
        assert metrics.custom[f"stock[item:{item}]"] == table[f"stock of {item}s"]
    sold = {"book": 500, "chair": 300, "lamp": 60}
    assert sum(sold[item] - table[f"stock of {item}s"] for item in items) == pytest.approx(
        metrics.custom["order/quantity/mean"] * metrics.custom["order/quantity/count"]
    )
    assert metrics.latency is not None
    assert metrics.latency.p95 == pytest.approx(table["p95"], abs=0.006)
    assert snapshot.metadata.tags["latency_metric"] == "order.place"


@pytest.fixture
def check_service() -> Callable[[dict[str, float], PerformanceSnapshot], None]:
    """Return the check that the service examples share."""
    return check
