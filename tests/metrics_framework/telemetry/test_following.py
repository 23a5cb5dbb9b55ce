"""Following a file while it is written yields each complete line once, even through rotations."""

from __future__ import annotations

import gzip
import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from metrics_framework.clock import ManualClock
from metrics_framework.errors import InvalidInputError, OutputError
from metrics_framework.telemetry import Flaw, TelemetryFollower
from metrics_framework.telemetry import following as following_module
from metrics_framework.telemetry.following import REPLACED_READ_SECONDS, RotatedFiles, Tail
from tests.metrics_framework.telemetry.made import line
from tests.metrics_framework.telemetry.peers import LATER, PYTHON, require

FIRST_LINE = Tail.expect_first_line.__name__


def append(path: Path, *data: bytes) -> None:
    """Append data to a file, which may be new."""
    with path.open("ab") as file:
        file.write(b"".join(data))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of the file."""
    return tmp_path / "events.jsonl"


@pytest.fixture
def flaws() -> list[str]:
    """Return the flaws that are found."""
    return []


@pytest.fixture
def follower(path: Path, clock: ManualClock, flaws: list[str]) -> Iterator[TelemetryFollower]:
    """Follow the file."""
    with TelemetryFollower(path, lambda flaw: flaws.append(str(flaw)), clock=clock) as running:
        yield running


def numbers(follower: TelemetryFollower) -> list[int]:
    """Return the identifying numbers of the new events."""
    return [record.timestamp_ns for record in follower.poll()]


def test_added_lines_are_read_once(path, follower):
    """Each poll yields the lines since the last one. A file that does not exist yet is awaited."""
    assert numbers(follower) == []
    append(path, line(1), line(2))
    assert numbers(follower) == [1, 2]
    assert numbers(follower) == []
    append(path, line(3))
    assert numbers(follower) == [3]


def test_an_incomplete_line_is_awaited(path, follower, flaws):
    """A line is read once its end is written, in any number of steps."""
    whole = line(1)
    for at in range(len(whole) - 1):
        append(path, whole[at : at + 1])
        assert numbers(follower) == []
    append(path, b"\n")
    assert numbers(follower) == [1]
    assert flaws == []


def test_events_that_are_not_consumed_come_with_the_next_poll(path, follower):
    """A consumer that stops early loses no event and gets none twice."""
    append(path, line(1), line(2), line(3))
    assert next(follower.poll()).timestamp_ns == 1
    assert next(follower.poll()).timestamp_ns == 2
    assert numbers(follower) == [3]


def test_a_bad_line_is_reported_by_its_number(path, follower, flaws):
    """Reading continues after it."""
    append(path, line(1), b"\n", b"{half\n", line(4), b"[]\n")
    assert numbers(follower) == [1, 4]
    assert [flaw.partition(":")[0] for flaw in flaws] == [f"{path}, line 3", f"{path}, line 5"]


def test_a_truncated_file_is_read_from_the_beginning(path, follower):
    """This also holds if it has grown beyond the old position by the next poll."""
    append(path, line(1), line(2))
    numbers(follower)
    path.write_bytes(line(3))
    assert numbers(follower) == [3]
    path.write_bytes(b"")
    assert numbers(follower) == []
    append(path, line(4))
    assert numbers(follower) == [4]
    path.write_bytes(b"".join(line(number) for number in range(5, 25)))
    assert numbers(follower) == list(range(5, 25))


def test_an_incomplete_line_may_be_removed(path, follower, flaws):
    """Stormlog repairs its last line after a crash, and continues after the complete lines."""
    append(path, line(1), line(2)[:-9])
    assert numbers(follower) == [1]
    os.truncate(path, len(line(1)))
    append(path, line(3))
    assert numbers(follower) == [3]
    assert flaws == []


def test_a_writer_that_keeps_its_position_leaves_zeros(path, follower, flaws):
    """The line after the zeros in a truncated file is read."""
    with path.open("wb", buffering=0) as file:
        file.write(line(1))
        assert numbers(follower) == [1]
        os.truncate(path, 0)
        file.write(line(2))
        assert path.read_bytes().startswith(b"\0")
        assert numbers(follower) == [2]
    assert flaws == []


def test_a_renamed_file_is_read_to_its_end(path, follower, clock):
    """Lines that its writer still adds are read for a while, then the file is closed."""
    append(path, line(1))
    numbers(follower)
    rotated = path.with_name("events.jsonl.1")
    path.rename(rotated)
    append(rotated, line(2))
    assert numbers(follower) == [2]
    append(path, line(4))
    append(rotated, line(3))
    assert numbers(follower) == [3, 4]
    clock.advance(REPLACED_READ_SECONDS)
    assert numbers(follower) == []
    append(rotated, line(5))
    assert numbers(follower) == []


def test_the_last_line_of_a_replaced_file_needs_no_end(path, follower, clock, flaws):
    """No writer will complete it any more."""
    for end, name in ((line(2)[:-1], "a"), (line(3)[:-9], "b")):
        append(path, end)
        assert numbers(follower) == []
        path.rename(path.with_name(name))
        append(path, b"")
        assert numbers(follower) == []
        clock.advance(REPLACED_READ_SECONDS)
        assert numbers(follower) == ([2] if name == "a" else [])
    assert len(flaws) == 1
    assert "the line is incomplete" in flaws[0]


@pytest.mark.parametrize("times", [1, 2, 5])
def test_nothing_is_lost_between_rotations(path, follower, times):
    """If the file is renamed several times between two polls, all files are read, oldest first."""
    append(path, line(0))
    assert numbers(follower) == [0]
    append(path, line(1))
    for round_ in range(times):
        rotate(path)
        append(path, line(10 + round_))
    assert numbers(follower) == [1, *range(10, 10 + times)]
    assert numbers(follower) == []


@pytest.mark.parametrize("times", [1, 2, 5])
def test_nothing_is_lost_between_copies(path, follower, times):
    """The same holds if the file is copied and then truncated."""
    append(path, line(0))
    assert numbers(follower) == [0]
    append(path, line(1))
    for round_ in range(times):
        rotate(path, copy=True)
        append(path, line(10 + round_))
    assert numbers(follower) == [1, *range(10, 10 + times)]
    assert numbers(follower) == []


@pytest.mark.parametrize("copy", [False, True])
def test_a_file_that_was_rotated_before_it_was_seen_is_read(path, follower, copy):
    """Lines after the first poll are read, even if each poll finds an empty or missing file."""
    assert numbers(follower) == []
    append(path, line(1))
    rotate(path, copy=copy)
    append(path, line(2))
    rotate(path, copy=copy)
    append(path, b"")
    assert numbers(follower) == [1, 2]
    append(path, line(3))
    rotate(path, copy=copy)
    append(path, b"")
    assert numbers(follower) == [3]


@pytest.mark.parametrize("copy", [False, True])
def test_an_empty_rotated_file_does_not_hide_others(path, follower, copy):
    """A program that rotates at an interval also rotates empty files."""
    append(path, line(1))
    assert numbers(follower) == [1]
    for number in (2, None, 3, None, 4):
        if number is not None:
            append(path, line(number))
        rotate(path, copy=copy)
        append(path, b"")
    append(path, line(5))
    assert numbers(follower) == [2, 3, 4, 5]


def test_a_copy_of_current_content_is_not_read(path, follower):
    """A poll between copying and truncating finds each line once."""
    append(path, b"")
    assert numbers(follower) == []
    append(path, line(1))
    shutil.copyfile(path, path.with_name("events.jsonl.1"))
    assert numbers(follower) == [1]
    os.truncate(path, 0)
    assert numbers(follower) == []
    append(path, line(2))
    assert numbers(follower) == [2]


def test_a_copy_that_has_just_begun_is_not_read(path, follower):
    """Its content is read from the file itself until the file is truncated."""
    append(path, b"")
    assert numbers(follower) == []
    append(path, line(1))
    copied = path.with_name("events.jsonl.1")
    copied.touch()
    assert numbers(follower) == [1]
    shutil.copyfile(path, copied)
    assert numbers(follower) == []
    os.truncate(path, 0)
    append(path, line(2))
    assert numbers(follower) == [2]


def test_a_file_that_was_rewritten_and_renamed_is_read(path, follower):
    """It is read from the beginning, before the file that replaced it."""
    append(path, line(1), line(2))
    assert numbers(follower) == [1, 2]
    path.write_bytes(line(3))
    rotate(path)
    append(path, line(4))
    assert numbers(follower) == [3, 4]


@pytest.mark.parametrize("copy", [False, True])
@pytest.mark.parametrize("begin", [0, 9])
@pytest.mark.parametrize("moment", [(FIRST_LINE, "before"), (FIRST_LINE, "after"), ("since", "after")])
def test_a_rotation_at_any_moment_of_a_poll_loses_nothing(path, follower, monkeypatch, copy, begin, moment):
    """At any step of a poll, the file may be completed, rotated, written and rotated again."""
    name, when = moment
    append(path, b"")
    assert numbers(follower) == []
    append(path, line(1)[:begin] if begin else line(1))
    owner = Tail if name == FIRST_LINE else RotatedFiles
    glance = getattr(owner, name)
    turns = iter(
        [lambda: (append(path, line(1)[begin:] if begin else b""), turn(2), turn(3), append(path, line(4)))]
    )

    def turn(number: int) -> None:
        rotate(path, copy=copy)
        append(path, line(number))

    def disturbed(*arguments):
        if when == "before":
            next(turns, lambda: None)()
        result = glance(*arguments)
        if when == "after":
            next(turns, lambda: None)()
        return result

    monkeypatch.setattr(owner, name, disturbed)
    assert [number for _ in range(4) for number in numbers(follower)] == [1, 2, 3, 4]


def test_older_rotated_files_are_not_read(path, follower):
    """Files that were rotated before the first poll are not read, and neither are backups."""
    append(path.with_name("events.jsonl.1"), line(1))
    append(path.with_name("events.jsonl.2"), line(2))
    append(path, line(3))
    assert numbers(follower) == [3]
    shutil.copy(path, path.with_name("events.jsonl.bak"))
    path.unlink()
    append(path, line(4))
    assert numbers(follower) == [4]


def rotate(path: Path, *, copy: bool = False) -> None:
    """Rotate as logging handlers and logrotate do."""
    kept = sorted((int(old.suffix[1:]) for old in path.parent.glob(f"{path.name}.*")), reverse=True)
    for number in kept:
        path.with_name(f"{path.name}.{number}").rename(path.with_name(f"{path.name}.{number + 1}"))
    first = path.with_name(f"{path.name}.1")
    if copy:
        shutil.copyfile(path, first)
        os.truncate(path, 0)
    else:
        path.rename(first)


def test_a_line_without_end_needs_no_memory(path, follower, flaws, monkeypatch):
    """A line beyond the limit is one flaw, and the lines after it are read."""
    monkeypatch.setattr(following_module, "MAX_LINE_BYTES", 10_000)
    monkeypatch.setattr("metrics_framework.telemetry.reading.MAX_LINE_BYTES", 10_000)
    monkeypatch.setattr(following_module, "_CHUNK_BYTES", 1_000)
    append(path, line(1), b"x" * 50_000)
    assert numbers(follower) == [1]
    append(path, b"x" * 50_000 + b"\n", line(2))
    assert numbers(follower) == [2]
    assert [flaw.partition(",")[2] for flaw in flaws] == [" line 2: is longer than 10,000 bytes"]
    append(path, b"{}\n")
    numbers(follower)
    assert " line 4:" in flaws[-1]


def test_a_line_longer_than_a_chunk_is_read(path, follower, monkeypatch):
    """Chunks grow until a complete line fits."""
    monkeypatch.setattr(following_module, "_CHUNK_BYTES", 16)
    append(path, line(1, padding=1_000), line(2))
    assert numbers(follower) == [1, 2]


def test_a_gzip_file_cannot_be_followed(path, follower):
    """The error says so."""
    path.write_bytes(gzip.compress(line(1)))
    with pytest.raises(InvalidInputError, match="compressed with gzip"):
        numbers(follower)


def test_a_file_that_cannot_be_read_is_an_error(tmp_path):
    """The error names the path and the reason."""
    (tmp_path / "file").touch()
    with (
        pytest.raises(OutputError, match="Not a directory"),
        TelemetryFollower(tmp_path / "file" / "x") as one,
    ):
        list(one.poll())


def test_segments_are_followed_in_their_order(tmp_path, flaws):
    """Each is read to its end before the next one. A removed segment is not an error."""
    with TelemetryFollower(tmp_path, lambda flaw: flaws.append(str(flaw))) as follower:
        assert numbers(follower) == []
        append(tmp_path / "segment-000001.jsonl", line(1))
        assert numbers(follower) == [1]
        append(tmp_path / "segment-000001.jsonl", line(2))
        append(tmp_path / "segment-000002.jsonl", line(3))
        append(tmp_path / "segment-000010.jsonl", line(4), line(5)[:-3])
        assert numbers(follower) == [2, 3, 4]
        (tmp_path / "segment-000001.jsonl").unlink()
        append(tmp_path / "segment-000010.jsonl", line(5)[-3:])
        assert numbers(follower) == [5]
        append(tmp_path / "segment-1000000.jsonl", line(6))
        assert numbers(follower) == [6]
    assert flaws == []


def test_other_files_of_a_manifest_are_ignored(tmp_path):
    """Only files with the names of segments are followed."""
    append(tmp_path / "other", line(9))
    (tmp_path / "manifest.json").write_text(json.dumps({"segments": [{"filename": "other"}]}))
    with TelemetryFollower(tmp_path) as follower:
        for number in (1, 2):
            append(tmp_path / f"segment-00000{number}.jsonl", line(number))
            assert numbers(follower) == [number]


def test_the_end_of_a_segment_may_come_with_the_next_poll(tmp_path):
    """A consumer may stop after any event."""
    for number in (1, 2, 3):
        append(tmp_path / f"segment-00000{number}.jsonl", line(10 * number), line(10 * number + 1)[:-1])
    seen = []
    with TelemetryFollower(tmp_path) as follower:
        while (record := next(follower.poll(), None)) is not None:
            seen.append(record.timestamp_ns)
    assert seen == [10, 11, 20, 21, 30]


def test_flaws_are_logged_by_default(path, caplog):
    """The first ones are logged individually, the number of the others at the end."""
    append(path, b"x\n" * 15)
    with caplog.at_level(logging.WARNING, logger="metrics_framework"), TelemetryFollower(path) as follower:
        assert numbers(follower) == []
        assert len(caplog.records) == 10
    assert "lines=5" in caplog.text


def test_a_recreated_folder_is_read_from_the_beginning(tmp_path):
    """Its first segment is a different file from the one that was read."""
    with TelemetryFollower(tmp_path) as follower:
        for name in ("segment-000001.jsonl", "segment-000002.jsonl"):
            append(tmp_path / name, line(1))
        assert numbers(follower) == [1, 1]
        for old in tmp_path.iterdir():
            old.unlink()
        append(tmp_path / "segment-000001.jsonl", line(2))
        assert numbers(follower) == [2]
        (tmp_path / "segment-000001.jsonl").write_bytes(line(3))
        assert numbers(follower) == [3]


class FollowedFile(RuleBasedStateMachine):
    """Any sequence of writes, rotations, truncations and polls."""

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "events.jsonl"
        self.clock = ManualClock()
        self.flaws: list[Flaw] = []
        self.follower = TelemetryFollower(self.path, self.flaws.append, clock=self.clock)
        self.written: list[int] = []
        self.seen: list[int] = []
        self.half = b""
        self.next = 0
        self.look()  # lines from here on are expected

    @rule(count=st.integers(1, 3))
    def write(self, count: int) -> None:
        """Write complete lines, the first of which may complete an earlier one."""
        lines = []
        for _ in range(count):
            self.next += 1
            self.written.append(self.next)
            lines.append(line(self.next, padding=self.next % 7 * 60))
        if self.half:
            lines[0] = lines[0][len(self.half) :]
            self.half = b""
        append(self.path, *lines)

    @rule(share=st.floats(0.1, 0.9))
    def write_half(self, share: float) -> None:
        """Write the beginning of the next line."""
        whole = line(self.next + 1, padding=(self.next + 1) % 7 * 60)
        if not self.half:
            self.half = whole[: int(len(whole) * share)]
            append(self.path, self.half)

    @initialize(copy=st.booleans())
    def choose(self, copy: bool) -> None:
        """Choose one way to rotate."""
        self.copy = copy

    @rule(times=st.integers(1, 3))
    def rotate(self, times: int) -> None:
        """Rotate between two lines, several times in a row."""
        for _ in range(times):
            if not self.half:
                self.write(1)
                rotate(self.path, copy=self.copy)
                self.write(1)

    @rule()
    def truncate(self) -> None:
        """Truncate after all lines were read, because truncated lines are lost."""
        self.look()
        if not self.half and self.path.exists():
            os.truncate(self.path, 0)

    @rule()
    def look(self) -> None:
        """Poll for new events."""
        self.seen += numbers(self.follower)

    @rule(seconds=st.sampled_from([1.0, 10.0]))
    def wait(self, seconds: float) -> None:
        """Advance the clock."""
        self.clock.advance(seconds)

    @invariant()
    def nothing_twice(self) -> None:
        """No event was seen twice, and none that was not written."""
        assert len(set(self.seen)) == len(self.seen)
        assert set(self.seen) <= set(self.written)
        assert self.flaws == []

    def teardown(self) -> None:
        """Poll a last time: then all events were seen, in order."""
        self.look()
        self.follower.close()
        self.folder.cleanup()
        assert self.seen == self.written


FollowedFile.TestCase.settings = settings(max_examples=60, stateful_step_count=20)
TestFollowedFile = pytest.mark.heavy(FollowedFile.TestCase)

WRITER = """
import os, random, sys, time
from pathlib import Path
path, seed, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
chosen = random.Random(seed)
number = 0
def lines(n):
    global number
    for _ in range(n):
        number += 1
        yield b'{"session_id": "s", "event_type": "sample", "timestamp_ns": %d, "context": "%s"}\\n' % (
            number, b"x" * chosen.randrange(300))
