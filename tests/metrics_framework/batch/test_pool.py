"""`BatchMetrics.map`: pools of threads and processes, and workers that die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from metrics_framework.batch import BatchMetrics
from metrics_framework.errors import InvalidInputError


def work(number: int) -> int:
    """Double a number; some numbers raise an error."""
    if number % 10 == 9:
        raise ValueError(f"{number} is no good")
    if number % 10 == 8:
        raise FileNotFoundError(number)
    return number * 2


def test_threads_record_every_item() -> None:
    """Each item is a file with its own outcome and details, and each result names its item."""
    batch = BatchMetrics(skip_on=(FileNotFoundError,))
    results = list(batch.map(work, range(100), threads=4, details=lambda value: {"samples": value}))
    assert batch.counts == (100, 80, 10, 10)
    assert sorted(result.item for result in results) == list(range(100))
    assert all(result.value == 2 * result.item for result in results if result.status == "success")
    assert {result.error_type for result in results if result.status == "error"} == {"ValueError"}
    files = {file.filename: file for file in batch.files()}
    assert files["7"].samples == 14
    assert files["9"].error_message == "9 is no good"
    assert files["8"].error_message == "FileNotFoundError: 8"


def test_failed_items_are_retried() -> None:
    """With retries, only an item that fails every time counts as failed."""
    tries: dict[int, int] = {}

    def flaky(number: int) -> int:
        tries[number] = tries.get(number, 0) + 1
        if tries[number] <= number:
            raise ValueError
        return number

    batch = BatchMetrics()
    results = {result.item: result.status for result in batch.map(flaky, range(4), threads=1, retries=2)}
    assert results == {0: "success", 1: "success", 2: "success", 3: "error"}
    assert tries == {0: 1, 1: 2, 2: 3, 3: 3}
    assert batch.counts.files == 4


def test_only_a_few_items_are_taken_in_advance() -> None:
    """An infinite generator is consumed only as needed."""
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield 1

    results = BatchMetrics().map(work, endless(), threads=2)
    for _ in range(5):
        next(results)
    results.close()  # type: ignore[attr-defined]
    assert taken <= 5 + 8


@pytest.mark.parametrize("how", [{}, {"threads": 0}, {"processes": 0}, {"threads": 1, "processes": 1}])
def test_a_pool_is_of_one_kind(how: dict[str, int]) -> None:
    """Neither kind, both, or no worker is an error at once."""
    with pytest.raises(InvalidInputError, match=r"pass one of the two|is not a whole number of 1 or more"):
        BatchMetrics().map(work, [], **how)


def test_a_function_that_cannot_be_pickled_is_rejected() -> None:
    """A lambda, for example, raises an error at once instead of failing every file."""
    batch = BatchMetrics()
    with pytest.raises(InvalidInputError, match="cannot be pickled for another process"):
        batch.map(lambda _: None, [1], processes=1)
    assert batch.counts.files == 0


@pytest.mark.heavy
def test_a_value_that_cannot_be_passed_between_processes_fails_its_item_only() -> None:
    """Results and items that cannot be pickled or unpickled are errors that say so; other items succeed."""
    batch = BatchMetrics()
    items = ["lock", "lambda", "unloadable", "exit", "plain", Unloadable(), lambda: 0]
    results = list(batch.map(return_value, items, processes=2, name=repr))
    found = {result.item if isinstance(result.item, str) else "item": result for result in results}
    assert len(results) == batch.counts.files == len(items)
    assert (found["plain"].status, found["plain"].value) == ("success", "plain")
    messages = {file.filename: (file.error_type, file.error_message) for file in batch.files()}
    for name in ("lock", "lambda"):
        assert messages[repr(name)][0] == "PicklingError"
        assert "the result cannot be pickled for another process" in str(messages[repr(name)][1])
    assert messages["'unloadable'"][0] == "UnpicklingError"
    assert "the result cannot be unpickled for another process" in str(messages["'unloadable'"][1])
    assert messages["'exit'"] == ("SystemExit", "3")
    others = [found for name, found in messages.items() if name[0] != "'"]
    assert {error_type for error_type, _ in others} == {"UnpicklingError", "PicklingError"}
    assert all(str(message).startswith("the item cannot be") for _, message in others)


def refuse_to_load() -> None:
    """Raise the error of a class that cannot be unpickled."""
    raise TypeError("missing 1 required argument")


class Unloadable:
    """An object that can be pickled but not unpickled, like many error classes."""

    def __reduce__(self) -> Any:
        """Return a function that raises."""
        return refuse_to_load, ()


def return_value(name: object) -> object:
    """Return the value that a name stands for."""
    if name == "exit":
        sys.exit(3)
    values = {"lock": threading.Lock(), "lambda": lambda: 0, "unloadable": Unloadable()}
    return values.get(str(name), name)


UNGUARDED = """
from metrics_framework.batch import BatchMetrics
def work(number):
    return 2 * number
