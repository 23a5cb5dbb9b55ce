"""Pages that processes share: what is in them, who leaves them, and what a reader makes of damaged ones."""

from __future__ import annotations

import ast
import copy
import ctypes
import gc
import os
import pickle
import random
import struct
import subprocess
import sys
import textwrap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from metrics_framework.recording.distribution import SCALE
from tests.metrics_framework.recording.debug_core import ROOT, Owner, new_series
from tests.metrics_framework.recording.hostile import Hostile
from tests.metrics_framework.runtime import children

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pages are not shared on Windows")

S = 1_000_000_000
KINDS = ("Counter", "Gauge", "Histogram", "Timer", "Outcome")


@pytest.fixture
def engine() -> Any:
    """Return the compiled engine."""
    return pytest.importorskip("metrics_framework.recording._core", exc_type=ImportError)


class Worker:
    """A shared core with a clock that the test sets.

    Args:
        engine: The compiled engine.
        path: Where its page is.
    """

    def __init__(self, engine: Any, path: Path, **header: Any) -> None:
        self.engine, self.path, self.now = engine, path, 5 * S
        self.core = engine.Core(lambda: self.now)
        self.core.allows_recent = True
        self.core.share(path, **header)

    def slot(self, kind: str) -> Any:
        """Return a slot that drops what it closes."""
        slot_kind = {"Histogram": "distribution", "Timer": "distribution"}.get(kind, kind.lower())
        return self.engine.Slot(
            self.core, slot_kind, lambda slot: slot.commit(slot.windows, None, len(slot.peek()[1]))
        )

    def series(self, kind: str, slot: Any = None, **tags: str) -> Any:
        """Return a live series with a tag set of its own, which has the kind as its key."""
        tag_set = self.engine.TagSet(Owner(), tuple(tags), kind.encode())
        make = getattr(self.engine, f"{kind}Series")
        return tag_set.add(make(tag_set, tuple(tags.values()), slot or self.slot(kind)))

    def reader(self) -> Any:
        """Return a reader of the live page."""
        return live(self.engine, self.path)

    def dead_reader(self) -> Any:
        """Return a reader of the page's bytes."""
        return self.engine.PageReader.of(self.path.read_bytes())


def live(engine: Any, path: Path) -> Any:
    """Return a reader of the page of a live process."""
    file = os.open(path, os.O_RDONLY)
    try:
        return engine.PageReader(file)
    finally:
        os.close(file)


def record(series: Any, number: int) -> None:
    """Record into a series of any kind."""
    value = (number * 37 - 300) / 8
    if hasattr(series, "add"):
        series.add(abs(value) if number % 2 else number)
    elif hasattr(series, "set"):
        series.set(value)
    elif hasattr(series, "elapse"):
        series.elapse(abs(value), success=number % 5 > 0)
    elif hasattr(series, "observe"):
        series.observe(value if number % 11 else 0)
    else:
        series.finish(f"Errör{number % 7}" if number % 3 else None)


@pytest.fixture
def worker(engine: Any, tmp_path: Path) -> Worker:
    """Return an empty shared core."""
    return Worker(engine, tmp_path / "page")


# -- what a page has -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("records", [1, 100, 1_000])
def test_a_reader_sees_the_state_that_the_process_has(worker: Worker, kind: str, records: int) -> None:
    """Aggregate, counts by bounds and times are equal, of a live page and of its bytes."""
    series = worker.series(kind, tag="value")
    if kind in ("Histogram", "Timer"):
        series.slot.count_by((0.0, 10.0, 100.0), seed=True)
    for number in range(records):
        worker.now += 1_000
        record(series, number)
    for reader in (worker.reader(), worker.dead_reader()):
        [(index, (key, values, _))] = reader.poll()
        assert (key, values) == (kind.encode(), ("value",))
        assert reader.read(index) == series.own_reading()
        assert reader.read_slots(index) == ((5 * S, series.state()), None)


