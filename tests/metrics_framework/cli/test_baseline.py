"""`baseline set` as a user runs it, with the real `flameiq` on its files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from metrics_adapters.snapshot_writer import SnapshotAggregator, SnapshotWriter
from metrics_framework import LatencyMetrics, Metrics, PerformanceSnapshot, SnapshotMetadata
from metrics_framework.cli.app import app
from metrics_framework.recording import Distribution
from metrics_framework.snapshots import read_distributions, read_snapshot

ROOT = Path(__file__).parents[3]
FLAMEIQ = ROOT / ".venvs" / "flameiq" / ("Scripts/flameiq.exe" if sys.platform == "win32" else "bin/flameiq")
CURRENT, HISTORY = Path(".flameiq/baselines/current.json"), Path(".flameiq/baselines/history.jsonl")


@pytest.fixture(autouse=True)
def workplace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def cli(*arguments: object) -> Result:
    """Run the command line."""
    return CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)


def snapshot(p95: float, run_id: str, *, has_samples: bool = True) -> Path:
    """Write a snapshot to the folder ``snapshots``, with a sidecar or without."""
    written = PerformanceSnapshot(
        Metrics(LatencyMetrics(p95=p95)),
        metadata=SnapshotMetadata(run_id=run_id, commit="0123456789abcdef", tags={"größe": "µ"}),
    )
    distributions = {"latency": Distribution.of([p95] * 3)} if has_samples else None
    return SnapshotWriter("snapshots").write(written, distributions)


def test_a_baseline_is_a_copy_with_its_sidecar() -> None:
    """The snapshot, its sidecar and a line of the history are written where FlameIQ has them."""
    path = snapshot(100, "first")
    result = cli("baseline", "set", path)
    assert (result.exit_code, result.stdout.splitlines()) == (
        0,
        ["baseline of 1 measurement, commit 0123456789ab", str(CURRENT)],
    )
    assert result.stderr.startswith("Note: a baseline is one job.")
    assert result.stderr.endswith("metrics-framework run --against\n")
    assert read_snapshot(CURRENT) == read_snapshot(path)
    assert read_distributions(CURRENT) == read_distributions(path)
    assert [json.loads(line) for line in HISTORY.read_text().splitlines()] == [json.loads(path.read_text())]
    assert {one.name for one in CURRENT.parent.iterdir()} == {"current.json", "current.dist", "history.jsonl"}
    # The baseline is the same run as the snapshot.
    assert len(SnapshotAggregator("snapshots", ".flameiq/baselines").runs()) == 1


def test_the_next_baseline_replaces_it() -> None:
    """Of a folder, the newest snapshot is used; the sidecar of the earlier baseline is removed."""
    cli("baseline", "set", snapshot(100, "first"))
    HISTORY.write_text(HISTORY.read_text().rstrip("\n"))  # a writer was killed
    snapshot(110, "second", has_samples=False)
    assert cli("baseline", "set", "snapshots").exit_code == 0
    assert read_snapshot(CURRENT).metadata.run_id == "second"
    assert [json.loads(line)["metadata"]["run_id"] for line in HISTORY.read_text().splitlines()] == [
        "first",
        "second",
    ]
    assert not CURRENT.with_suffix(".dist").exists()


def test_a_foreign_sidecar_is_not_copied() -> None:
    """A snapshot whose sidecar belongs to another one is set without it, with a warning."""
    first, second = snapshot(100, "first"), snapshot(200, "second")
    first.with_suffix(".dist").write_bytes(second.with_suffix(".dist").read_bytes())
    result = cli("baseline", "set", first)
    assert result.exit_code == 0
    assert result.stderr.startswith("Warning: the baseline is set without its sidecar: ")
    assert not CURRENT.with_suffix(".dist").exists()


def test_failures_leave_the_baseline_as_it_is() -> None:
    """An invalid file, a file of lines and a folder that cannot be created exit with 1 and no change."""
    path = snapshot(100, "first")
    cli("baseline", "set", path)
    before = CURRENT.read_bytes()
    Path("bad.json").write_text('{"metrics": {}}')
    Path("empty").mkdir()
    for arguments, error in (
        (["bad.json"], "bad.json: metrics: must hold at least one"),
        ([HISTORY], "has one snapshot per line: pass a file with a single snapshot"),
        (["empty"], "no snapshot in 'empty'"),
        ([path, "--folder", f"{path}/x"], "cannot write the baseline into"),
    ):
        result = cli("baseline", "set", *arguments)
        assert (result.exit_code, error in result.stderr) == (1, True), result.stderr
    assert CURRENT.read_bytes() == before
    assert len(HISTORY.read_text().splitlines()) == 1
    assert cli("baseline", "set", "nothing").exit_code == 2


@pytest.mark.heavy
def test_flameiq_uses_the_baseline() -> None:
    """`flameiq` compares with our baseline and adds to its history, and `compare` reads one that it set."""
    pytest.importorskip("scipy")
    if not FLAMEIQ.exists():
        missing = "FlameIQ is missing: `make test` installs it"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)

    def flameiq(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run([FLAMEIQ, *arguments], capture_output=True, text=True, check=False)

    base, slow = snapshot(100, "base"), snapshot(200, "slow")
    assert cli("baseline", "set", base).exit_code == 0
    assert "Run ID:      base" in flameiq("baseline", "show").stdout
    assert flameiq("compare", "--metrics", base).returncode == 0
    assert flameiq("compare", "--metrics", slow).returncode == 1
    compared = cli("compare", CURRENT, slow, "--format", "json")
    assert (compared.exit_code, compared.stderr) == (0, "")
    assert json.loads(compared.stdout)["metrics"][0]["change"] == pytest.approx(1.0)
    assert flameiq("baseline", "set", "--metrics", slow).returncode == 0
    assert [json.loads(line)["metadata"]["run_id"] for line in HISTORY.read_text("utf-8").splitlines()] == [
        "base",
        "slow",
    ]
    # FlameIQ does not know sidecars, so the one that it leaves behind belongs to the earlier baseline.
    foreign = cli("compare", CURRENT, base)
    assert (foreign.exit_code, "is not the sidecar of" in foreign.stderr) == (0, True)
