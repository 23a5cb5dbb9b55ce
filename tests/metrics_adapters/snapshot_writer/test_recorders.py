"""The numbers of snapshot recorders are written to files, once, by whichever system writes."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import pytest

from metrics_adapters.resources import PsutilMonitor
from metrics_adapters.snapshot_writer import (
    SnapshotCollector,
    SnapshotTimer,
    SnapshotTracker,
    SnapshotWriter,
)
from metrics_framework import (
    ConfigurationError,
    InvalidInputError,
    MetricsSystem,
    OutputError,
    read_snapshot,
)
from metrics_framework.recording import Store
from metrics_framework.snapshots import PerformanceSnapshot, read_distributions
from metrics_framework.values import MetricUnit

PATIENCE = 30


def files(folder: Path) -> list[Path]:
    """Return the snapshots in a folder, oldest first."""
    return sorted(folder.glob("*.json"))


def only(folder: Path) -> PerformanceSnapshot:
    """Return the single snapshot in a folder."""
    (path,) = files(folder)
    return read_snapshot(path)


# -- single recorders --------------------------------------------------------------------------------------


def test_a_block_writes_a_file_at_its_end(tmp_path):
    """It has what a script recorded through an injected collector."""
    with SnapshotCollector(tmp_path) as metrics:
        metrics.record_counter("rows", 3, {"table": "users"})
        metrics.record_timer("query", 2, MetricUnit.SECONDS)
        assert files(tmp_path) == []
    snapshot = only(tmp_path)
    assert snapshot.metrics.custom["rows[table:users]"] == 3
    assert snapshot.metrics.latency.p95 == 2_000
    (path,) = files(tmp_path)
    assert read_distributions(path)["latency"].count == 1


def test_a_failing_block_writes_a_file(tmp_path):
    """The error propagates, and earlier records are kept."""
    metrics = SnapshotCollector(tmp_path)
    metrics.increment("rows")
    with pytest.raises(RuntimeError), metrics:
        raise RuntimeError("the application's own")
    assert only(tmp_path).metrics.custom["rows"] == 1


def test_a_timer_alone_gives_the_latency(tmp_path, clock):
    """Timed operations give the latency and the throughput of the run."""
    with SnapshotTimer(tmp_path, Store(clock)) as timer:
        for _ in range(4):
            timer.time_operation("db.query", lambda: clock.advance(0.25))
    metrics = only(tmp_path).metrics
    assert (metrics.latency.p95, metrics.throughput) == (250, 4)


def test_a_tracker_alone_gives_success_rates(tmp_path):
    """Outcomes give a success rate for each run."""
    for failures in (0, 1):
        with SnapshotTracker(tmp_path) as tracker:
            tracker.record_success("sync")
            for _ in range(failures):
                tracker.record_failure("sync", "timeout")
    rates = [read_snapshot(path).metrics.custom["operation:sync/success_rate"] for path in files(tmp_path)]
    assert rates == [1.0, 0.5]


def test_write_writes_a_file_at_once(tmp_path, clock):
    """It returns the path. Each file has everything since the start, and `close` writes the last one."""
    with SnapshotCollector(tmp_path, Store(clock)) as metrics:
        metrics.increment("rows")
        first = metrics.write()
        clock.advance(60)
        metrics.increment("rows")
        second = metrics.write()
        clock.advance(60)
        assert metrics.snapshot().metrics.custom["rows"] == 2
    assert [read_snapshot(path).metrics.custom["rows"] for path in files(tmp_path)] == [1, 2, 2]
    assert files(tmp_path)[:2] == [first, second]


def test_closing_twice_is_closing_once(tmp_path):
    """The final snapshot of a run is written once."""
    metrics = SnapshotCollector(tmp_path)
    with metrics:
        metrics.increment("rows")
        metrics.close()
    metrics.close()
    assert only(tmp_path).metrics.custom["rows"] == 1


def test_a_failing_disk_is_an_error_of_write(tmp_path):
    """The caller gets the error, and may call again."""
    folder = tmp_path / "taken"
    folder.write_text("a file")
    with SnapshotCollector(folder) as metrics:
        metrics.increment("rows")
        with pytest.raises(OutputError):
            metrics.write()
        folder.unlink()
        assert metrics.write().exists()


def test_an_interval_writes_files(tmp_path):
    """With a `collection_interval`, files are written during the run."""

    class Seen(SnapshotWriter):
        written = threading.Semaphore(0)

        def write(self, *run):
            path = super().write(*run)
            self.written.release()
            return path

    writer = Seen(tmp_path)
    with SnapshotCollector(writer, collection_interval=0.001) as metrics:
        metrics.increment("rows")
        for _ in range(3):
            assert writer.written.acquire(timeout=PATIENCE)
    found = files(tmp_path)
    assert len(found) >= 4
    assert all(read_snapshot(path).metrics.memory_mb for path in found)


def test_the_folder_may_be_a_writer(tmp_path, clock):
    """A writer with limits may be passed instead of a folder."""
    writer = SnapshotWriter(tmp_path, retention_days=1, clock=clock)
    with SnapshotCollector(writer, Store(clock)) as metrics:
        metrics.increment("rows")
        metrics.write()
        clock.advance(2 * 86_400)
    assert len(files(tmp_path)) == 1


def test_memory_is_the_peak_and_cpu_the_average_of_the_run(tmp_path):
    """Memory that was released before the end still counts."""
    with SnapshotCollector(tmp_path) as metrics:
        block = bytearray(os.urandom(1)) * 80_000_000
        held = PsutilMonitor().get_memory_usage()["process_rss"] / 1e6
        del block
        metrics.increment("rows")
        until = metrics.snapshot().metrics.memory_mb
    snapshot = only(tmp_path).metrics
    assert snapshot.memory_mb >= until >= held * 0.99
    assert 0 <= snapshot.cpu_percent <= 100


# -- several recorders of one store -------------------------------------------------------------------------


def test_recorders_of_one_store_write_it_together(tmp_path):
    """A collector, a timer and a tracker on one store are one run with one final snapshot."""
    store = Store()
    views = [kind(tmp_path, store) for kind in (SnapshotCollector, SnapshotTimer, SnapshotTracker)]
    collector, timer, tracker = views
    collector.increment("rows")
    timer.time_operation("query", lambda: None)
    tracker.record_success("query")
    for view in views:
        view.close()
    custom = only(tmp_path).metrics.custom
    assert custom["rows"] == custom["operation:query/success_rate"] == 1


def test_a_store_is_written_into_one_folder(tmp_path):
    """A second folder is an error that names both, and gives the remedy."""
    with SnapshotCollector(tmp_path / "a") as metrics:
        with pytest.raises(InvalidInputError, match=r"already written to '[^']*a', not to '[^']*b'"):
            SnapshotTimer(tmp_path / "b", metrics.store)
        metrics.increment("rows")


def test_an_invalid_interval_leaves_nothing_behind(tmp_path):
    """After the error, the store can be used again."""
    store = Store()
    with pytest.raises(ConfigurationError, match="collection_interval=0"):
        SnapshotCollector(tmp_path / "a", store, collection_interval=0)
    with SnapshotCollector(tmp_path / "b", store) as metrics:
        metrics.increment("rows")
    assert not (tmp_path / "a").exists()


def test_threads_that_make_recorders_share_one_run(tmp_path):
    """If many threads make the first recorder of a store at once, it is written once."""
    store, views = Store(), []
    begin = threading.Barrier(8)

    def make() -> None:
        begin.wait(PATIENCE)
        views.append(SnapshotTracker(tmp_path, store))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for view in views:
        view.record_success("sync")
        view.close()
    assert len(files(tmp_path)) == 1


def test_a_recorder_may_be_part_of_one_system_after_another(tmp_path):
    """Each system writes its final snapshot, and none is written twice."""
    collector = SnapshotCollector(tmp_path)
    for _ in range(2):
        with MetricsSystem(collector=collector) as metrics:
            metrics.collector.increment("rows")
    assert [read_snapshot(path).metrics.custom["rows"] for path in files(tmp_path)] == [1, 2]


def test_scoped_collectors_record_into_the_same_run(tmp_path):
    """Records of a `with_tags` collector are in the same files."""
    with SnapshotCollector(tmp_path) as metrics:
        metrics.with_tags({"tenant": "acme"}).increment("rows")
    assert only(tmp_path).metrics.custom["rows[tenant:acme]"] == 1


def test_a_finished_run_is_released(tmp_path):
    """A process with a thousand runs keeps none of them in memory."""
    metrics = SnapshotCollector(tmp_path)
    metrics.close()
    gone = weakref.ref(metrics.store)
    del metrics
    gc.collect()
    assert gone() is None


# -- parts of a system -------------------------------------------------------------------------------------


def test_a_system_takes_over_the_writing(tmp_path):
    """`MetricsSystem(collector=SnapshotCollector(…))` writes one final snapshot, of all parts."""
    collector = SnapshotCollector(tmp_path)
    with MetricsSystem(collector=collector, latency_metric="slow") as metrics:
        metrics.collector.increment("rows")
        with metrics.measure("slow"), metrics.measure("fast"):
            pass
        with metrics.measure("fast"):
            pass
        collector.close()  # does nothing: the system writes
        assert files(tmp_path) == []
    collector.close()
    snapshot = only(tmp_path)
    assert snapshot.metrics.custom["rows"] == 1
    assert snapshot.metadata.tags["latency_metric"] == "slow"
    assert read_distributions(files(tmp_path)[0])["latency"].count == 1


def test_every_part_may_be_a_recorder(tmp_path):
    """Three recorders as parts of a system are one run with one file."""
    store = Store()
    parts = {
        "collector": SnapshotCollector(tmp_path, store),
        "timer": SnapshotTimer(tmp_path, store),
        "tracker": SnapshotTracker(tmp_path, store),
    }
    with MetricsSystem(**parts) as metrics:
        metrics.collector.increment("rows")
    assert only(tmp_path).metrics.custom["rows"] == 1


def test_an_output_into_the_same_folder_is_not_written_twice(tmp_path, monkeypatch):
    """A second folder is written too."""
    monkeypatch.chdir(tmp_path)
    outputs = [SnapshotWriter(tmp_path / "runs"), SnapshotWriter("other")]
    with MetricsSystem(collector=SnapshotCollector("runs"), outputs=outputs) as metrics:
        metrics.collector.increment("rows")
    for folder in ("runs", "other"):
        assert only(tmp_path / folder).metrics.custom["rows"] == 1


def test_write_of_a_part_writes_the_whole_system(tmp_path):
    """The recorder is a part of a system, and writes what the system would."""
    collector = SnapshotCollector(tmp_path)
    with MetricsSystem(collector=collector, latency_metric="slow") as metrics:
        metrics.timer.time_operation("slow", lambda: None)
        path = collector.write()
        assert asyncio.run(metrics.export_metrics_async(["snapshot_writer"])) == {"snapshot_writer": True}
    assert read_snapshot(path).metadata.tags["latency_metric"] == "slow"
    assert len(files(tmp_path)) == 3


def test_the_system_takes_over_the_interval(tmp_path):
    """One thread collects. An interval of the system itself wins."""
    collector = SnapshotCollector(tmp_path, collection_interval=3_600)
    with MetricsSystem(collector=collector):
        running = [thread for thread in threading.enumerate() if thread.name == "metrics-metrics-collection"]
        assert len(running) == 1
    assert not running[0].is_alive()


# -- the end of the process --------------------------------------------------------------------------------

SCRIPT = """
import os, sys, threading
from metrics_adapters.snapshot_writer import SnapshotCollector, SnapshotWriter
from metrics_framework import MetricsSystem
metrics = SnapshotCollector(sys.argv[1])
metrics.record_counter("rows", 3)
"""
ENDS = {
    "the end": ("", 0),
    "an exit": ("sys.exit(4)", 4),
    "a crash of the main thread": ("raise ValueError('not caught')", 1),
    "a crash with a hook": ("sys.excepthook = lambda *_: None\nraise ValueError", 1),
    "a crash of another thread": (
        "thread = threading.Thread(target=lambda: 1 / 0); thread.start(); thread.join()",
        0,
    ),
    "a system that is not shut down": ("system = MetricsSystem(collector=metrics)", 0),
    "a crash in a system": ("system = MetricsSystem(collector=metrics); 1 / 0", 1),
    "a child": ("pid = os.fork()\nif pid: os.waitpid(pid, 0)", 0),
}


@pytest.mark.heavy
@pytest.mark.parametrize("end", ENDS)
def test_however_a_program_ends_there_is_one_file(tmp_path, end):
    """If the collector is not closed, the interpreter's exit writes, in the process that made it."""
    script, status = ENDS[end]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT + script, tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == status, done.stderr
    assert only(tmp_path).metrics.custom["rows"] == 3


@pytest.mark.heavy
def test_after_a_kill_earlier_files_exist(tmp_path):
    """`os._exit` runs no code, so only existing files remain."""
    script = "path = metrics.write(); metrics.record_counter('rows', 4); os._exit(9)"
    done = subprocess.run([sys.executable, "-c", SCRIPT + script, tmp_path], check=False)
    assert done.returncode == 9
    assert only(tmp_path).metrics.custom["rows"] == 3