@pytest.mark.parametrize("kind", KINDS)
def test_slots_are_the_open_one_and_the_one_before(worker: Worker, kind: str) -> None:
    """So a killed process loses no window: neither of its name nor, of 16 seconds, of a series."""
    series = worker.series(kind)
    reader = worker.reader()
    for number in range(40):
        worker.now = (5 + number) * S
        record(series, number)
    [(index, _)] = reader.poll()
    (_, opened), (start_ns, _) = reader.read_slots(index)
    assert series.slot.peek()[2] == (44 * S, opened)
    assert start_ns == 43 * S
    (start_ns, opened), (closed_ns, closed) = reader.read_recent(index)
    assert series.recent.peek()[2] == (start_ns, opened)
    assert (closed_ns, closed.records, start_ns, opened.records) == (16 * S, 16, 32 * S, 13)
    series.drop_recent()
    assert reader.read_recent(index) == (None, None)
    assert reader.read(index)[0] == series.state()


def test_records_of_two_processes_have_times_in_their_order(engine: Any, tmp_path: Path) -> None:
    """With the default clock too, each record of two that take turns is later than the one before it.

    So it is when one of them does not share its numbers any more.
    """
    turns = [os.pipe(), os.pipe()]

    def play(player: int) -> list[int]:
        core = engine.Core()
        core.share(tmp_path / f"page{player}")
        gauge, times = new_series(engine, core, "Gauge"), []
        for number in range(400):
            os.read(turns[player][0], 1)
            gauge.set(1)
            times.append(gauge.last_ns)
            if number == 200 and player:
                core.unshare()
            os.write(turns[1 - player][1], b".")
        return times

    os.write(turns[0][1], b".")
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(play, 0)
        second = ast.literal_eval(children.in_a_child(lambda: play(1)))
        times = [time for pair in zip(first.result(), second, strict=True) for time in pair]
    for ends in turns:
        for end in ends:
            os.close(end)
    assert times == sorted(set(times))


def test_only_what_was_recorded_since_is_read_again(worker: Worker) -> None:
    """`changed` names series with new records, once."""
    one, other = worker.series("Counter"), worker.series("Outcome")
    one.add(1)
    other.finish(None)
    reader = worker.reader()
    indexes = [index for index, _ in reader.poll()]
    assert reader.changed() == indexes
    assert [reader.read(index)[0].records for index in indexes] == [1, 1]
    assert reader.changed() == []
    other.finish("timeout")
    assert reader.changed() == [indexes[1]]
    assert reader.read(indexes[1])[0].failures == {"timeout": 1}
    assert reader.poll() == []


def test_series_of_one_slot_are_told_apart_from_others(worker: Worker) -> None:
    """The third field of an entry is equal for the series of one slot, and only for them."""
    slot = worker.slot("Counter")
    many = [worker.series("Counter", slot, tag="a"), worker.series("Counter", slot, tag="b")]
    many.append(worker.series("Counter", tag="c"))
    for series in many:
        series.add(1)
    slots = [entry[2] for _, entry in worker.reader().poll()]
    assert slots[0] == slots[1] != slots[2]


def test_tags_of_any_text_are_in_the_directory(worker: Worker) -> None:
    """Also empty ones, other planes, and half a surrogate pair; those that do not fit are counted."""
    values = ("", "plain", "é\u20ac\U0001f600", "half \ud83d", "x" * 50_000)
    expected = []
    for value in values:
        worker.series("Counter", tag=value).add(1)
        expected.append((value,))
    too_long = worker.series("Counter", tag="x" * 70_000)
    too_long.add(1)
    assert [entry[1] for _, entry in worker.reader().poll()] == expected
    assert worker.core.unshared_series == 1
    assert too_long.state().value == 1


def test_many_error_types_have_their_names(worker: Worker) -> None:
    """Hundreds of names are found in the page, also those that do not fit or have no memory."""
    outcome = worker.series("Outcome")
    for number in range(700):
        outcome.finish(f"Error \u20ac {number}")
    outcome.finish("x" * 70_000)
    [(index, _)] = (reader := worker.reader()).poll()
    failures = reader.read(index)[0].failures
    assert failures.pop("unknown") == 1
    assert failures == {f"Error \u20ac {number}": 1 for number in range(700)}


