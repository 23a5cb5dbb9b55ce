"""After kills, on full disks and with many processes, files are complete and applications continue."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from metrics_adapters.snapshot_writer import SnapshotCollector, SnapshotWriter
from metrics_adapters.snapshot_writer.pruning import ORPHAN_SECONDS
from metrics_framework import OutputError, read_snapshot
from metrics_framework.recording import Distribution
from metrics_framework.snapshots import Metrics, PerformanceSnapshot, read_distributions
from metrics_framework.snapshots.distributions import DISTRIBUTIONS_TAG, sidecar_path

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(sys.platform == "win32", reason="POSIX's signals, forks and mounts"),
]

PATIENCE = 60


def environ() -> dict[str, str]:
    """Return the variables of a child process without coverage, which would write files of its own."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}


def script(text: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a Python script to its end."""
    command = [sys.executable, "-c", text, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environ(), timeout=240)


def whole(folder: Path) -> int:
    """Check that all snapshots are complete and match their sidecars; return their number."""
    paths = list(folder.glob("*.json"))
    for path in paths:
        named = DISTRIBUTIONS_TAG in read_snapshot(path).metadata.tags
        assert bool(read_distributions(path)) == named == sidecar_path(path).exists()
    return len(paths)


@pytest.fixture
def in_memory(tmp_path) -> Iterator[Path]:
    """Return a folder in memory, if the system has one, for thousands of writes."""
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        yield Path(folder)


# -- kills -------------------------------------------------------------------------------------------------

SLAUGHTER = """
import os, random, signal, sys, time
from pathlib import Path
from metrics_adapters.snapshot_writer import SnapshotWriter
from metrics_framework.recording import Distribution
from metrics_framework.snapshots import Metrics, PerformanceSnapshot
folder, least_kills, least_interrupted = Path(sys.argv[1]), *map(int, sys.argv[2:])
chance = random.Random(20260101)
snapshot = PerformanceSnapshot(Metrics(custom={f"key_{number}": number / 7 for number in range(50)}))
values = {f"key_{number}": Distribution.of(range(1, 400)) for number in range(3)}
writer = SnapshotWriter(folder)
durations = []
for _ in range(20):
    start = time.perf_counter()
    writer.write(snapshot, values)
    durations.append(time.perf_counter() - start)
seen, kills, interrupted = set(), 0, 0
while kills < least_kills or interrupted < least_interrupted:
    written, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        while True:
            writer.write(PerformanceSnapshot(snapshot.metrics), values)
            os.write(write_end, b".")
    os.read(written, 1)
    time.sleep(chance.uniform(0, 20 * min(durations)))
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0) == (child, signal.SIGKILL)
    kills += 1
    # A kill between two writes leaves no temporary file, and no sidecar without its snapshot.
    os.close(written)
    os.close(write_end)
    left = {path for path in folder.iterdir() if not path.with_suffix(".json").exists()}
    interrupted += not left <= seen
    seen |= left
"""


def test_pairs_are_complete_whenever_their_writer_is_killed(in_memory):
    """Of two hundred killed writers, some are within a write, and no pair is ever incomplete."""
    done = script(SLAUGHTER, in_memory, 200, 10)
    assert done.returncode == 0, done.stderr
    written = whole(in_memory)
    assert written >= 200
    # The next write removes leftovers, and after an hour sidecars without a snapshot.
    long_ago = time.time() - 2 * ORPHAN_SECONDS
    for path in in_memory.glob("*.dist"):
        os.utime(path, (long_ago, long_ago))
    SnapshotWriter(in_memory).write(PerformanceSnapshot(Metrics(throughput=1)))
    assert whole(in_memory) == written + 1
    assert len(list(in_memory.iterdir())) == 2 * written + 1


# -- many processes ----------------------------------------------------------------------------------------

CROWD = """
import os, sys, time
from datetime import UTC, datetime
from metrics_adapters.snapshot_writer import SnapshotWriter
from metrics_framework.recording import Distribution
from metrics_framework.snapshots import Metrics, PerformanceSnapshot, SnapshotMetadata
folder, processes, writes = sys.argv[1], *map(int, sys.argv[2:])
metadata = SnapshotMetadata("same", timestamp=datetime(2026, 1, 1, tzinfo=UTC))
begin = time.time() + 0.5
children = []
for process in range(processes):
    child = os.fork()
    if child == 0:
        time.sleep(max(0, begin - time.time()))
        try:
            for write in range(writes):
                number = process * writes + write
                values = {"latency": Distribution.of([float(number)])} if write % 2 else None
                snapshot = PerformanceSnapshot(Metrics(custom={"number": number}), metadata=metadata)
                SnapshotWriter(folder, max_bytes=10**9).write(snapshot, values)
        except BaseException as error:
            os.write(2, repr(error).encode())
            os._exit(1)
        os._exit(0)
    children.append(child)
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