batch = BatchMetrics("b", {journal})
with batch:
    for result in batch.map(work, range(100), processes=2):
        print("done", result.item)
"""


@pytest.mark.heavy
@pytest.mark.parametrize("journal", ["", "journal='journal'"])
@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("file", 'needs `if __name__ == "__main__":` before it'),
        ("module", 'needs `if __name__ == "__main__":` before it'),
        ("stdin", "'<stdin>' is not a file: save it as one"),
        ("notebook", "worker processes cannot load <function work"),
    ],
)
def test_a_program_that_workers_cannot_import_is_one_error(
    tmp_path: Path, how: str, reason: str, journal: str
) -> None:
    """The error states the cause and the remedy, nothing else is printed, and no file counts as done."""
    script = UNGUARDED.format(journal=journal)
    (tmp_path / "script.py").write_text(script)
    arguments = {
        "file": ["script.py"],
        "module": ["-m", "script"],
        "stdin": ["-"],
        "notebook": ["-c", "exec(input().replace('|', chr(10)))"],  # __main__ has no file, as in a notebook
    }
    done = subprocess.run(
        [sys.executable, *arguments[how]],
        cwd=tmp_path,
        input=script.replace("\n", "|") if how == "notebook" else script,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("Traceback") == 1, done.stderr
    error = done.stderr.splitlines()[-1]
    assert error.startswith("metrics_framework.errors.InvalidInputError: ")
    assert reason in error
    assert "or use threads=" in error
    if journal:
        batch = BatchMetrics("b", journal=tmp_path / "journal")
        assert len(list(batch.remaining(range(100)))) == 100


SCRIPT = '''
import os, signal, sys, time
from metrics_framework.batch import BatchMetrics

def work(path):
    """Read a file. Some raise an error, one kills its process the first time, one always."""
    with open(path) as file:
        text = file.read()
    number = int(text)
    if number % 100 == 13:
        raise ValueError(f"bad file {number}")
    if number == 7_000 and not os.path.exists("killed"):
        open("killed", "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 9_000:
        os._exit(3)
    return number

def main():
    paths = [f"in/{number % 50}/{number}" for number in range(int(sys.argv[1]))]
    batch = BatchMetrics("b", journal="journal", in_memory=1_000)
    todo = batch.remaining(paths)
    with batch:
        for result in batch.map(work, todo, processes=4, details=lambda number: {"samples": number}):
            pass
    batch.export_json("out.json")

if __name__ == "__main__":
    main()
'''


def make_files(folder: Path, number: int) -> None:
    """Write small files."""
    for part in range(50):
        (folder / "in" / str(part)).mkdir(parents=True)
    for name in range(number):
        (folder / "in" / str(name % 50) / str(name)).write_text(str(name))


def count_lines(path: Path) -> int:
    """Return the number of lines of a file."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.heavy
def test_a_pool_survives_its_workers_and_a_batch_its_process(tmp_path: Path) -> None:
    """Each of 20,000 files is counted once, although workers and the batch are killed and it is resumed.

    1 % fail. A file that kills its worker is retried, and has failed if it does so a second time.
    """
    files = 20_000
    make_files(tmp_path, files)
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "script.py", str(files)]
    first = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while count_lines(tmp_path / "journal") < 3_000:
        assert first.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    first.wait()
    done_before = count_lines(tmp_path / "journal")
    second = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)
    assert second.returncode == 0, second.stderr
    document = json.loads((tmp_path / "out.json").read_text())
    summary = document["summary"]
    assert (tmp_path / "killed").exists()
    assert summary["total_files"] == files
    assert summary["errors"]["by_type"] == {"ValueError": files // 100, "WorkerDied": 1}
    assert summary["processed_count"] == files - files // 100 - 1
    names = [file["filename"] for file in document["files"]]
    assert len(set(names)) == len(names) == files
    assert 3_000 <= done_before < files
    bad = {file["samples"] for file in document["files"] if file["status"] == "error"}
    good = sum(number for number in range(files) if number % 100 != 13) - 9_000
    assert bad == {0}
    assert sum(file["samples"] for file in document["files"]) == good


@pytest.mark.heavy
def test_workers_exit_with_the_owner_of_the_pool(tmp_path: Path) -> None:
    """When the process that owns the pool is killed, its workers exit."""
    (tmp_path / "script.py").write_text(
        "import os, time\n"
        "from metrics_framework.batch import BatchMetrics\n"
        "def work(number):\n"
        "    with open(f'pid-{os.getpid()}', 'w'): pass\n"
        "    time.sleep(0.1)\n"
        "if __name__ == '__main__':\n"
        "    for _ in BatchMetrics().map(work, range(10_000), processes=2): pass\n"
    )
    owner = subprocess.Popen([sys.executable, "script.py"], cwd=tmp_path, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while len(workers := [int(path.name[4:]) for path in tmp_path.glob("pid-*")]) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    owner.kill()
    owner.wait()
    while any(map(is_alive, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    """Return whether a process is running."""
    try:
        os.kill(pid, 0)
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