def test_the_header_states_the_process(engine: Any, tmp_path: Path) -> None:
    """It has all arguments, the process id, and numbers of the whole process."""
    given: dict[str, Any] = {
        "generation": 2**64 - 1,
        "worker": 3,
        "process_start": 12,
        "boot": b"0123456789abcdef",
        "anchor_monotonic": -5,
        "anchor_wall": 1_700_000_000 * S,
    }
    worker = Worker(engine, tmp_path / "page", **given)
    counters = {name: engine.InternalCounter(worker.core, name) for name in COUNTERS}
    for number, counter in enumerate(counters.values(), 5):
        counter.add(number)
    worker.series("Counter").add(1)
    header = worker.reader().header()
    numbers = {"records": 1, "rejected": 5, "overflowed": 6, "abandoned": 7}
    assert header == {**given, **numbers, "process": os.getpid(), "unfinished": 0, "size": header["size"]}
    assert header["size"] == worker.path.stat().st_size
    worker.core.reset()
    assert [counter.value for counter in counters.values()] == [0, 0, 0]


COUNTERS = ("rejected", "overflowed", "abandoned")


def test_another_counter_is_an_error(engine: Any) -> None:
    """The message states the choices."""
    with pytest.raises(ValueError, match="name='lost' is not 'rejected', 'overflowed' or 'abandoned'"):
        engine.InternalCounter(engine.Core(), "lost")


def test_a_changed_key_is_in_every_entry(worker: Worker) -> None:
    """A reader sees the old entry leave and the new one come; numbers and recent slots stay."""
    series = worker.series("Counter", tag="a")
    for second in (5, 30):
        worker.now = second * S
        series.add(second)
    reader = worker.reader()
    [(index, entry)] = reader.poll()
    series.tag_set.key = b"another"
    assert reader.poll() == [(index, None), (index, (b"another", *entry[1:]))]
    assert reader.read(index)[0].value == 35
    assert reader.read_recent(index)[0][1].value == 30
    worker.now = 60 * S
    series.add(1)
    assert reader.read_recent(index)[1][1].value == 30
    with pytest.raises(TypeError, match="key='text' is not bytes"):
        series.tag_set.key = "text"


def test_a_removed_series_leaves_the_directory(worker: Worker) -> None:
    """A reader is told, and reads nothing of it; its return is another entry."""
    series = worker.series("Counter", tag="a")
    series.add(1)
    reader = worker.reader()
    [(index, entry)] = reader.poll()
    series.tag_set.remove(series)
    assert reader.read(index) is None
    assert reader.read_slots(index) == (None, None)
    assert reader.poll() == [(index, None)]
    assert reader.read(index) is None
    series.add(7)
    series.tag_set.remove(series)
    series.add(8)
    assert reader.poll() == [(index, entry)]
    assert reader.read(index)[0].value == 8


def test_removed_series_do_not_pile_up(worker: Worker) -> None:
    """A process whose series come and go needs no more room than those that are there at a time."""
    slot, names = worker.slot("Counter"), ("tag",)
    tag_set = worker.engine.TagSet(Owner(), names, b"key")
    reader, live_series, sizes = worker.reader(), [], []
    for number in range(40_000):
        series = worker.engine.CounterSeries(tag_set, (f"value {number}",), slot)
        tag_set.add(series)
        series.add(number)
        live_series.append(series)
        if len(live_series) > 200:
            tag_set.remove(live_series.pop(0))
        if number % 10_000 == 9_999:
            reader.poll()
            sizes.append((worker.path.stat().st_size, worker.core.nbytes))
    assert sizes[0] == sizes[-1]
    fresh = worker.reader()
    found = {entry[1][0]: fresh.read(index)[0].value for index, entry in fresh.poll()}
    assert found == {f"value {number}": number for number in range(39_800, 40_000)}


def test_a_directory_of_several_tables_is_read_whole(worker: Worker) -> None:
    """All of 20 000 series are found, also by a reader that was there before the file grew."""
    reader, slot = worker.reader(), worker.slot("Gauge")
    tag_set = worker.engine.TagSet(Owner(), ("tag",), b"key")
    for number in range(20_000):
        tag_set.add(worker.engine.GaugeSeries(tag_set, (str(number),), slot)).set(number)
    for each in (reader, worker.reader(), worker.dead_reader()):
        assert {int(entry[1][0]): each.read(i)[0].last for i, entry in each.poll()} == dict(
            zip(range(20_000), range(20_000), strict=True)
        )


