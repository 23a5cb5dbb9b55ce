"""The snapshot writer, on a real disk, with real processes that share it, block it, and are killed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics_adapters.snapshot_writer import SnapshotWriter
from metrics_adapters.snapshot_writer.writer import DEFAULT_FOLDER
from metrics_framework.errors import OutputError
from metrics_framework.recording import Distribution
from metrics_framework.snapshots import Metrics, PerformanceSnapshot, SnapshotMetadata, read_snapshot
from metrics_framework.snapshots.distributions import DISTRIBUTIONS_TAG, read_distributions

MOMENT = datetime(2026, 1, 1, 10, 0, 0, 250_000, tzinfo=UTC)

posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX's files, locks and signals")


def _snapshot(
    run_id: str = "550e8400-e29b", timestamp: datetime = MOMENT, **custom: float
) -> PerformanceSnapshot:
    return PerformanceSnapshot(
        Metrics(throughput=950.2, custom=custom), metadata=SnapshotMetadata(run_id, timestamp=timestamp)
    )


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _temporary(folder: Path) -> list[str]:
    return [name for name in _names(folder) if name.endswith(".tmp")]


def _environ() -> dict[str, str]:
    """Return the variables of a child process without coverage, which would write files of its own."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}


def _refuse_links(*_: object) -> None:
    raise PermissionError(1, "Operation not permitted")


