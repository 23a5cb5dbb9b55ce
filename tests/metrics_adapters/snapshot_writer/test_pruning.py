"""Retention removes the oldest snapshots, and keeps the newest, baselines and other files."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics_adapters.snapshot_writer import SnapshotWriter
from metrics_adapters.snapshot_writer.pruning import BASELINE_SUFFIX, ORPHAN_SECONDS
from metrics_framework.clock import ManualClock, utc
from metrics_framework.errors import InvalidInputError
from metrics_framework.recording import Distribution
from metrics_framework.snapshots import Metrics, PerformanceSnapshot, SnapshotMetadata
from metrics_framework.snapshots.distributions import read_distributions, sidecar_path

VALUES = {"latency": Distribution.of([1.0, 2.0, 3.0])}


def write(writer: SnapshotWriter, clock: ManualClock, run: str = "run", **options) -> Path:
    """Write a snapshot with the current time."""
    metadata = SnapshotMetadata(run, timestamp=utc(clock))
    return writer.write(PerformanceSnapshot(Metrics(throughput=1), metadata=metadata), **options)


def names(folder: Path) -> set[str]:
    """Return the names in a folder."""
    return {path.name for path in folder.iterdir()}


def test_old_snapshots_are_removed_with_their_sidecars(tmp_path, clock):
    """A snapshot is removed when it is older than the retention, not earlier."""
    writer = SnapshotWriter(tmp_path, retention_days=2, clock=clock)
    first = write(writer, clock, distributions=VALUES)
    clock.advance(86_400)
    second = write(writer, clock, distributions=VALUES)
    clock.advance(86_400)
    third = write(writer, clock)
    assert {first.name, second.name, third.name} < names(tmp_path)
    clock.advance(0.001)
    fourth = write(writer, clock)
    assert names(tmp_path) == {second.name, sidecar_path(second).name, third.name, fourth.name}


def test_without_limits_nothing_is_removed(tmp_path, clock):
    """Retention is off by default."""
    writer = SnapshotWriter(tmp_path, clock=clock)
    first = write(writer, clock)
    clock.advance(86_400 * 10_000)
    write(writer, clock)
    assert first.exists()


def test_the_newest_is_kept_at_any_age(tmp_path, clock):
    """A snapshot that was just written is kept too, even if its time is older."""
    write(SnapshotWriter(tmp_path), clock, "newest")
    clock.set_wall(utc(clock) - timedelta(days=50))
    writer = SnapshotWriter(tmp_path, retention_days=1, max_bytes=1)
    old = write(writer, clock, "old")
    assert len(names(tmp_path)) == 2
    assert old.exists()


@pytest.mark.slow
@settings(max_examples=30)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=8), st.integers(1, 6))
def test_size_is_bounded_and_the_oldest_are_removed_first(tmp_path_factory, kinds, room):
    """The folder is within the limit, except for baselines and the newest."""
    folder, clock = tmp_path_factory.mktemp("bounded"), ManualClock()
    size = write(SnapshotWriter(folder), clock, "0").stat().st_size
    limit = room * size
    writer = SnapshotWriter(folder, max_bytes=limit, clock=clock)
    baselines = set()
    written = []
    for is_baseline, has_sidecar in kinds:
        clock.advance(1)
        path = write(writer, clock, distributions=VALUES if has_sidecar else None)
        written.append(path.name)
        if is_baseline:
            path.with_suffix(BASELINE_SUFFIX).touch()
            baselines.add(path.name)
    clock.advance(1)
    written.append(write(writer, clock).name)
    left = [name for name in written if (folder / name).exists()]
    assert baselines <= set(left)
    assert written[-1] in left
    others = [name for name in written[:-1] if name not in baselines]
    kept = [name for name in others if name in left]
    assert kept == others[len(others) - len(kept) :]  # the oldest were removed
    total = sum(path.stat().st_size for path in folder.iterdir() if path.suffix != BASELINE_SUFFIX)
    assert total <= limit or not kept


def test_a_baseline_is_kept_with_its_sidecar(tmp_path, clock):
    """NAME.baseline keeps NAME.json and its distributions until it is removed."""
    writer = SnapshotWriter(tmp_path, retention_days=1, max_bytes=1, clock=clock)
    baseline = write(writer, clock, distributions=VALUES)
    mark = baseline.with_suffix(BASELINE_SUFFIX)
    mark.write_text("main")
    clock.advance(86_400 * 7)
    write(writer, clock)
    assert read_distributions(baseline)["latency"].count == 3
    mark.unlink()
    clock.advance(1)
    write(writer, clock)
    assert not baseline.exists()
    assert not sidecar_path(baseline).exists()


def test_only_files_of_the_writer_are_removed(tmp_path, clock):
    """Other files are neither counted nor removed, at any age and size."""
    others = {"notes.txt", "baseline.json", "20200101.json", "20200101T000000.000000Z-a.json.bak", "index"}
    for name in others:
        (tmp_path / name).write_text("x" * 10_000)
        os.utime(tmp_path / name, (0, 0))
    writer = SnapshotWriter(tmp_path, retention_days=1, max_bytes=10_000, clock=clock)
    paths = [write(writer, clock, run) for run in ("a", "b")]
    assert names(tmp_path) == others | {path.name for path in paths}


def test_an_error_in_pruning_does_not_fail_the_write(tmp_path, clock, caplog):
    """A folder with the name of an old snapshot is kept and logged once, and the others are removed."""
    writer = SnapshotWriter(tmp_path, retention_days=1, clock=clock)
    (tmp_path / "20200101T000000.000000Z-a.json").mkdir()
    (tmp_path / "20200102T000000.000000Z-a.json").touch()
    first, second = write(writer, clock, "b"), write(writer, clock, "c")
    assert names(tmp_path) == {"20200101T000000.000000Z-a.json", first.name, second.name}
    assert ["old snapshots not removed" in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize("limit", [0, -1, True, "1", float("nan")])
@pytest.mark.parametrize("name", ["retention_days", "max_bytes"])
def test_a_limit_is_a_positive_number(tmp_path, name, limit):
    """Anything else is an error that quotes it."""
    with pytest.raises(InvalidInputError, match=f"{name}="):
        SnapshotWriter(tmp_path, **{name: limit})


def test_a_retention_may_exceed_the_calendar(tmp_path, clock):
    """A million years keeps files forever."""
    assert write(SnapshotWriter(tmp_path, retention_days=365e6, clock=clock), clock).exists()


# -- sidecars without a snapshot ---------------------------------------------------------------------------


def orphan(folder: Path, clock: ManualClock, seconds: float) -> Path:
    """Make the sidecar of a writer that was killed at a time in the past."""
    path = folder / "20250101T000000.000000Z-dead.dist"
    path.write_bytes(b"half a pair")
    moment = utc(clock).timestamp() - seconds
    os.utime(path, (moment, moment))
    return path


def test_an_orphan_is_removed_after_an_hour(tmp_path, clock):
    """Earlier, a pair may be in the process of being copied."""
    writer = SnapshotWriter(tmp_path, clock=clock)
    path = orphan(tmp_path, clock, ORPHAN_SECONDS - 1)
    write(writer, clock)
    assert path.exists()
    clock.advance(2)
    write(writer, clock)
    assert not path.exists()


def test_an_orphan_of_a_living_writer_is_kept(tmp_path, clock):
    """A writer that hangs between the two files has the first one locked."""
    fcntl = pytest.importorskip("fcntl")
    path = orphan(tmp_path, clock, 10 * ORPHAN_SECONDS)
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write(SnapshotWriter(tmp_path, clock=clock), clock)
        assert path.exists()
    write(SnapshotWriter(tmp_path, clock=clock), clock)
    assert not path.exists()


def test_a_sidecar_with_another_name_is_kept(tmp_path, clock):
    """Only names that the writer gives are treated as orphans."""
    path = tmp_path / "mine.dist"
    path.touch()
    os.utime(path, (0, 0))
    write(SnapshotWriter(tmp_path, clock=clock), clock)
    assert path.exists()