def test_fifty_processes_share_a_folder(tmp_path):
    """They write the same run at the same time: each snapshot exists once, with its sidecar."""
    done = script(CROWD, tmp_path, 50, 4)
    assert done.returncode == 0, done.stderr
    assert whole(tmp_path) == 200
    numbers = {read_snapshot(path).metrics.custom["number"]: path for path in tmp_path.glob("*.json")}
    assert sorted(numbers) == list(range(200))
    for number, path in numbers.items():
        values = read_distributions(path)
        assert [one.min for one in values.values()] == ([number] if number % 2 else [])
    assert not list(tmp_path.glob(".writing-*"))


# -- failing disks -----------------------------------------------------------------------------------------


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path]:
    """Mount a file system on a folder, if this is permitted."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting is not permitted: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """Return a disk of 64 KiB."""
    if shutil.which("mount") is None:
        pytest.skip("there is no mount")
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=64k", "none") as folder:
        yield folder


def eventually(holds) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


VALUES = {"latency": Distribution.of([float(value) for value in range(1, 2_000)])}


def test_a_full_disk_leaves_complete_pairs(small_disk):
    """Whichever file does not fit, both files of a pair exist or neither."""
    writer = SnapshotWriter(small_disk / "snapshots")
    custom = {f"key_{number}": float(number) for number in range(150)}
    written = 0

    def fill() -> None:
        nonlocal written
        while written < 100:
            writer.write(PerformanceSnapshot(Metrics(custom=custom)), VALUES)
            written += 1

    with pytest.raises(OutputError, match="No space left on device"):
        fill()
    assert written >= 1
    assert whole(writer.folder) == written
    assert len(list(writer.folder.iterdir())) == 2 * written


def test_an_application_survives_a_full_disk(small_disk, caplog):
    """The error is logged once, and the pending snapshots are written when there is space again."""
    caplog.set_level("INFO")
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(65_536))
    folder = small_disk / "snapshots"
    collector = SnapshotCollector(folder, collection_interval=0.005)
    with collector:
        collector.increment("rows")
        eventually(lambda: "No space left on device" in caplog.text)
        for _ in range(1_000):
            collector.increment("rows")
        ballast.unlink()
        eventually(lambda: "snapshots written late" in caplog.text)
        collector.increment("rows")
    assert caplog.text.count("snapshot not written") >= 1
    assert whole(folder) >= 2
    assert read_snapshot(max(folder.glob("*.json"))).metrics.custom["rows"] <= 1_002


def test_a_full_disk_at_the_end_is_logged(small_disk, caplog):
    """If the final snapshot never fits, the program ends, and the log has the loss."""
    (small_disk / "ballast").write_bytes(bytes(65_536))
    with SnapshotCollector(small_disk / "snapshots") as collector:
        collector.increment("rows")
    assert "No space left on device" in caplog.text
    assert "snapshots lost" in caplog.text


def test_a_folder_that_is_read_only(tmp_path, caplog):
    """On a read-only file system, root is refused too, and existing files stay complete."""
    caplog.set_level("INFO")
    folder = tmp_path / "snapshots"
    SnapshotWriter(folder).write(PerformanceSnapshot(Metrics(throughput=1)), VALUES)
    with mounted(folder, "--bind", str(folder)):
        remount = ["mount", "-o", "remount,ro,bind", str(folder)]
        done = subprocess.run(remount, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"a read-only mount is not permitted: {done.stderr.strip()}")
        with pytest.raises(OutputError, match="Read-only file system"):
            SnapshotWriter(folder).write(PerformanceSnapshot(Metrics(throughput=1)), VALUES)
        with SnapshotCollector(folder, collection_interval=0.005) as collector:
            collector.increment("rows")
            eventually(lambda: "Read-only file system" in caplog.text)
            assert whole(folder) == 1
            subprocess.run(["mount", "-o", "remount,rw,bind", str(folder)], check=True)
            eventually(lambda: "snapshots written late" in caplog.text)
        assert whole(folder) >= 3


def test_a_folder_that_disappears(tmp_path, caplog):
    """The next write creates it again. A write that loses it is retried later."""
    folder = tmp_path / "snapshots"
    stop = threading.Event()

    def vanish() -> None:
        while not stop.is_set():
            shutil.rmtree(folder, ignore_errors=True)
            time.sleep(0.001)

    thread = threading.Thread(target=vanish)
    with SnapshotCollector(folder, collection_interval=0.001) as collector:
        thread.start()
        end = time.monotonic() + 2
        while time.monotonic() < end:
            collector.increment("rows")
        stop.set()
        thread.join()
        rows = collector.store.summary("rows")["total"]
    assert whole(folder) >= 1
    assert read_snapshot(max(folder.glob("*.json"))).metrics.custom["rows"] == rows
    assert "snapshots lost" not in caplog.text


# -- the order of writes to the disk -----------------------------------------------------------------------

PAIR = """
import sys
from metrics_adapters.snapshot_writer import SnapshotWriter
from metrics_framework.recording import Distribution
from metrics_framework.snapshots import Metrics, PerformanceSnapshot
SnapshotWriter(sys.argv[1]).write(
    PerformanceSnapshot(Metrics(throughput=1)), {"latency": Distribution.of([1.0, 2.0])}
)
"""


@pytest.fixture(scope="module")
def strace() -> list[str]:
    """Return the command that logs the system calls of a program, and can kill it at one."""
    program = shutil.which("strace")
    if program is None:
        pytest.skip("strace is not installed")
    trial = subprocess.run([program, "-o", os.devnull, "true"], capture_output=True, text=True, check=False)
    if trial.returncode != 0:
        pytest.skip(f"strace is not permitted: {trial.stderr.strip()}")
    return [program, "--follow-forks", "--decode-fds=path", "--quiet=all"]


def traced(strace: list[str], folder: Path, log: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Write one pair and log its system calls."""
    command = [*strace, f"--output={log}", *options, sys.executable, "-c", PAIR, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environ())


