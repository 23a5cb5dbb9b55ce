"""Batches whose process is killed or whose disk is full, with real processes and disks."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from metrics_framework.batch import BatchMetrics
from metrics_framework.batch.summary import load_summary
from metrics_framework.errors import OutputError

pytestmark = pytest.mark.heavy

SCRIPT = """
import sys
from metrics_framework.batch import BatchMetrics
batch = BatchMetrics("b", journal="journal", in_memory=50)
batch.start()
sys.stdout.write("begun\\n")
sys.stdout.flush()
for name in batch.remaining([f"file-{number:06}" for number in range(6_000)]):
    batch.record_file(name, duration=0.5, samples=3, error_message="m" * (hash(name) % 300))
batch.finish()
"""


def test_a_batch_killed_at_any_moment_can_be_resumed(tmp_path: Path) -> None:
    """However often it is killed while writing, each file is recorded exactly once at the end."""
    chosen = random.Random(5)
    kills = 0
    for _ in range(20):
        process = subprocess.Popen([sys.executable, "-c", SCRIPT], cwd=tmp_path, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(chosen.uniform(0, 0.02))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        process.stdout.close()
        stats = load_summary(tmp_path / "journal").to_dict()
        assert stats["total_files"] == stats["processed_count"] == len(names(tmp_path / "journal"))
    subprocess.run([sys.executable, "-c", SCRIPT], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    assert kills >= 3
    assert sorted(names(tmp_path / "journal")) == [f"file-{number:06}" for number in range(6_000)]
    stats = load_summary(tmp_path / "journal").to_dict()
    assert (stats["total_files"], stats["timing"]["min_per_file_seconds"]) == (6_000, 0.5)


def names(journal: Path) -> list[str]:
    """Return the file names in a journal, read without this library."""
    found = []
    for line in journal.read_bytes().split(b"\n")[:-1]:
        entry = json.loads(line)
        if isinstance(entry, list):
            found.append(entry[0])
    return found


def test_a_killed_batch_leaves_no_temporary_file(tmp_path: Path) -> None:
    """The temporary file has no name, so nothing remains when the process ends."""
    script = (
        "import os, signal, sys\n"
        "from metrics_framework.batch import BatchMetrics\n"
        "batch = BatchMetrics(in_memory=10, spill_folder='.')\n"
        "for number in range(5_000): batch.record_file(str(number), duration=1.0)\n"
        "assert sum(1 for _ in batch.files()) == 5_000\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=False)
    assert done.returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return the folder of a file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a file system here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def record(batch: BatchMetrics, files: int) -> None:
    """Record files with samples."""
    for number in range(files):
        batch.record_file(f"file-{number:05}", duration=0.25, samples=2)


def test_a_full_disk_loses_details_only(
    small_disk: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The batch continues, its totals are exact, lost details are reported, and kept details are complete."""
    batch = BatchMetrics("b", in_memory=100, spill_folder=small_disk)
    record(batch, 5_000)
    summary = batch.summary()
    assert (summary.total_files, summary.timing.total_duration) == (5_000, 1_250.0)
    kept = [file.filename for file in batch.files()]
    assert 300 < len(kept) == 5_000 - batch.lost
    assert len(set(kept)) == len(kept)
    assert "No space left on device" in caplog.text
    batch.export_json(tmp_path / "out.json")
    assert len(json.loads((tmp_path / "out.json").read_text())["files"]) == len(kept)
    assert f"files={batch.lost}" in caplog.text


def test_a_journal_on_a_full_disk_is_valid_up_to_the_failure(small_disk: Path) -> None:
    """Files that it lost are processed again when the batch is resumed with free space."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(40_000))
    batch = BatchMetrics("b", in_memory=100, journal=small_disk / "journal")
    record(batch, 3_000)
    assert batch.counts.files == 3_000
    assert batch.lost > 0
    batch.close()
    ballast.unlink()
    again = BatchMetrics("b", journal=small_disk / "journal")
    done = again.counts.files
    assert 100 < done < 3_000
    left = list(again.remaining(f"file-{number:05}" for number in range(3_000)))
    assert len(left) == 3_000 - done
    assert names(small_disk / "journal") == [file.filename for file in again.files()]


def test_a_journal_that_cannot_be_written_is_an_error(small_disk: Path) -> None:
    """The error is raised before the work starts."""
    with (small_disk / "ballast").open("wb", buffering=0) as ballast, suppress(OSError):
        while True:
            ballast.write(bytes(4096))
    with pytest.raises(OutputError, match=r"cannot write the journal .* No space left on device"):
        BatchMetrics(journal=small_disk / "journal")


def test_an_export_to_a_full_disk_keeps_the_old_file(small_disk: Path) -> None:
    """The old file is complete, and no partial new file takes up space."""
    batch = BatchMetrics("b")
    record(batch, 3_000)
    path = small_disk / "out.json"
    path.write_text("before")
    with pytest.raises(OSError, match="No space left on device"):
        batch.export_json(path)
    assert path.read_text() == "before"
    assert list(small_disk.iterdir()) == [path]


def test_a_device_that_is_always_full_loses_details_only(caplog: pytest.LogCaptureFixture) -> None:
    """Every write fails; memory holds as many rows as fit, and the totals are exact."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    from metrics_framework.batch.disk import SpillFile, _OffsetFile
    from metrics_framework.batch.rows import RowStore

    spill = SpillFile()
    spill._file = _OffsetFile(os.open("/dev/full", os.O_RDWR))
    records = RowStore(10, spill)
    for number in range(100):
        records.rows.append((str(number), 1.0, 1.0, 1, 0, "success", None, None, None))
        records.flush()
    totals, rows = records.totals_and_rows()
    assert totals.counts.files + len(rows) == 100
    assert records.lost == totals.counts.files
    assert "No space left on device" in caplog.text


def test_memory_does_not_grow_with_the_number_of_files(tmp_path: Path) -> None:
    """200,000 files and their exports take only a few MB more than 20,000."""
    script = (
        "import sys\n"
        "from metrics_framework.batch import BatchMetrics\n"
        "batch = BatchMetrics()\n"
        "for number in range(int(sys.argv[1])):\n"
        "    batch.record_file(f'/data/run/file{number:07}', duration=0.5)\n"
        "batch.export_json('out.json')\n"
        "batch.export_csv('out.csv')\n"
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))\n"
    )

    def peak(files: int) -> int:
        done = subprocess.run(
            [sys.executable, "-c", script, str(files)],
            cwd=tmp_path,
            check=True,
            capture_output=True,
            text=True,
        )
        return int(done.stdout)

    assert peak(200_000) - peak(20_000) < 4_000