@contextmanager
def _python(script: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Run a Python script that ends with the block."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=_environ()) as process:
        try:
            yield process
        finally:
            process.kill()


# -- content and names -------------------------------------------------------------------------------------


def test_a_written_snapshot_is_read_back(tmp_path: Path) -> None:
    """It is equal, and no other file is left in the folder."""
    snapshot = _snapshot(hits=3, **{"größe/µs": 8.5})
    path = SnapshotWriter(tmp_path).write(snapshot)
    assert read_snapshot(path) == snapshot
    assert _names(tmp_path) == [path.name]


def test_a_file_is_readable_json_with_a_last_newline(tmp_path: Path) -> None:
    """It is indented, in plain ASCII, and ends like a text file."""
    content = SnapshotWriter(tmp_path).write(_snapshot(µ=1)).read_bytes()
    assert content.decode("ascii").startswith('{\n  "schema_version": 1,\n')
    assert content.endswith(b"}\n")
    assert json.loads(content) == _snapshot(µ=1).to_dict()


def test_a_file_is_named_by_time_and_run(tmp_path: Path) -> None:
    """A name has the time in UTC and the start of the run's id."""
    path = SnapshotWriter(tmp_path).write(_snapshot("550e8400-e29b-41d4"))
    assert path == tmp_path / "20260101T100000.250000Z-550e8400.json"


def test_a_files_name_is_of_fixed_width(tmp_path: Path) -> None:
    """Times without microseconds, and in the first years, have as many digits as any other."""
    writer = SnapshotWriter(tmp_path)
    moments = [MOMENT.replace(microsecond=0), datetime(1, 2, 3, tzinfo=UTC)]
    names = [writer.write(_snapshot("run", moment)).name for moment in moments]
    assert names == ["20260101T100000.000000Z-run.json", "00010203T000000.000000Z-run.json"]


@settings(max_examples=30)
@given(st.lists(st.datetimes(timezones=st.just(UTC)), min_size=2, max_size=4, unique=True))
def test_names_sort_by_time(tmp_path_factory: pytest.TempPathFactory, moments: list[datetime]) -> None:
    """Names sort by age, from the first year to the last, to the microsecond."""
    folder = tmp_path_factory.mktemp("sorted")
    writer = SnapshotWriter(folder)
    for number, moment in enumerate(moments):
        writer.write(_snapshot(str(9 - number), moment))
    read = [read_snapshot(folder / name).metadata.timestamp for name in _names(folder)]
    assert read == sorted(moments)
    shutil.rmtree(folder)


def test_the_same_snapshot_twice_is_two_files(tmp_path: Path) -> None:
    """An existing name is never overwritten: the next file of the same time and run gets a number."""
    writer = SnapshotWriter(tmp_path)
    paths = [writer.write(_snapshot(number=float(number))) for number in range(12)]
    assert len(set(paths)) == 12
    assert [path.name.removeprefix("20260101T100000.250000Z-550e8400") for path in paths[:3]] == [
        ".json",
        "-2.json",
        "-3.json",
    ]
    assert [read_snapshot(path).metrics.custom["number"] for path in paths] == list(range(12))


@pytest.mark.parametrize("kind", ["file", "folder", "dangling link"])
def test_an_existing_file_is_never_changed(tmp_path: Path, kind: str) -> None:
    """A file, folder or link of another program with the name stays as it is."""
    taken = tmp_path / "20260101T100000.250000Z-550e8400.json"
    if kind == "file":
        taken.write_text("mine")
    elif kind == "folder":
        taken.mkdir()
    else:
        taken.symlink_to(tmp_path / "nowhere")
    path = SnapshotWriter(tmp_path).write(_snapshot())
    assert path.name == "20260101T100000.250000Z-550e8400-2.json"
    assert _names(tmp_path) == sorted([taken.name, path.name])
    assert kind != "file" or taken.read_text() == "mine"


HOSTILE = [
    "",
    "../../x",
    "/etc/passwd",
    "..",
    ".",
    "a/b\\c:d*e?",
    "\0",
    "\n",
    "größe",
    "🙂" * 300,
    "x" * 10_000,
]


@pytest.mark.parametrize("run_id", HOSTILE, ids=lambda run_id: ascii(run_id[:12]))
def test_a_run_id_cannot_lead_out_of_the_folder(tmp_path: Path, run_id: str) -> None:
    """The file is in the folder for any id, and the id in the snapshot is unchanged."""
    folder = tmp_path / "inner" / "snapshots"
    path = SnapshotWriter(folder).write(_snapshot(run_id))
    assert path.parent == folder
    assert re.fullmatch(r"20260101T100000\.250000Z-[0-9A-Za-z]{1,8}\.json", path.name)
    assert [found for found in tmp_path.rglob("*") if found.is_file()] == [path]
    assert read_snapshot(path).metadata.run_id == run_id


@settings(max_examples=30)
@given(st.text(), st.text())
def test_any_text_in_a_snapshot_is_written(
    tmp_path_factory: pytest.TempPathFactory, run_id: str, branch: str
) -> None:
    """This includes lone surrogates."""
    folder = tmp_path_factory.mktemp("any")
    metadata = SnapshotMetadata(run_id, branch=branch, tags={branch: run_id}, timestamp=MOMENT)
    snapshot = PerformanceSnapshot(Metrics(throughput=1), metadata=metadata)
    assert read_snapshot(SnapshotWriter(folder).write(snapshot)) == snapshot
    shutil.rmtree(folder)


# -- sidecars ----------------------------------------------------------------------------------------------

VALUES = {"latency": Distribution.of([1.0, 2.0, 3.5]), "custom.payload": Distribution.of(range(1, 1_001))}


def test_distributions_are_beside_their_snapshot(tmp_path: Path) -> None:
    """The sidecar has the same name, and a tag of the snapshot has the hash of its content."""
    path = SnapshotWriter(tmp_path).write(_snapshot(hits=3), VALUES)
    assert _names(tmp_path) == [path.with_suffix(".dist").name, path.name]
    read = read_snapshot(path)
    assert read.metrics == _snapshot(hits=3).metrics
    assert list(read.metadata.tags) == [DISTRIBUTIONS_TAG]
    found = read_distributions(path)
    assert {key: one.state for key, one in found.items()} == {key: one.state for key, one in VALUES.items()}
    assert stat.S_IMODE(path.with_suffix(".dist").stat().st_mode) == stat.S_IMODE(path.stat().st_mode)


def test_a_snapshot_without_distributions_has_no_sidecar(tmp_path: Path) -> None:
    """It has no tag of a sidecar either."""
    path = SnapshotWriter(tmp_path).write(_snapshot(), {})
    assert _names(tmp_path) == [path.name]
    assert read_snapshot(path) == _snapshot()


@pytest.mark.parametrize("tags", [49, 50])
def test_the_sidecars_tag_keeps_the_schemas_limit(tmp_path: Path, tags: int) -> None:
    """v1 has at most 50 tags: if all are used, no sidecar is written."""
    metadata = SnapshotMetadata(
        "run", timestamp=MOMENT, tags={f"tag {number}": "x" for number in range(tags)}
    )
    path = SnapshotWriter(tmp_path).write(
        PerformanceSnapshot(Metrics(throughput=1), metadata=metadata), VALUES
    )
    assert len(read_snapshot(path).metadata.tags) == 50
    assert path.with_suffix(".dist").exists() == (tags == 49)


def test_a_snapshot_that_was_read_is_written_with_other_distributions(tmp_path: Path) -> None:
    """The tag of its old sidecar is replaced, even if all 50 tags are used."""
    metadata = SnapshotMetadata("run", timestamp=MOMENT, tags={f"tag {number}": "x" for number in range(49)})
    writer = SnapshotWriter(tmp_path)
    first = writer.write(PerformanceSnapshot(Metrics(throughput=1), metadata=metadata), VALUES)
    second = writer.write(read_snapshot(first), {"latency": Distribution.of([9.0])})
    assert read_distributions(first)["latency"].count == 3
    assert read_distributions(second)["latency"].count == 1


def test_pairs_of_the_same_run_and_moment_stay_pairs(tmp_path: Path) -> None:
    """If either name exists, both files get the same number."""
    writer = SnapshotWriter(tmp_path)
    stem = "20260101T100000.250000Z-550e8400"
    (tmp_path / f"{stem}.dist").write_text("a stranger's")
    (tmp_path / f"{stem}-2.json").write_text("a stranger's")
    paths = [writer.write(_snapshot(), {"latency": Distribution.of([float(number)])}) for number in range(3)]
    assert [path.name.removeprefix(stem) for path in paths] == ["-3.json", "-4.json", "-5.json"]
    assert [read_distributions(path)["latency"].min for path in paths] == [0, 1, 2]
    assert len(_names(tmp_path)) == 8


def test_a_pair_on_a_disk_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are renamed instead, and both are complete, under one name."""
    monkeypatch.setattr(os, "link", _refuse_links)
    writer = SnapshotWriter(tmp_path)
    paths = [writer.write(_snapshot(), VALUES) for _ in range(2)]
    assert [read_distributions(path)["latency"].count for path in paths] == [3, 3]
    assert len(_names(tmp_path)) == 4


def test_writers_into_one_folder_are_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So a system with two of them writes each snapshot once."""
    monkeypatch.chdir(tmp_path)
    assert SnapshotWriter("runs") == SnapshotWriter(tmp_path / "runs", max_bytes=5)
    assert len({SnapshotWriter("runs"), SnapshotWriter(tmp_path / "runs")}) == 1
    assert SnapshotWriter("runs") != SnapshotWriter("other")
    assert SnapshotWriter("runs") != "runs"


# -- the folder --------------------------------------------------------------------------------------------


def test_the_folder_is_made_when_it_is_needed(tmp_path: Path) -> None:
    """The first write creates the folder and its parents; an unused writer creates nothing."""
    folder = tmp_path / "a" / "b"
    writer = SnapshotWriter(folder)
    assert not (tmp_path / "a").exists()
    assert writer.write(_snapshot()).parent == folder
    shutil.rmtree(folder)
    assert writer.write(_snapshot()).parent == folder


def test_a_folder_may_be_named_by_a_string(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative name is relative to the current folder, and there is a default."""
    monkeypatch.chdir(tmp_path)
    assert SnapshotWriter("mine").write(_snapshot()).parent == Path("mine")
    assert SnapshotWriter().write(_snapshot()).parent == Path(DEFAULT_FOLDER)
    assert _names(tmp_path) == ["mine", "snapshots"]


@pytest.mark.parametrize("name", ["taken", "taken/below"])
def test_a_file_in_the_place_of_the_folder_is_an_output_error(tmp_path: Path, name: str) -> None:
    """If the folder cannot be created, the error is an `OutputError`, an `OSError`, that names it."""
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(OutputError, match=r"^cannot write a snapshot into ") as caught:
        SnapshotWriter(tmp_path / name).write(_snapshot())
    assert repr(str(tmp_path / name)) in str(caught.value)
    assert isinstance(caught.value, OSError)
    assert (tmp_path / "taken").read_text() == "mine"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root can write everywhere")
def test_a_folder_without_permission_is_an_output_error(tmp_path: Path) -> None:
    """The error gives the reason."""
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="Permission denied"):
            SnapshotWriter(tmp_path).write(_snapshot())
    finally:
        tmp_path.chmod(0o700)


@posix
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002, 0o000])
def test_the_umask_decides_who_may_read_a_file(tmp_path: Path, umask: int) -> None:
    """A snapshot has the permissions of any other file of the process."""
    before = os.umask(umask)
    try:
        path = SnapshotWriter(tmp_path).write(_snapshot())
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


@posix
def test_writing_leaves_no_file_open(tmp_path: Path) -> None:
    """After a write that succeeds or fails, no more files are open than before."""

    def _next_descriptor() -> int:
        descriptor = os.dup(0)
        os.close(descriptor)
        return descriptor

    (tmp_path / ".writing-old.tmp").touch()
    (tmp_path / ".writing-folder.tmp").mkdir()
    before = _next_descriptor()
    for _ in range(3):
        SnapshotWriter(tmp_path).write(_snapshot())
    with pytest.raises(OutputError):
        SnapshotWriter(tmp_path / _names(tmp_path)[-1]).write(_snapshot())
    assert _next_descriptor() == before


@posix
def test_a_file_has_one_link(tmp_path: Path) -> None:
    """No other name refers to a finished file, so it cannot be changed by that name."""
    assert SnapshotWriter(tmp_path).write(_snapshot()).stat().st_nlink == 1


def test_a_disk_without_hard_links_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """File systems such as FAT have none: files are renamed, and none is overwritten."""
    monkeypatch.setattr(os, "link", _refuse_links)
    writer = SnapshotWriter(tmp_path)
    paths = [writer.write(_snapshot(number=float(number))) for number in range(3)]
    assert [read_snapshot(path).metrics.custom["number"] for path in paths] == [0, 1, 2]
    assert _names(tmp_path) == sorted(path.name for path in paths)


FULL_DISK = """
import resource, sys
from metrics_adapters.snapshot_writer import SnapshotWriter
from metrics_framework.errors import OutputError
from metrics_framework.snapshots import Metrics, PerformanceSnapshot
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
snapshot = PerformanceSnapshot(Metrics(custom={str(number): 1 for number in range(int(sys.argv[2]))}))
try:
    SnapshotWriter(sys.argv[1]).write(snapshot)
except OutputError as error:
    print(error)
"""


@pytest.mark.slow
@posix
@pytest.mark.parametrize("keys", [100, 20_000])
def test_a_full_disk_leaves_no_file_at_all(tmp_path: Path, keys: int) -> None:
    """If the content does not fit, there is an error and no file, early or late."""
    with _python(FULL_DISK, tmp_path, keys) as process:
        output, _ = process.communicate()
    assert process.returncode == 0
    assert output == f"cannot write a snapshot into {str(tmp_path)!r}: File too large\n"
    assert _names(tmp_path) == []


# -- leftovers ---------------------------------------------------------------------------------------------


def test_leftovers_of_killed_writers_are_removed(tmp_path: Path) -> None:
    """The next write removes temporary files of killed writers, and no other file."""
    for name in (".writing-0123456789abcdef.tmp", ".writing-x.tmp", "notes.tmp", ".hidden", "writing-y.tmp"):
        (tmp_path / name).write_text("half")
    path = SnapshotWriter(tmp_path).write(_snapshot())
    assert _names(tmp_path) == sorted([path.name, "notes.tmp", ".hidden", "writing-y.tmp"])


# -- concurrency -------------------------------------------------------------------------------------------

CROWD = """
import sys, threading
from datetime import UTC, datetime
from metrics_adapters.snapshot_writer import SnapshotWriter
from metrics_framework.snapshots import Metrics, PerformanceSnapshot, SnapshotMetadata
folder, process, threads, writes = sys.argv[1], *map(int, sys.argv[2:])
metadata = SnapshotMetadata("same", timestamp=datetime(2026, 1, 1, tzinfo=UTC))
failed = []
def work(thread):
    try:
        for write in range(writes):
            custom = {"process": process, "thread": thread, "write": write}
            SnapshotWriter(folder).write(PerformanceSnapshot(Metrics(custom=custom), metadata=metadata))
    except BaseException as error:
        failed.append(error)
crowd = [threading.Thread(target=work, args=(thread,)) for thread in range(threads)]
print("ready", flush=True)
sys.stdin.readline()
for one in crowd: one.start()
for one in crowd: one.join()
sys.exit(repr(failed) if failed else 0)
"""


@pytest.mark.slow
def test_many_processes_and_threads_share_a_folder(tmp_path: Path) -> None:
    """Concurrent writes, even of the same run and time, give complete files, each once."""
    processes, threads, writes = 3, 3, 5
    with (
        _python(CROWD, tmp_path, 0, threads, writes) as first,
        _python(CROWD, tmp_path, 1, threads, writes) as second,
        _python(CROWD, tmp_path, 2, threads, writes) as third,
    ):
        crowd = [first, second, third]
        for process in crowd:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in crowd:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        assert [process.wait() for process in crowd] == [0, 0, 0]
    written = [read_snapshot(path).metrics.custom for path in tmp_path.iterdir()]
    found = sorted((one["process"], one["thread"], one["write"]) for one in written)
    assert found == [
        (process, thread, write)
        for process in range(processes)
        for thread in range(threads)
        for write in range(writes)
    ]


def test_threads_share_a_writer(tmp_path: Path) -> None:
    """Many threads may use one writer. Each write returns its own path."""
    writer = SnapshotWriter(tmp_path)
    paths: list[Path] = []
    threads = [
        threading.Thread(target=lambda: paths.extend(writer.write(_snapshot()) for _ in range(5)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(paths)) == 20
    assert sorted(paths) == sorted(tmp_path.iterdir())
    assert all(read_snapshot(path) == _snapshot() for path in paths)


# -- kills -------------------------------------------------------------------------------------------------

SLAUGHTER = """
import json, os, random, signal, sys, time
from pathlib import Path
from metrics_adapters.snapshot_writer import SnapshotWriter
from metrics_framework.snapshots import Metrics, PerformanceSnapshot
folder, kills = Path(sys.argv[1]), int(sys.argv[2])
chance = random.Random(20260101)
snapshot = PerformanceSnapshot(Metrics(custom={f"key_{number}": number / 7 for number in range(3_000)}))
writer = SnapshotWriter(folder)
start = time.perf_counter()
for _ in range(5):
    writer.write(snapshot)
duration = (time.perf_counter() - start) / 5
interrupted = 0
for _ in range(kills):
    reader, ready = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(ready, b"!")
        while True:
            writer.write(snapshot)
    os.read(reader, 1)
    time.sleep(chance.uniform(0, 2 * duration))
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0) == (child, signal.SIGKILL)
    os.close(reader), os.close(ready)
    interrupted += any(folder.glob("*.tmp"))
print(json.dumps({"duration": duration, "interrupted": interrupted}))
"""


@posix
@pytest.mark.heavy
def test_a_file_with_a_final_name_is_complete_whenever_its_writer_is_killed(tmp_path: Path) -> None:
    """After any kill within a write, each file is complete, and the next write removes leftovers."""
    with _python(SLAUGHTER, tmp_path, 200) as process:
        output, _ = process.communicate()
    assert process.returncode == 0
    outcome = json.loads(output)
    # Only a kill within a write, after the file is opened, leaves a temporary file.
    assert outcome["interrupted"] >= 20, outcome
    finished = list(tmp_path.glob("*.json"))
    assert len(finished) > 5
    for path in finished:
        assert len(read_snapshot(path).metrics.custom) == 3_000
    SnapshotWriter(tmp_path).write(_snapshot())
    assert _temporary(tmp_path) == []
    assert len(_names(tmp_path)) == len(finished) + 1


# -- the order of writes to the disk -----------------------------------------------------------------------

ONCE = """
import sys
from metrics_adapters.snapshot_writer import SnapshotWriter
from metrics_framework.errors import OutputError
from metrics_framework.snapshots import Metrics, PerformanceSnapshot
try:
    SnapshotWriter(sys.argv[1]).write(PerformanceSnapshot(Metrics(throughput=1)))
except OutputError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def strace() -> list[str]:
    """Return the command that logs the system calls of a program, and can make them fail."""
    program = shutil.which("strace")
    if program is None:
        pytest.skip("strace is not installed")
    trial = subprocess.run([program, "-o", os.devnull, "true"], capture_output=True, text=True, check=False)
    if trial.returncode != 0:
        pytest.skip(f"strace is not permitted: {trial.stderr.strip()}")
    return [program, "--follow-forks", "--decode-fds=path", "--quiet=all"]


def _write_once(
    strace: list[str], log: Path, folder: Path, *options: str
) -> subprocess.CompletedProcess[str]:
    # A question mark: some machines have only the older or only the newer name of a call.
    command = [*strace, f"--output={log}", *options, sys.executable, "-c", ONCE, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=_environ())


@pytest.mark.heavy
def test_content_is_on_the_disk_before_the_name_and_the_name_before_the_return(
    tmp_path: Path, strace: list[str]
) -> None:
    """Content, flush of the file, final name, flush of the folder: safe against power failures."""
    folder, log = tmp_path / "snapshots", tmp_path / "log"
    calls = "--trace=write,fsync,fdatasync,?link,?linkat,?rename,?renameat,?renameat2"
    done = _write_once(strace, log, folder, calls)
    assert (done.returncode, done.stdout) == (0, "")
    (path,) = folder.iterdir()
    temporary = rf"{re.escape(str(folder))}/\.writing-\w+\.tmp"
    patterns = [
        rf"write\(\d+<{temporary}>, .* = {path.stat().st_size}$",
        rf"fsync\(\d+<{temporary}>\) = 0$",
        rf'link(at)?\(.*"{temporary}", .*"{re.escape(str(path))}".*\) = 0$',
        rf"fsync\(\d+<{re.escape(str(folder))}>\) = 0$",
    ]
    lines = [re.sub(r" +=", " =", line) for line in log.read_text().splitlines() if str(folder) in line]
    assert len(lines) == len(patterns), lines
    for line, pattern in zip(lines, patterns, strict=True):
        assert re.search(pattern, line), line


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("call", "error", "reason"),
    [
        ("fsync:when=1", "EIO", "Input/output error"),
        ("fsync:when=2", "EIO", "Input/output error"),
        ("?link,?linkat:when=1", "ENOSPC", "No space left on device"),
        ("?link,?linkat:when=1", "EACCES", "Permission denied"),
    ],
)
def test_a_failing_disk_leaves_no_file_with_a_final_name(
    tmp_path: Path, strace: list[str], call: str, error: str, reason: str
) -> None:
    """An error at any step leaves no snapshot, and the caller may try again."""
    folder = tmp_path / "snapshots"
    name, _, when = call.partition(":")
    inject = f"--inject={name}:error={error}:{when}"
    done = _write_once(strace, tmp_path / "log", folder, f"--trace={name}", inject)
    assert done.stdout == f"cannot write a snapshot into {str(folder)!r}: {reason}\n"
    assert list(folder.iterdir()) == []


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("fsync:when=2", "EINVAL"),
        ("flock:when=1", "ENOLCK"),
        ("?link,?linkat:when=1", "EPERM"),
        ("?link,?linkat:when=1", "EOPNOTSUPP"),
    ],
)
def test_a_file_system_may_lack_flush_locks_and_links(
    tmp_path: Path, strace: list[str], call: str, error: str
) -> None:
    """Snapshots are written even if it cannot flush a folder, lock a file or link it."""
    folder = tmp_path / "snapshots"
    name, _, when = call.partition(":")
    inject = f"--inject={name}:error={error}:{when}"
    done = _write_once(strace, tmp_path / "log", folder, f"--trace={name}", inject)
    assert done.stdout == ""
    (path,) = folder.iterdir()
    assert read_snapshot(path).metrics.throughput == 1


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("call", "finished"),
    [
        ("flock:when=1", 0),
        ("fsync:when=1", 0),
        ("?link,?linkat:when=1", None),
        ("?unlink,?unlinkat:when=1", 1),
        ("fsync:when=2", 1),
    ],
)
def test_a_kill_at_any_step_leaves_no_incomplete_file(
    tmp_path: Path, strace: list[str], call: str, finished: int | None
) -> None:
    """A file with a final name is complete, and the next write removes leftovers."""
    folder = tmp_path / "snapshots"
    name, _, when = call.partition(":")
    done = _write_once(
        strace, tmp_path / "log", folder, f"--trace={name}", f"--inject={name}:signal=KILL:{when}"
    )
    assert done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL)
    found = list(folder.glob("*.json"))
    assert len(found) in ((0, 1) if finished is None else (finished,))
    assert all(read_snapshot(path).metrics.throughput == 1 for path in found)
    SnapshotWriter(folder).write(_snapshot())
    assert _temporary(folder) == []
    assert len(_names(folder)) == len(found) + 1