def test_the_sidecar_is_on_the_disk_before_the_snapshot_has_its_name(tmp_path, strace):
    """Both contents, then the sidecar's name and folder, then the snapshot's, against power failures."""
    folder, log = tmp_path / "snapshots", tmp_path / "log"
    calls = "--trace=write,fsync,fdatasync,?link,?linkat,?rename,?renameat,?renameat2"
    assert traced(strace, folder, log, calls).returncode == 0
    (path,) = folder.glob("*.json")
    parts = {"folder": re.escape(str(folder)), "path": re.escape(str(path)[: -len(".json")])}
    temporary = r"{folder}/\.writing-\w+\.tmp"
    patterns = [
        rf"write\(\d+<{temporary}>, ",
        rf"fsync\(\d+<{temporary}>\) = 0$",
        rf"write\(\d+<{temporary}>, ",
        rf"fsync\(\d+<{temporary}>\) = 0$",
        rf'link(at)?\(.*"{temporary}", .*"{{path}}\.dist".*\) = 0$',
        r"fsync\(\d+<{folder}>\) = 0$",
        rf'link(at)?\(.*"{temporary}", .*"{{path}}\.json".*\) = 0$',
        r"fsync\(\d+<{folder}>\) = 0$",
    ]
    lines = [re.sub(r" +=", " =", line) for line in log.read_text().splitlines() if str(folder) in line]
    assert len(lines) == len(patterns), lines
    for line, pattern in zip(lines, patterns, strict=True):
        assert re.search(pattern.format(**parts), line), line


