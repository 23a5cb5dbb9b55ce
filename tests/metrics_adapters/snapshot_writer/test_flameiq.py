"""The real `flameiq` command reads, compares and reports on our snapshots."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from metrics_adapters.snapshot_writer import SnapshotWriter
from metrics_framework import MetricsSystem
from metrics_framework.clock import ManualClock
from metrics_framework.recording import Distribution
from metrics_framework.snapshots import LatencyMetrics, PerformanceSnapshot, read_snapshot

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).parents[3]
FLAMEIQ = ROOT / ".venvs" / "flameiq" / ("Scripts/flameiq.exe" if sys.platform == "win32" else "bin/flameiq")


@pytest.fixture(autouse=True)
def _is_installed() -> None:
    """Skip if FlameIQ is not installed, except in CI, where this is a mistake."""
    if not FLAMEIQ.exists():
        missing = f"{FLAMEIQ.relative_to(ROOT)} is missing: `make test` installs it"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)


@pytest.fixture
def snapshot(clock: ManualClock) -> PerformanceSnapshot:
    """Return a snapshot with all values that may be hard to read for another program."""
    metrics = MetricsSystem(clock=clock, latency_metric="http.request")
    for milliseconds in range(1, 101):
        metrics.collector.record_timer("http.request", milliseconds)
        metrics.collector.record_timer("http.request", milliseconds, tags={"endpoint": "/status"})
    for _ in range(3):
        metrics.timer.time_operation("git.push", lambda: clock.advance(0.25))
        metrics.tracker.record_success("git.push")
    metrics.tracker.record_failure("git.push", "TimeoutError")
    metrics.collector.record_counter("http.requests", 7, {"endpoint": "/a,b:[c]=d.e%f", "host": "größe"})
    metrics.collector.record_counter("db_query_ms", 8.5)
    metrics.collector.record_counter("größe.µs", 3)
    metrics.collector.record_gauge("plain.p95", 2.5)
    metrics.collector.record_gauge("<b>&\"'", 4)
    metrics.collector.record_gauge("nothing", 0)
    metrics.collector.record_histogram("payload", 100.0)
    return metrics.snapshot(tags={"größe": "µ <b>"})


KEYS = [
    "custom.db_query_ms",
    "custom.größe/µs",
    "custom.http/requests[endpoint:/a%2Cb%3A%5Bc%5D%3Dd%2Ee%25f,host:größe]",
    "custom.http/request[endpoint:/status]/p95",
    "custom.operation:git/push/mean",
    "custom.operation:git/push/success_rate",
    "custom.payload/count",
    "custom.plain%2Ep95",
    "custom.<b>&\"'",
    "latency.p95",
    "throughput",
    "memory_mb",
]
"""Some of the snapshot's flat keys, each made by another rule."""


@pytest.fixture
def project(tmp_path: Path, snapshot: PerformanceSnapshot) -> Path:
    """Return a folder with FlameIQ initialized and the snapshot as the baseline."""
    baseline = SnapshotWriter(tmp_path / "snapshots").write(snapshot)
    assert _flameiq(tmp_path, "init").returncode == 0
    done = _flameiq(tmp_path, "baseline", "set", "-m", baseline)
    assert done.returncode == 0, done.stderr
    return tmp_path