def rotate(how):
    if how == "truncate":  # after all lines were read, because truncated lines are lost
        seen = path.with_name("seen")
        while not seen.exists() or int(seen.read_text() or 0) < number:
            time.sleep(0.001)
        os.truncate(path, 0)
        return
    for old in range(30, 0, -1):
        source = path.with_name(f"{path.name}.{old}")
        if source.exists():
            source.rename(path.with_name(f"{path.name}.{old + 1}"))
    if how == "copy":
        import shutil
        shutil.copyfile(path, path.with_name(f"{path.name}.1"))
        os.truncate(path, 0)
    else:
        path.rename(path.with_name(f"{path.name}.1"))
while number < count:
    data = b"".join(lines(chosen.randrange(1, 60)))
    with path.open("ab", buffering=0) as file:
        cut = chosen.randrange(len(data))
        file.write(data[:cut])
        time.sleep(chosen.random() * 0.003)
        file.write(data[cut:])
    if chosen.random() < 0.15:
        rotate(sys.argv[4])
    time.sleep(chosen.random() * 0.003)
"""


@pytest.mark.heavy
@pytest.mark.parametrize("how", ["rename", "copy", "truncate"])
def test_another_process_writes_in_bursts_and_rotates(tmp_path, how):
    """Its lines arrive once and in order, through dozens of rotations."""
    path, count = tmp_path / "events.jsonl", 8_000
    flaws: list[Flaw] = []
    seen: list[int] = []
    arguments = [sys.executable, "-c", WRITER, str(path), "7", str(count), how]
    with subprocess.Popen(arguments) as writer, TelemetryFollower(path, flaws.append) as follower:
        while writer.poll() is None:
            seen += numbers(follower)
            (tmp_path / "seen").write_text(str(len(seen)))
            time.sleep(0.01)
        seen += numbers(follower)
    assert writer.returncode == 0
    assert len(seen) >= count
    assert seen == list(range(1, len(seen) + 1))
    assert flaws == []


SINK = """
import sys, time
from stormlog.telemetry_sink import AppendOnlyTelemetrySink, TelemetrySinkConfig
sink = AppendOnlyTelemetrySink(TelemetrySinkConfig(
    sys.argv[1], flush_every_events=20, rollover_max_events=100, retention_max_files=40, write_rollups=False))
for number in range(1, 6001):
    sink.append({"session_id": "s", "timestamp_ns": number, "event_type": "sample"})
sink.close()
"""


@pytest.mark.heavy
def test_a_folder_is_followed_while_stormlog_writes_it(tmp_path):
    """Its events arrive once and in order, through rollover and retention."""
    require(LATER)
    seen: list[int] = []
    flaws: list[Flaw] = []
    environ = {**os.environ, "PYTHONPATH": str(LATER)}
    with (
        subprocess.Popen([PYTHON, "-c", SINK, tmp_path], env=environ) as writer,
        TelemetryFollower(tmp_path, flaws.append) as follower,
    ):
        while writer.poll() is None:
            seen += numbers(follower)
            time.sleep(0.005)
        seen += numbers(follower)
    assert writer.returncode == 0
    assert seen == list(range(1, 6001))
    assert len(list(tmp_path.glob("segment-*"))) == 40
    assert flaws == []