@pytest.mark.parametrize(
    ("call", "snapshots", "sidecars"),
    [
        ("fsync:when=2", 0, 0),
        ("?link,?linkat:when=1", 0, None),
        ("fsync:when=3", 0, 1),
        ("?link,?linkat:when=2", None, 1),
        ("fsync:when=4", 1, 1),
        ("?unlink,?unlinkat:when=2", 1, 1),
    ],
)
def test_a_kill_at_any_step_leaves_no_incomplete_pair(tmp_path, strace, call, snapshots, sidecars):
    """An existing snapshot always has its sidecar."""
    folder = tmp_path / "snapshots"
    name, _, when = call.partition(":")
    options = [f"--trace={name}", f"--inject={name}:signal=KILL:{when}"]
    done = traced(strace, folder, tmp_path / "log", *options)
    assert done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL)
    for ending, expected in (("*.json", snapshots), ("*.dist", sidecars)):
        assert len(list(folder.glob(ending))) in ((0, 1) if expected is None else (expected,))
    whole(folder)


@pytest.mark.parametrize("call", ["fsync:when=3", "fsync:when=4", "?link,?linkat:when=2"])
def test_an_error_at_any_step_leaves_no_file(tmp_path, strace, call):
    """The caller may write the pair again, so neither file is left."""
    folder = tmp_path / "snapshots"
    name, _, when = call.partition(":")
    options = [f"--trace={name}", f"--inject={name}:error=EIO:{when}"]
    assert "OutputError" in traced(strace, folder, tmp_path / "log", *options).stderr
    assert list(folder.iterdir()) == []


# -- a day -------------------------------------------------------------------------------------------------

DAY = """
import json, sys
from pathlib import Path
from metrics_adapters.snapshot_writer import SnapshotCollector, SnapshotWriter
from metrics_framework.clock import ManualClock
from metrics_framework.recording import Store
folder, clock, held, files, sizes = Path(sys.argv[1]), ManualClock(), [], [], []
writer = SnapshotWriter(folder, retention_days=0.25, max_bytes=int(sys.argv[2]), clock=clock)
with SnapshotCollector(writer, Store(clock)) as collector:
    for minute in range(24 * 60):
        for number in range(6):
            collector.record_counter("rows", 1, {"table": str(number % 3)})
        collector.record_timer("query", 1 + minute * 7 % 90)
        clock.advance(60)
        collector.write()
        if minute % 60 == 59:
            held.append(int(Path("/proc/self/statm").read_text().split()[1]) * 4096)
            files.append(len(list(folder.iterdir())))
            sizes.append(sum(path.stat().st_size for path in folder.iterdir()))
print(json.dumps({"held": held, "files": files, "sizes": sizes}))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads resident memory as Linux tells it")
def test_a_day_of_snapshots_stays_within_its_limits(in_memory):
    """With a snapshot per minute for a simulated day, neither the folder nor the memory grows."""
    max_bytes = 300_000
    done = script(DAY, in_memory, max_bytes)
    assert done.returncode == 0, done.stderr
    day = json.loads(done.stdout)
    assert max(day["sizes"]) <= max_bytes
    assert max(day["files"]) <= 2 * (6 * 60 + 1)
    assert day["files"][-1] >= 2 * 100
    assert day["held"][-1] - day["held"][3] < 4_000_000, day["held"]
    assert whole(in_memory) * 2 == len(list(in_memory.iterdir()))
    assert read_snapshot(max(in_memory.glob("*.json"))).metrics.custom["rows[table:0]"] == 24 * 60 * 2