def _flameiq(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [FLAMEIQ, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONUTF8": "1"},
        check=False,
    )


def _slower(snapshot: PerformanceSnapshot) -> PerformanceSnapshot:
    latency = snapshot.metrics.latency
    assert latency is not None
    assert latency.p95 is not None
    tripled = LatencyMetrics(latency.mean, latency.p50, latency.p95 * 3, latency.p99)
    return replace(snapshot, metrics=replace(snapshot.metrics, latency=tripled))


def _written(folder: Path, snapshot: PerformanceSnapshot) -> Path:
    return SnapshotWriter(folder / "snapshots").write(snapshot)


def test_the_snapshot_has_what_is_hard_to_read(snapshot: PerformanceSnapshot) -> None:
    """The snapshot of these tests has a key of every kind."""
    assert set(KEYS) <= set(snapshot.metrics.flat())


def test_it_finds_our_snapshots_valid(tmp_path: Path, snapshot: PerformanceSnapshot) -> None:
    """`flameiq validate` accepts them, and counts as many metrics as there are flat keys."""
    path = _written(tmp_path, snapshot)
    done = _flameiq(tmp_path, "validate", "--json", path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout) == {
        "valid": True,
        "schema_version": 1,
        "metrics_count": len(snapshot.metrics.flat()),
    }


def test_a_sidecar_does_not_affect_it(project: Path, snapshot: PerformanceSnapshot) -> None:
    """A snapshot with a sidecar is valid, compared, and a baseline like any other."""
    values = {"latency": Distribution.of([float(value) for value in range(1, 101)])}
    path = SnapshotWriter(project / "snapshots").write(snapshot, values)
    assert path.with_suffix(".dist").exists()
    for arguments in (("validate",), ("compare", "-m"), ("baseline", "set", "-m"), ("compare", "-m")):
        done = _flameiq(project, *arguments, path)
        assert done.returncode == 0, done.stdout + done.stderr


def test_we_read_its_snapshots(tmp_path: Path, snapshot: PerformanceSnapshot) -> None:
    """A snapshot that FlameIQ read and wrote is unchanged."""
    path = _written(tmp_path, snapshot)
    done = _flameiq(tmp_path, "run", "-m", path, "-o", "normalised.json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert read_snapshot(tmp_path / "normalised.json") == snapshot


def test_it_passes_a_run_equal_to_the_baseline(project: Path, snapshot: PerformanceSnapshot) -> None:
    """Equal numbers are not a regression, and each of our keys is compared."""
    done = _flameiq(project, "compare", "-m", _written(project, snapshot), "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    compared = {diff["metric_key"]: diff for diff in json.loads(done.stdout)["diffs"]}
    # A baseline of zero has no percentage, so FlameIQ leaves it out.
    assert set(compared) == {key for key, value in snapshot.metrics.flat().items() if value}
    assert set(KEYS) <= set(compared)
    assert {diff["change_percent"] for diff in compared.values()} == {0.0}


def test_it_fails_a_slower_run(project: Path, snapshot: PerformanceSnapshot) -> None:
    """Three times the p95 is a regression: exit status 1, and the key is named."""
    path = _written(project, _slower(snapshot))
    done = _flameiq(project, "compare", "-m", path)
    assert done.returncode == 1, done.stdout + done.stderr
    regressed = [line.split()[0] for line in done.stdout.splitlines() if line.endswith("REGRESSION")]
    assert regressed == ["latency.p95"]
    assert _flameiq(project, "compare", "-m", path, "-t", "latency.p95=300%").returncode == 0


@pytest.mark.parametrize("key", [key for key in KEYS if key.startswith("custom.")])
def test_each_of_our_keys_can_have_a_threshold(
    project: Path, snapshot: PerformanceSnapshot, key: str
) -> None:
    """A custom metric that changed by half passes with a threshold, and fails without."""
    name = key.removeprefix("custom.")
    custom = {**snapshot.metrics.custom, name: snapshot.metrics.custom[name] * 1.5}
    path = _written(project, replace(snapshot, metrics=replace(snapshot.metrics, custom=custom)))
    assert _flameiq(project, "compare", "-m", path).returncode == 1
    assert _flameiq(project, "compare", "-m", path, "-t", f"{key}=20%").returncode == 1
    done = _flameiq(project, "compare", "-m", path, "-t", f"{key}=60%")
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_reports_on_our_snapshots(project: Path, snapshot: PerformanceSnapshot) -> None:
    """`flameiq report` makes a page with the regression and our keys."""
    done = _flameiq(project, "report", "-m", _written(project, _slower(snapshot)), "-o", "report.html")
    assert done.returncode == 0, done.stdout + done.stderr
    page = (project / "report.html").read_text("utf-8")
    assert "latency.p95" in page
    assert "custom.größe/µs" in page
    assert "REGRESSION" in page.upper()


def test_it_rejects_what_we_reject(tmp_path: Path, snapshot: PerformanceSnapshot) -> None:
    """A document of another version is invalid for both, so the tests above can fail."""
    path = tmp_path / "other.json"
    path.write_text(json.dumps({**snapshot.to_dict(), "schema_version": 2}))
    assert _flameiq(tmp_path, "validate", path).returncode == 3
