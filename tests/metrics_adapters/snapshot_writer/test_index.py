"""The index always matches the files, after any damage and with any number of users."""

from __future__ import annotations

import gc
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from metrics_adapters.snapshot_writer import SnapshotAggregator, index
from metrics_adapters.snapshot_writer.index import INDEX_NAME
from metrics_framework.clock import ManualClock
from tests.metrics_adapters.snapshot_writer.histories import document, write

posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX's users and processes")


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the test its own user cache."""
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return cache


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with ten runs."""
    for number in range(10):
        write(tmp_path / f"{number}.json", document(number, str(number), hits=number))
    return tmp_path


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the files that are opened from now on."""
    names: list[str] = []
    original = index.parse_snapshots

    def parse_snapshots(content: bytes, name: str, written_ns: int) -> object:
        names.append(name)
        return original(content, name, written_ns)

    monkeypatch.setattr(index, "parse_snapshots", parse_snapshots)
    return names


def hits(folder: Path) -> list[float]:
    """Return the values that a new history finds."""
    return [one.value for one in SnapshotAggregator(folder).values("hits")]


def test_a_file_is_opened_once(folder: Path, opened: list[str]) -> None:
    """Neither a second query nor a second history opens an indexed file."""
    aggregator = SnapshotAggregator(folder)
    aggregator.runs()
    assert sorted(opened) == [f"{number}.json" for number in range(10)]
    aggregator.get_metric_summary("hits")
    assert hits(folder) == list(range(10))
    assert len(opened) == 10


def test_only_changed_files_are_opened(folder: Path, opened: list[str]) -> None:
    """New, changed and removed files are noticed, and no other file is read."""
    hits(folder)
    opened.clear()
    write(folder / "5.json", document(5, "5", hits=500))
    write(folder / "new.json", document(50, "new", hits=50))
    (folder / "7.json").unlink()
    assert hits(folder) == [0, 1, 2, 3, 4, 500, 6, 8, 9, 50]
    assert sorted(opened) == ["5.json", "new.json"]


def test_a_change_within_a_tick_of_the_disks_clock_is_noticed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, opened: list[str]
) -> None:
    """A recent file with the same size and time is read again."""
    monkeypatch.setattr(index, "_RECENT_NS", 60_000_000_000)
    now = time.time_ns()
    for hit in (100, 101, 102):
        (folder / "5.json").write_text(json.dumps(document(5, "5", hits=hit)))
        os.utime(folder / "5.json", ns=(now, now))
        assert hits(folder)[5] == hit
    monkeypatch.setattr(index, "_RECENT_NS", 0)
    for _ in range(2):
        hits(folder)
    assert opened.count("5.json") == 4


def test_it_works_without_sqlite_serialization(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If no index can be stored, queries read the files."""
    monkeypatch.setattr(index, "_CAN_SERIALIZE", False)
    aggregator = SnapshotAggregator(folder)
    assert len(aggregator.runs()) == 10
    (folder / "3.json").unlink()
    assert len(aggregator.runs()) == 9
    assert not (folder / INDEX_NAME).exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"no database",
        lambda content: content[:-1],
        lambda content: content[: len(content) // 2],
        lambda content: content + b"\0",
        lambda content: content[:5000] + bytes([content[5000] ^ 1]) + content[5001:],
        lambda content: content.replace(b"history 2\n", b"history 1\n"),
        lambda content: content[100:],
    ],
    ids=["empty", "garbage", "cut", "halved", "longer", "flipped", "older", "beheaded"],
)
def test_a_damaged_index_is_built_again(folder: Path, damage: Callable[[bytes], bytes]) -> None:
    """After a crash or with another version, answers match the files, and the index is repaired."""
    asked = SnapshotAggregator(folder)
    asked.runs()
    intact = (folder / INDEX_NAME).read_bytes()
    (folder / INDEX_NAME).write_bytes(damage(intact))
    assert [one.value for one in asked.values("hits")] == list(range(10))
    (folder / INDEX_NAME).write_bytes(damage(intact))
    assert hits(folder) == list(range(10))
    assert index._is_intact((folder / INDEX_NAME).read_bytes())


def test_the_index_is_one_hidden_file(folder: Path) -> None:
    """Queries create no other file, and leftovers of killed processes are removed."""
    (folder / ".writing-0.tmp").write_bytes(b"half an index")
    hits(folder)
    write(folder / "new.json", document(50, "new", hits=50))
    hits(folder)
    names = {path.name for path in folder.iterdir()} - {path.name for path in folder.glob("*.json")}
    assert names == {INDEX_NAME}


def test_it_has_no_more_than_the_files(folder: Path) -> None:
    """Metrics and runs that no file has any more are removed."""
    write(folder / "new.json", document(50, "new", once=1))
    hits(folder)
    for number in range(1, 10):
        (folder / f"{number}.json").unlink()
    (folder / "new.json").unlink()
    assert hits(folder) == [0]
    with sqlite3.connect(f"{(folder / INDEX_NAME).as_uri()}?immutable=1", uri=True) as connection:
        counts = [connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in TABLES]
    connection.close()
    assert counts == [1] * len(TABLES)


TABLES = ("listing", "files", "runs", "keys", "measurements")


# -- folders that are not writable -------------------------------------------------------------------------