def test_a_reader_follows_a_block_past_its_mapping(worker: Worker) -> None:
    """A state that moved into a part of the file that is new is read, without a call of `poll`."""
    histogram = worker.series("Histogram")
    histogram.observe(1)
    reader = worker.reader()
    [(index, _)] = reader.poll()
    size = worker.path.stat().st_size
    others = [worker.series("Histogram", tag=str(number)) for number in range(400)]
    for other in others:
        other.observe(1)
    for number in range(2_000):
        histogram.observe(1.01**number)
    assert worker.path.stat().st_size > size
    assert reader.read(index)[0] == histogram.state()


@pytest.mark.slow
def test_hostile_use_leaves_a_page_with_exactly_the_live_series(engine: Any, tmp_path: Path) -> None:
    """Whatever records, removes and resets amid other calls: a reader has the numbers of the process."""
    for seed in range(3):
        Hostile(engine, seed, folder=tmp_path).run(4_000)


# -- sharing ---------------------------------------------------------------------------------------------


def test_sharing_needs_an_empty_private_core(worker: Worker, tmp_path: Path) -> None:
    """Anything else is an error, and changes nothing."""
    with pytest.raises(RuntimeError, match="shared already"):
        worker.core.share(tmp_path / "second")
    used = worker.engine.Core()
    series = worker.engine.CounterSeries
    tag_set = worker.engine.TagSet(Owner(), ())
    tag_set.add(series(tag_set, (), worker.engine.Slot(used, "counter"))).add(1)
    with pytest.raises(RuntimeError, match="has records"):
        used.share(tmp_path / "second")
    with pytest.raises(FileExistsError):
        worker.engine.Core().share(worker.path)
    with pytest.raises(FileNotFoundError):
        worker.engine.Core().share(tmp_path / "missing" / "page")
    with pytest.raises(ValueError, match="boot has 17 bytes"):
        worker.engine.Core().share(tmp_path / "second", boot=b"x" * 17)
    assert [path.name for path in tmp_path.iterdir()] == ["page"]
    assert worker.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("leave", ["unshare", "reset"])
def test_a_core_that_left_its_page_changes_it_no_more(worker: Worker, leave: str, tmp_path: Path) -> None:
    """`unshare` keeps the numbers and `reset` drops them; then it can be shared again."""
    series, histogram = worker.series("Counter"), worker.series("Histogram")
    for number in range(500):
        record(series, number)
        record(histogram, number)
    states = series.state(), histogram.state()
    page = worker.path.read_bytes()
    getattr(worker.core, leave)()
    assert not worker.core.is_shared
    assert (series.state(), histogram.state()) == (states if leave == "unshare" else (None, None))
    for number in range(500):
        record(series, number)
        record(histogram, number)
    assert worker.path.read_bytes() == page
    worker.core.reset()
    worker.core.share(tmp_path / "next")
    record(series, 3)
    record(histogram, 4)
    reader = live(worker.engine, tmp_path / "next")
    assert [reader.read(index)[0] for index, _ in reader.poll()] == [series.state(), histogram.state()]


def test_a_dropped_core_unmaps_its_page(engine: Any, tmp_path: Path) -> None:
    """Neither a mapping nor a descriptor of it remains, of its reader either."""
    for number in range(20):
        worker = Worker(engine, tmp_path / f"page{number}")
        worker.series("Counter").add(1)
        reader = worker.reader()
        reader.poll()
        if number % 2:
            reader.close()
            with pytest.raises(ValueError, match="closed"):
                reader.poll()
            with pytest.raises(ValueError, match="closed"):
                reader.read(1)
        del worker, reader
    gc.collect()  # the core's clock refers to the worker
    if sys.platform == "linux":
        assert str(tmp_path) not in Path("/proc/self/maps").read_text()
        links = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        assert not any(str(tmp_path) in link for link in links)


# -- forks -----------------------------------------------------------------------------------------------


def fork_in_python() -> int:
    """Fork as Python does."""
    return os.fork()


def fork_in_c() -> int:
    """Fork as a C library does, without Python's hooks."""
    return int(ctypes.PyDLL(None).fork())


