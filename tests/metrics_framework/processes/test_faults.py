"""Damaged files, a disk that fails and a kill at any step cost no total and raise no error."""

from __future__ import annotations

import os
import random
import shutil
import struct
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from metrics_framework.processes import sharing
from metrics_framework.processes.contents import Contents
from metrics_framework.processes.sources import FRAMES, PAGE, SLOTS, WorkerSource, source_of
from metrics_framework.recording.engine import ENGINE
from tests.metrics_framework.processes.workers import Worker, Workers, total

NUMBERS = FRAMES if ENGINE == "pure" else PAGE

SECONDS = 30


@pytest.fixture
def workers(tmp_path: Path) -> Workers:
    """Return the workers of a group."""
    folder = tmp_path / "group"
    folder.mkdir()
    return Workers(folder)


def record(workers: Workers, worker: Worker) -> None:
    """Record something of each kind in each of some seconds."""
    for second in range(SECONDS):
        for route in "abc":
            worker.store.find("counter", "requests", {"route": route}).add(1)
            worker.store.find("timer", "db", {"route": route}).observe(float(second))
        worker.store.find("gauge", "level", None).set(second)
        outcomes: Any = worker.store.find_outcomes("call")
        outcomes.finish(None if second % 2 else "error")
        workers.clock.advance(1)
        worker.shared.flush()


def recorded(worker: Worker) -> dict[str, Any]:
    """Return all totals that a worker sees."""
    found: dict[str, Any] = {}
    for reading in worker.read().readings():
        found[f"{reading.name}{reading.tags}"] = reading.summary["count"]
    for named, metric in worker.store.metrics():
        found[f"total of {named}"] = metric.window(None).aggregate.records
    return found


def _note(faults: list[Any], *fault: Any) -> None:
    faults.append(fault)


def damage_every(step: int, size: int) -> list[int]:
    """Return places in a file; not all of a large one."""
    places = list(range(0, size, step))
    return places if len(places) < 600 else [*places[:300], *random.Random(1).sample(places[300:], 300)]


@pytest.mark.slow
@pytest.mark.parametrize("ending", [NUMBERS, SLOTS])
@pytest.mark.parametrize("is_cut", [True, False], ids=["cut", "flipped"])
def test_a_damaged_file_is_read_up_to_the_damage(workers: Workers, ending: str, is_cut: bool) -> None:
    """Cut at every 64 bytes or with a flipped bit, it never raises, and never has more than was recorded."""
    one, reader = workers.some(2)
    record(workers, one)
    one.end()
    path = workers.group.folder / f"{one.stem}{ending}"
    whole = path.read_bytes()
    expected = {"requests": SECONDS, "db": SECONDS, "level": SECONDS}
    for place in damage_every(64, len(whole)):
        damaged = bytearray(whole[:place] if is_cut else whole)
        if not is_cut:
            damaged[place] ^= 1 << place // 64 % 8
        path.write_bytes(damaged)
        faults: list[Any] = []
        source = source_of(workers.group.folder / one.stem, {NUMBERS}, 10**18, partial(_note, faults))
        source.is_alive = False
        source.poll()
        for key in {*source.contents.series, *source.slot_contents.recent}:
            source.recent(key)
        for metric in source.metrics():
            source.windows(metric)
        if is_cut or ending != PAGE:  # a page has no checksums, and a flipped bit in a number is a number
            for key, reading in source.contents.series.items():
                assert reading[0].records <= expected.get(key.metric.name, SECONDS)
        if not is_cut and ending != PAGE:
            assert faults, place
    path.write_bytes(whole)
    assert recorded(reader)["requests{'route': 'a'}"] == SECONDS