def test_a_folder_that_is_not_writable_has_its_index_in_the_cache(
    folder: Path, cache: Path, opened: list[str]
) -> None:
    """The next history finds it in the user's cache."""
    (folder / INDEX_NAME).mkdir()
    for _ in range(2):
        assert hits(folder) == list(range(10))
    assert len(opened) == 10
    (index_file,) = (cache / "metrics-framework" / "history").iterdir()
    assert index._is_intact(index_file.read_bytes())


def test_without_a_writable_folder_it_is_in_memory(
    folder: Path, cache: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each history reads the files once, and still notices changes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "0.json"))
    (folder / INDEX_NAME).mkdir()
    aggregator = SnapshotAggregator(folder)
    for _ in range(3):
        assert len(aggregator.runs()) == 10
    assert len(opened) == 10
    (folder / "3.json").unlink()
    assert len(aggregator.runs()) == 9
    assert len(opened) == 10


@posix
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can change the user")
def test_a_folder_of_another_user_is_read() -> None:
    """A reader without write access gets the same answers and leaves no file. A private file is reported."""
    with tempfile.TemporaryDirectory() as name:  # the folders of pytest are private
        folder = Path(name)
        folder.chmod(0o755)
        write(folder / "0.json", document(0, "0", hits=0))
        private = write(folder / "private.json", document(1, "1", hits=1))
        private.chmod(0)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:  # a user without write access
            answer: list[object] = []
            try:
                os.setuid(65534)
                aggregator = SnapshotAggregator(folder)
                for _ in range(2):
                    answer.append(len(aggregator.runs()))
                    answer.append([str(one.path) for one in aggregator.left_out()])
            finally:
                os.write(writing, json.dumps(answer).encode())
                os._exit(0)
        os.close(writing)
        with open(reading, "rb") as pipe:  # noqa: PTH123 - a descriptor has no path
            answer = json.load(pipe)
        os.waitpid(child, 0)
        assert answer == [1, [str(private)]] * 2
        assert list(folder.glob(".*")) == []


# -- concurrency -------------------------------------------------------------------------------------------


def test_threads_query_concurrently(folder: Path) -> None:
    """While files come and go, every answer matches the files at some moment."""
    aggregator = SnapshotAggregator(folder)
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            for _ in range(10):
                values = [one.value for one in aggregator.values("hits")]
                assert values == list(range(len(values)))
                assert len(values) >= 10
        except BaseException as error:  # noqa: BLE001 - raised again where the test sees it
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(10, 20):
        whole = write(folder / "whole", document(number, str(number), hits=number))
        whole.rename(folder / f"{number}.json")
    for thread in threads:
        thread.join()
    assert errors == []
    assert hits(folder) == list(range(20))


@posix
def test_a_forked_child_continues_to_query(folder: Path) -> None:
    """A history that was used before a fork works in the child and in the parent."""
    aggregator = SnapshotAggregator(folder)
    aggregator.runs()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            write(folder / "10.json", document(10, "10", hits=10))
            status = 0 if len(aggregator.runs()) == 11 else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(aggregator.runs()) == 11


ASK = """
import sys
from pathlib import Path
from metrics_adapters.snapshot_writer import SnapshotAggregator
sys.stdin.readline()
for number in range(15):
    Path(sys.argv[1], f"{sys.argv[2]}-{number}.json").write_text('{"metrics": {"custom": {"own": 1}}}')
    values = [one.value for one in SnapshotAggregator(sys.argv[1]).values("hits")]
    assert values == list(range(10)), values
    assert len(SnapshotAggregator(sys.argv[1]).values("own")) > number
"""


@pytest.mark.heavy
def test_processes_query_and_index_concurrently(folder: Path) -> None:
    """Several processes write and query in one folder: all see all, and the index is complete."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ASK, str(folder), str(number)], stdin=subprocess.PIPE, env=environ
        )
        for number in range(4)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.close()
    assert [process.wait(60) for process in processes] == [0] * 4
    assert len(SnapshotAggregator(folder).runs()) == 10 + 4 * 15
    assert [path.name for path in folder.glob(".*")] == [INDEX_NAME]
    assert index._is_intact((folder / INDEX_NAME).read_bytes())


@pytest.mark.heavy
def test_a_day_of_snapshots_stays_small(tmp_path: Path) -> None:
    """The index is smaller than its files, and a query needs little memory and keeps none."""
    clock = ManualClock()
    series = {f"http/requests[endpoint:/{number}]": float(number) for number in range(40)}
    for minute in range(1_440):
        clock.advance(60)
        write(tmp_path / f"{minute:06}.json", document(minute, f"run {minute}", {"p95": minute}, **series))
    aggregator = SnapshotAggregator(tmp_path, clock=clock)
    assert aggregator.get_metric_summary("latency.p95")["count"] == 1_440
    files = sum(path.stat().st_size for path in tmp_path.glob("*.json"))
    assert (tmp_path / INDEX_NAME).stat().st_size < files
    tracemalloc.start()
    try:
        aggregator.get_metric_summary("latency.p95")
        gc.collect()
        before, peak = tracemalloc.get_traced_memory()
        for _ in range(3):
            aggregator.get_metric_summary("latency.p95")
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4_000 * 1_440
    assert after - before < 50_000