@pytest.mark.parametrize("fork", [fork_in_python, fork_in_c])
def test_a_forked_child_leaves_the_page_of_its_parent(worker: Worker, fork: Callable[[], int]) -> None:
    """It begins at zero and records privately, and no byte of the parent's page changes."""
    series = [worker.series(kind) for kind in KINDS]
    series[1].slot.law = "sum"
    counter = worker.engine.InternalCounter(worker.core, "rejected")
    for one in series:
        for number in range(300):
            record(one, number)
    counter.add(3)
    page = worker.path.read_bytes()

    def child() -> str:
        before = [one.state() for one in series], worker.core.is_shared, worker.core.records, counter.value
        for one in series:
            for number in range(3):
                record(one, number)
        records = [one.state().records for one in series]
        opened = series[1].slot.peek()[2][1]
        series[0].tag_set.remove(series[0])
        more = worker.series("Counter", tag="new")
        more.add(2)
        return repr((before, records, opened.last == series[1].state().last, more.state().value))

    assert children.in_a_child(child, fork=fork) == repr((([None] * 5, False, 0, 0), [3] * 5, True, 2))
    assert worker.path.read_bytes() == page
    series[0].add(1)
    assert series[0].state().records == 301
    assert worker.reader().header()["records"] == 1_501


@pytest.mark.parametrize("fork", [fork_in_python, fork_in_c])
def test_a_forked_child_shares_a_page_of_its_own(
    worker: Worker, fork: Callable[[], int], tmp_path: Path
) -> None:
    """After a reset its series enter its own page at their first record."""
    one, other = worker.series("Counter", tag="a"), worker.series("Counter", tag="b")
    one.add(1)
    other.add(1)

    def child() -> str:
        worker.core.reset()
        worker.core.share(tmp_path / "child")
        other.add(5)
        return ""

    children.in_a_child(child, fork=fork)
    reader = worker.engine.PageReader.of((tmp_path / "child").read_bytes())
    [(index, entry)] = reader.poll()
    assert entry[1] == ("b",)
    assert reader.read(index)[0].value == 5
    reader = worker.reader()
    assert [reader.read(index)[0].value for index, _ in reader.poll()] == [1, 1]


# -- no room ---------------------------------------------------------------------------------------------

FULL = """
import os, resource, sys
from pathlib import Path
from metrics_framework.recording import _core as engine
from tests.metrics_framework.recording.test_shared_pages import Owner, Worker, live
folder, limit = Path(sys.argv[1]), int(sys.argv[2])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
worker = Worker(engine, folder / "page")
slot = worker.slot("Histogram")
tag_set = engine.TagSet(Owner(), ("tag",), b"key")
many = [tag_set.add(engine.HistogramSeries(tag_set, (str(i),), slot)) for i in range(5_000)]
for series in many:
    for value in range(150):
        series.observe(value)
assert worker.core.is_private and worker.core.is_shared
assert all(series.state().count == 150 for series in many)
reader = live(engine, folder / "page")
read = {int(entry[1][0]): reader.read(index) for index, entry in reader.poll()}
shared = {number: reading for number, reading in read.items() if reading is not None}
assert all(many[number].own_reading() == reading for number, reading in shared.items())
assert (folder / "page").stat().st_size == reader.header()["size"]
assert engine.PageReader.of((folder / "page").read_bytes()).poll()
for number, series in enumerate(many):
    tag_set.remove(series)
for series in many[:100]:
    series.observe(1)
print(len(shared))
"""