@pytest.mark.parametrize("ending", [NUMBERS, SLOTS])
def test_damage_never_lowers_the_totals_of_a_reader(workers: Workers, ending: str) -> None:
    """A reader keeps what it read before, also when the worker is dead and the archive lacks its numbers."""
    one, reader = workers.some(2)
    record(workers, one)
    before = recorded(reader)
    one.end()
    path = workers.group.folder / f"{one.stem}{ending}"
    content = path.read_bytes()
    path.unlink()  # a live page must not be cut: its reader would be killed
    path.write_bytes(content[: len(content) // 3])
    for _ in range(3):
        for name, number in recorded(reader).items():
            assert number >= before[name], name
        reader.shared.work()


def test_a_damaged_archive_is_repaired(workers: Workers) -> None:
    """Workers that knew it before the damage write it again; one that did not leaves that to them."""
    first, second, reader = workers.some(3)
    for worker in (first, second):
        record(workers, worker)
    before = recorded(reader)
    first.end()
    for _ in range(2):  # it writes the archive, and reads it
        reader.shared.work()
    archive = workers.group.folder / "archive"
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 0xFF
    archive.write_bytes(content)
    second.end()
    newcomer = workers.make()
    for worker in (newcomer, reader, newcomer):
        worker.shared.work()
        assert worker is newcomer or recorded(worker) == before
    assert recorded(newcomer) == before
    assert not [path for path in workers.group.folder.iterdir() if path.name.startswith(second.stem)]


@pytest.mark.skipif(sys.platform == "win32", reason="sets a limit of POSIX")
def test_numbers_that_cannot_be_opened_now_are_read_later(workers: Workers) -> None:
    """A process with too many open files does not archive a worker that has ended as an empty one."""
    import resource

    one, _ = workers.some(2)
    record(workers, one)
    one.end()
    source = source_of(workers.group.folder / one.stem, {NUMBERS, SLOTS}, 10**18, lambda *_: None)
    source.is_alive = False
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(OSError, match="open files"):
            source.poll_all()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    source.poll_all()
    assert {key.metric.name for key in source.contents.series} >= {"requests"}


def test_a_file_of_another_version_is_skipped(workers: Workers) -> None:
    """It is not read, and the rest is."""
    one, other, reader = workers.some(3)
    for worker in (one, other):
        record(workers, worker)
        worker.end()
    path = workers.group.folder / f"{one.stem}{NUMBERS}"
    content = bytearray(path.read_bytes())
    struct.pack_into("<H" if ENGINE == "pure" else "<I", content, 4 if ENGINE == "pure" else 8, 60_000)
    path.write_bytes(content)
    for _ in range(2):
        assert recorded(reader)["requests{'route': 'a'}"] == SECONDS
        reader.shared.work()


def test_a_folder_that_vanishes_costs_nothing_that_was_read(workers: Workers) -> None:
    """Reads go on with the numbers that are known, records go on, and nothing raises."""
    one, reader = workers.some(2)
    record(workers, one)
    before = recorded(reader)
    shutil.rmtree(workers.group.folder)
    assert recorded(reader) == before
    reader.store.find("counter", "requests", {"route": "a"}).add(1)
    reader.shared.work()
    assert recorded(reader)["requests{'route': 'a'}"] == SECONDS + 1


def test_no_total_falls_after_the_folder_vanished(workers: Workers) -> None:
    """A worker that goes on recording where no file is left lowers no total that another one has read."""
    one, reader = workers.some(2)
    record(workers, one)
    for _ in range(10):  # more than in the seconds after it
        one.store.find("counter", "requests", {"route": "a"}).add(1)
    before = recorded(reader)
    shutil.rmtree(workers.group.folder)
    for _ in range(3):
        record(workers, one)
        now = recorded(reader)
        assert all(now[name] >= number for name, number in before.items())
        before = now


def test_a_full_disk_costs_no_record(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Own numbers are complete while nothing can be written, and the others see them once there is room."""
    one, reader = workers.some(2)
    record(workers, one)
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, content: write(descriptor, content[:40]))
    for _ in range(3):
        one.store.find("counter", "requests", {"route": "a"}).add(1)
        workers.clock.advance(1)
        one.shared.work()
    assert recorded(one)["requests{'route': 'a'}"] == SECONDS + 3
    monkeypatch.undo()
    one.shared.work()
    assert recorded(reader) == recorded(one)
    assert recorded(reader)["requests{'route': 'a'}"] == SECONDS + 3


class Killed(BaseException):
    """A kill, for code that must not clean up after it."""


class Bomb:
    """Kills a process at a number of system calls that change files."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
        self.left = calls
        for module, name in ((os, "write"), (os, "open"), (Path, "replace"), (Path, "unlink")):
            self._wrap(monkeypatch, module, name)

    def _wrap(self, monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> None:
        original = getattr(module, name)

        def called(*args: Any, **kwargs: Any) -> Any:
            if self.left <= 0:
                raise Killed
            self.left -= 1
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, called)


def test_a_kill_at_any_step_of_archiving_counts_nobody_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each later reader sees each dead worker once, whatever was done before the kill; so do archives."""
    for calls in range(100):
        folder = tmp_path / str(calls)
        folder.mkdir()
        workers = Workers(folder)
        many = workers.some(4)
        for worker in many[:3]:
            worker.store.find("counter", "requests", None).add(10)
            worker.store.find("timer", "db", None).observe(1.0)
        many[0].end()
        many[3].shared.work()  # an earlier archive
        for worker in many[1:3]:
            worker.end()
        with monkeypatch.context() as patched:
            bomb = Bomb(patched, calls)
            with suppress(Killed):
                many[3].shared.work()
        workers.group.alive.discard(many[3].stem)
        reader = workers.make()
        for _ in range(3):
            assert total(reader, "requests") == 30, calls
            assert reader.store.summary("db")["count"] == 3, calls
            reader.shared.work()
        assert not [path for path in folder.iterdir() if path.name.startswith(many[1].stem)]
        if bomb.left > 0:
            return
    raise AssertionError("archiving takes more steps than expected")


@pytest.mark.slow
def test_no_total_falls_while_workers_come_and_go(workers: Workers) -> None:
    """Whichever worker is read, at any moment of the life of the others."""
    chance = random.Random(7)
    living = workers.some(3)
    seen: float = 0
    expected = 0
    for step in range(400):
        action = chance.random()
        worker = chance.choice(living)
        if action < 0.5:
            worker.store.find("counter", "requests", {"route": chance.choice("ab")}).add(1)
            expected += 1
        elif action < 0.7:
            worker.shared.work()
        elif action < 0.75 and len(living) > 1:
            living.remove(worker)
            worker.end()
        elif action < 0.8:
            living.append(workers.make())
        else:
            workers.clock.advance(0.3)
        for reader in chance.sample(living, min(2, len(living))):
            now = sum(one.summary["sum"] for one in reader.store.readings())
            assert now >= seen, step
            seen = now
    workers.flush()
    assert seen <= total(living[0], "requests") == expected


def test_an_unexpected_fault_of_a_reader_fails_no_read(
    workers: Workers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The own numbers are read, and the fault is logged once."""
    one, reader = workers.some(2)
    record(workers, one)
    reader.store.find("counter", "requests", {"route": "a"}).add(1)

    def fail(*_: Any) -> Any:
        raise ZeroDivisionError("a fault of this test")

    with monkeypatch.context() as patched:
        patched.setattr(WorkerSource, "windows", fail)
        patched.setattr(Contents, "apply", fail)
        patched.setattr(sharing, "merge_readings", fail)
        for _ in range(2):
            assert total(reader, "requests") == 1
    assert caplog.text.count("cannot read the numbers of other workers") == 1
    record(workers, one)
    assert recorded(reader)["requests{'route': 'a'}"] == 2 * SECONDS + 1


@pytest.mark.parametrize("cut", [1, 15, 16, 17, -1])
def test_a_cut_note_of_a_removal_hides_no_later_one(workers: Workers, cut: int) -> None:
    """A worker is killed while it writes a removal: those before and after it are obeyed."""
    killed, one, other = workers.some(3)
    for user in "abc":
        for worker in (killed, one, other):
            worker.store.find("counter", "requests", {"user": user}).add(1)
    file = workers.group.folder / "removed"
    for worker, user in ((one, "a"), (killed, "b")):
        before = file.read_bytes() if file.exists() else b""
        worker.store.remove("requests", {"user": user})
        worker.shared.flush()
    whole = file.read_bytes()
    file.write_bytes(whole[: len(before) + cut] if cut > 0 else whole[:cut])
    assert users(other) == ["b", "c"]
    one.store.remove("requests", {"user": "c"})
    one.shared.flush()
    assert users(other) == ["b"]
    assert users(workers.make()) == ["b"]


def users(worker: Worker) -> list[str]:
    """Return the users with requests that a worker sees."""
    return sorted(reading.tags["user"] for reading in worker.read().readings())
