"""The baselines of the real `flameiq` are a history, too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from metrics_adapters.snapshot_writer import SnapshotAggregator
from tests.metrics_adapters.snapshot_writer.histories import document, write

ROOT = Path(__file__).parents[3]
FLAMEIQ = ROOT / ".venvs" / "flameiq" / ("Scripts/flameiq.exe" if sys.platform == "win32" else "bin/flameiq")


@pytest.mark.heavy
def test_baselines_are_read_beside_our_own_runs(tmp_path: Path) -> None:
    """A baseline that was set from one of our files is the same run; any other is a separate run."""
    if not FLAMEIQ.exists():
        if os.environ.get("CI"):
            pytest.fail("FlameIQ is missing: `make test` installs it")
        pytest.skip("FlameIQ is missing: `make test` installs it")

    def flameiq(*arguments: str | Path) -> None:
        subprocess.run([FLAMEIQ, *arguments], cwd=tmp_path, check=True, capture_output=True)

    ours = tmp_path / "snapshots"
    tags = {"runner": "größe"}
    for number in range(3):
        said = {"branch": "main", "commit": f"{number:040x}", "tags": tags}
        content = document(number, f"run {number}", {"p95": 100 + number}, **said, hits=number)
        write(ours / f"{number}.json", content)
    elsewhere = write(tmp_path / "other.json", document(-5, "other", {"p95": 50.5}))
    flameiq("init")
    for path in (elsewhere, ours / "1.json", ours / "1.json"):
        flameiq("baseline", "set", "--metrics", path)
    baselines = tmp_path / ".flameiq" / "baselines"
    assert sorted(path.name for path in baselines.iterdir()) == ["current.json", "history.jsonl"]
    both = SnapshotAggregator(ours, baselines)
    assert [one.value for one in both.values("latency.p95")] == [50.5, 100, 101, 102]
    assert both.left_out() == []
    alone = SnapshotAggregator(baselines)
    assert [run.run_id for run in alone.runs()] == ["other", "run 1"]
    # FlameIQ ignores our index beside its files.
    flameiq("baseline", "show")
    flameiq("compare", "--metrics", ours / "1.json")