def run_script(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command in the repository."""
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.usefixtures("engine")
def test_a_page_that_cannot_grow_goes_on_in_private_memory(tmp_path: Path) -> None:
    """All records count in the process; a reader has the series that came before, and no wrong one."""
    done = run_script(sys.executable, "-c", FULL, tmp_path, "1000000")
    assert done.stderr == ""
    assert 100 < int(done.stdout) < 5_000


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="tmpfs is a file system of Linux")
@pytest.mark.usefixtures("engine")
def test_a_full_tmpfs_neither_kills_nor_loses(tmp_path: Path) -> None:
    """The same on a small memory file system, where writing past the end of the room raises SIGBUS."""
    mount = f"mount -t tmpfs -o size=1m none {tmp_path} || exit 77"
    script = f'{mount}; exec {sys.executable} -c "$SCRIPT" {tmp_path} 0'
    environment = {**os.environ, "SCRIPT": FULL}
    try:
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", script],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        pytest.skip("this machine has no unshare")
    if done.returncode == 77 or "unshare:" in done.stderr:
        pytest.skip(f"mounting is not permitted here: {done.stderr}")
    assert done.stderr == ""
    assert 100 < int(done.stdout) < 5_000


@pytest.mark.slow
@pytest.mark.usefixtures("engine")
def test_no_room_for_the_log_is_an_error_and_leaves_no_file(tmp_path: Path) -> None:
    """The core records privately then."""
    script = textwrap.dedent("""
        import os, resource, sys
        from metrics_framework.recording import _core as engine
        from tests.metrics_framework.recording.debug_core import new_series
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
        core = engine.Core()
        try:
            core.share(sys.argv[1] + "/page")
        except OSError as error:
            series = new_series(engine, core, "Counter")
            series.add(3)
            print(series.state().value, core.is_shared, os.listdir(sys.argv[1]), error.filename)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    """)
    done = run_script(sys.executable, "-c", script, tmp_path)
    assert (done.stderr, done.stdout) == ("", f"3 False [] {tmp_path}/page\n")


# -- damage ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the bytes of a page with all that a page can have."""
    engine = pytest.importorskip("metrics_framework.recording._core", exc_type=ImportError)
    worker = Worker(engine, tmp_path_factory.mktemp("pages") / "page")
    many = [worker.series(kind, tag=str(number)) for kind in KINDS for number in range(3)]
    for one in many[6:9]:
        one.slot.count_by((0.0, 100.0), seed=True)
    for second in range(0, 40, 8):
        worker.now = (5 + second) * S
        for place, one in enumerate(many):
            for number in range(8 + place % 3 * 50):
                record(one, number)
    many[0].tag_set.remove(many[0])
    return worker.path.read_bytes()


def use(reader: Any) -> int:
    """Read everything, and compute with what is not rejected; return how many readings there are."""
    readings = 0
    for index, entry in reader.poll():
        if entry is None:
            continue
        for read in (reader.read, reader.read_slots, reader.read_recent):
            with suppress(ValueError):
                found = read(index)
                aggregates = (
                    [found[0]] if read == reader.read and found else [one[1] for one in found or () if one]
                )
                for aggregate in aggregates:
                    compute(aggregate)
                    readings += 1
    reader.changed()
    reader.header()
    return readings


def compute(aggregate: Any) -> None:
    """Call everything that an aggregate has."""
    repr(aggregate)
    assert copy.copy(aggregate) is aggregate
    aggregate.merge(aggregate).merge(aggregate)
    if hasattr(aggregate, "quantiles"):
        aggregate.quantiles(0.0, 0.5, 0.99, 1.0)
        with suppress(ValueError):
            assert aggregate.state.count == aggregate.count
        assert aggregate.scale <= SCALE
    elif hasattr(aggregate, "combine"):
        for law in ("latest", "sum", "min", "max"):
            aggregate.combine(aggregate, law)
    else:
        assert pickle.loads(pickle.dumps(aggregate)) == aggregate


def test_an_undamaged_page_is_read_whole(engine: Any, page: bytes) -> None:
    """The page of these tests has every kind of block."""
    assert use(engine.PageReader.of(page)) > 50


@pytest.mark.slow
def test_a_page_that_is_cut_anywhere_is_rejected(engine: Any, page: bytes, tmp_path: Path) -> None:
    """At each line of 64 bytes, of a dead page and of a mapped file; the unused end may be missing."""
    published = struct.unpack_from("=Q", page, 40)[0]
    path = tmp_path / "cut"
    for length in range(0, len(page), 64):
        if length >= published:
            assert engine.PageReader.of(page[:length]).poll()
            continue
        with pytest.raises(ValueError, match="cut"):
            engine.PageReader.of(page[:length])
        if length % 1_024 == 0:
            path.write_bytes(page[:length])
            with pytest.raises(ValueError, match="cut"):
                live(engine, path)


@pytest.mark.parametrize(
    ("word", "value", "reason"),
    [
        (0, 1, "not a page"),
        (1, 999, "layout 999"),
        (2, 0x0807060504030201, "byte order"),
        (3, 128, "log"),
        (4, 512, "log"),
        (5, 1 << 60, "cut"),
        (5, 0, "cut"),
        (32, 1 << 40, "damaged"),
    ],
)
def test_another_layout_is_rejected_with_the_reason(
    engine: Any, page: bytes, word: int, value: int, reason: str
) -> None:
    """Another version, machine or file is told from a page of this version."""
    other = bytearray(page)
    struct.pack_into("=Q", other, 8 * word, value)
    with pytest.raises(ValueError, match=reason):
        engine.PageReader.of(bytes(other))


@pytest.mark.parametrize("data", [None, bytearray(100_000), "text", memoryview(b"")])
def test_a_dead_page_is_bytes(engine: Any, data: Any) -> None:
    """Other objects could change while they are read."""
    with pytest.raises(TypeError, match="is not bytes"):
        engine.PageReader.of(data)


def used_places(page: bytes) -> list[int]:
    """Return the offsets of the words of a page after the log that are not zero, and of its header."""
    words = struct.unpack(f"={len(page) // 8}Q", page)
    heap = 512 + 1024 * 72
    return [8 * place for place, word in enumerate(words) if (word and 8 * place >= heap) or place < 40]


def flipped(page: bytes, chance: random.Random, places: list[int]) -> bytes:
    """Return a page with some flipped bits or a word of another kind."""
    damaged = bytearray(page)
    for _ in range(chance.choice([1, 1, 2, 8])):
        place = chance.choice(places)
        if chance.random() < 0.5:
            damaged[place + chance.randrange(8)] ^= 1 << chance.randrange(8)
        else:
            value = chance.choice([0, 1, 2**63, 2**64 - 1, 2**32 - 64, 0x7FF0 << 48, 0x7FF8 << 48, len(page)])
            struct.pack_into("=Q", damaged, place, value)
    return bytes(damaged)


@pytest.mark.slow
def test_flipped_bits_never_crash(engine: Any, page: bytes, soak: Callable[[int], int]) -> None:
    """A damaged page is rejected, or partly skipped, or has wrong numbers; all of it can be used."""
    chance, places = random.Random(3), used_places(page)
    outcomes = {"rejected": 0, "skipped": 0, "whole": 0}
    everything = use(engine.PageReader.of(page))
    for _ in range(soak(20_000)):
        try:
            reader = engine.PageReader.of(flipped(page, chance, places))
        except ValueError:
            outcomes["rejected"] += 1
            continue
        outcomes["skipped" if use(reader) < everything else "whole"] += 1
    assert min(outcomes.values()) > 0


@pytest.mark.slow
def test_flipped_bits_of_a_live_page_never_crash(
    engine: Any, page: bytes, tmp_path: Path, soak: Callable[[int], int]
) -> None:
    """The same while the page is mapped, and a reader that knows it meets the damage."""
    chance, places, path = random.Random(4), used_places(page), tmp_path / "page"
    for _ in range(soak(2_000)):
        path.write_bytes(page)
        reader = live(engine, path)
        use(reader)
        with path.open("r+b") as file:  # in place, as another process would
            file.write(flipped(page, chance, places))
        use(reader)
        for index in range(40):
            for read in (reader.read, reader.read_slots, reader.read_recent):
                with suppress(ValueError):
                    read(index)


def test_a_damaged_log_of_a_live_page_ends_a_read(engine: Any, page: bytes, tmp_path: Path) -> None:
    """A read gives up with an error instead of trying for ever."""
    path = tmp_path / "page"
    path.write_bytes(page)
    reader = live(engine, path)
    [(index, _), *_] = reader.poll()
    with path.open("r+b") as file:
        file.seek(8 * 32)
        file.write(struct.pack("=Q", 1 << 40))
    with pytest.raises(ValueError, match="log never fits"):
        reader.read(index)


def test_an_unknown_index_reads_nothing(worker: Worker) -> None:
    """Also negative and very large ones; other types are errors."""
    worker.series("Counter").add(1)
    reader = worker.reader()
    assert reader.read(1) is None  # not polled yet
    reader.poll()
    for index in (-1, 0, 2, 10**6):
        assert reader.read(index) is None
        assert reader.read_slots(index) == reader.read_recent(index) == (None, None)
    for wrong in (None, "1", 1.5):
        with pytest.raises(TypeError):
            reader.read(wrong)
