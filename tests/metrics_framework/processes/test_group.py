"""The group of worker processes: who is in it, who is alive, who is elected, and what is removed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from metrics_framework.errors import InvalidInputError
from metrics_framework.processes import group as groups
from metrics_framework.processes.group import (
    KEY_VARIABLE,
    STALE_SECONDS,
    Group,
    Process,
    default_root,
    find_key,
    remove_old_groups,
)
from tests.metrics_framework.runtime.children import forks, in_a_child

pytestmark = forks

KEY = """
import os
from metrics_framework.processes.group import find_key
"""


def run(code: str, **environ: str) -> str:
    """Return what a new Python program prints. It inherits the environment without the key of a group."""
    variables = {name: text for name, text in os.environ.items() if name != KEY_VARIABLE} | environ
    done = subprocess.run(
        [sys.executable, "-c", KEY + code],
        env=variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def child(tmp_path: Path, code: str = "") -> Iterator[subprocess.Popen[str]]:
    """Run a program that joins the group ``shop`` and prints its number; it ends with its standard input."""
    code = f"""
import sys
from pathlib import Path
from metrics_framework.processes.group import Group
group = Group(Path({str(tmp_path)!r}), "shop")
print(group.number, group.is_elected, flush=True)
{code}
sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def answer(process: subprocess.Popen[str]) -> str:
    """Return the next line that a child prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


# -- the key ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_program_of_its_own_is_a_group_of_its_own():
    """Two programs that one shell starts do not share their numbers."""
    code = "print(find_key({}).split('-')[0] == str(os.getpid()))"
    assert run(code) == "True\n"


def test_forked_workers_have_one_key():
    """Forked workers of a process that has no system belong to that process, and so does the process."""
    code = """
keys = []
for _ in range(2):
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.write(writing, find_key({}).encode())
        os._exit(0)
    keys.append(os.read(reading, 100).decode())
print(set(keys) == {find_key({})}, keys[0].split("-")[0] == str(os.getpid()))
"""
    assert run(code) == "True True\n"


POOL = """
import multiprocessing, os, sys
from metrics_framework.processes.group import KEY_VARIABLE, Process, find_key

def key_here(_):
    environ = dict(os.environ)
    environ.pop(KEY_VARIABLE, None)
    return find_key(environ)

if __name__ == "__main__":
    with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
        print(set(pool.map(key_here, range(8))) == {str(Process.of(os.getpid()))})
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_multiprocessing_children_have_the_key_of_the_process_that_started_them(method, tmp_path):
    """With every start method, the children of a pool belong to the process that has the pool."""
    program = tmp_path / "pool.py"
    program.write_text(POOL)
    command = [sys.executable, program, method]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("True\n", "")


@pytest.mark.slow
def test_the_key_is_handed_down_to_grandchildren():
    """A worker's own pool belongs to the group of the worker, not to a group of its own."""
    code = """
environ = {}
if os.fork() == 0:
    key = find_key(environ)
    if os.fork() == 0:
        print(find_key(environ) == key, find_key({}) == key, flush=True)
        os._exit(0)
    os.wait()
    os._exit(0)
os.wait()
"""
    assert run(code) == "True False\n"


DAEMON = """
import subprocess, sys
from pathlib import Path
from metrics_framework.processes.group import Group

key = find_key(os.environ)
group = Group(Path(sys.argv[1]), key)
for _ in range(2):
    if os.fork():
        os._exit(0)
    os.setsid()
code = "import os; from metrics_framework.processes.group import find_key; print(find_key(os.environ))"
print(subprocess.check_output([sys.executable, "-c", code], text=True).strip() == key)
"""


@pytest.mark.slow
def test_programs_that_a_daemon_starts_belong_to_its_group(tmp_path):
    """A process that goes into the background after it has created its system hands its own group down."""
    command = [sys.executable, "-c", KEY + DAEMON, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("True\n", "")  # the daemon has the pipes until it ends


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_that_change_their_user_have_one_key():
    """Workers of gunicorn with user= may not look at the master, and belong to one group."""
    code = """
import ctypes
keys = []
for _ in range(2):
    reading, writing = os.pipe()
    if os.fork() == 0:
        if os.geteuid() == 0:
            os.setuid(65534)
        while True:
            try:
                os.readlink(f"/proc/{os.getppid()}/exe")
            except PermissionError:
                break
        os.write(writing, find_key({}).encode())
        os._exit(0)
    ctypes.CDLL(None).prctl(4, 0)  # PR_SET_DUMPABLE: no process of this user may look at this one
    keys.append(os.read(reading, 100).decode())
    ctypes.CDLL(None).prctl(4, 1)
print(set(keys) == {find_key({})})
"""
    assert run(code) == "True\n"


@pytest.mark.slow
def test_a_key_of_processes_that_are_not_ancestors_is_ignored():
    """A variable that another program or a dead process left behind has no effect."""
    with subprocess.Popen(["sleep", "60"]) as other:
        alive = Process.of(other.pid)
        for setter in (alive, Process(1, 1)):
            assert run(f"print(find_key({{{KEY_VARIABLE!r}: '{setter}:shop'}}) == 'shop')") == "False\n"
        other.kill()


def test_an_application_can_name_its_group():
    """Programs that are started separately share their numbers if they are given the same name."""
    code = "print(find_key(os.environ))"
    assert run(code, **{KEY_VARIABLE: "shop-web.1"}) == "shop-web.1\n"


@pytest.mark.parametrize("name", ["..", "a/b", "1shop", "a" * 101, "shop web", "1-2:..", "1-2:"])
def test_a_name_that_is_not_a_file_name_is_an_error(name):
    """The error quotes the name and states what to use."""
    with pytest.raises(InvalidInputError, match="use a letter"):
        find_key({KEY_VARIABLE: name})


# -- processes -------------------------------------------------------------------------------------------


def test_a_process_is_alive_until_it_ends():
    """A stopped process is alive; a killed one is not, even if nothing has waited for it yet."""
    with subprocess.Popen(["sleep", "60"]) as other:
        process = Process.of(other.pid)
        assert process is not None
        assert process.is_alive
        other.send_signal(signal.SIGSTOP)
        assert process.is_alive
        other.kill()
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # now it is a zombie
        assert not process.is_alive
    assert not process.is_alive


def test_a_process_is_not_dead_because_it_cannot_be_looked_at():
    """A process with too many open files does not delete those of living workers."""

    def look() -> bool:
        import resource

        resource.setrlimit(resource.RLIMIT_NOFILE, (0, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        return alive.is_alive and not dead.is_alive

    with subprocess.Popen(["sleep", "60"]) as other:
        alive = Process.of(other.pid)
        assert alive is not None
        with subprocess.Popen(["true"]) as ended:
            dead = Process(ended.pid, 1)
        assert in_a_child(look) == "True"
        other.kill()


def test_a_process_id_that_is_used_again_is_another_process():
    """The start time tells a process from an earlier one with the same id."""
    me = Process.of(os.getpid())
    assert me is not None
    assert not me._replace(start=me.start - 1).is_alive


@pytest.mark.parametrize("stem", ["12-345-1", "12-345-1.page", "12-345"])
def test_files_name_their_process(stem):
    """The name of a file begins with the process that writes it."""
    assert Process.parse(stem) == (12, 345)


@pytest.mark.parametrize("name", ["lock", "members", "12", "12-", "-12-3", "archive-1-2", "a12-345-1"])
def test_other_files_have_no_process(name):
    """Files of the whole group belong to no process."""
    assert Process.parse(name) is None


# -- members ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_number_is_the_smallest_that_is_free(tmp_path):
    """A new worker gets the number of one that was killed, so that numbers stay small."""
    with child(tmp_path) as first, child(tmp_path) as second:
        numbers = {answer(first).split()[0], answer(second).split()[0]}
        assert numbers == {"0", "1"}
        first.kill()
        first.wait()
        with child(tmp_path) as third, child(tmp_path) as fourth:
            assert len(numbers & {answer(third).split()[0], answer(fourth).split()[0]}) == 1


def test_the_next_worker_is_elected_when_one_dies(tmp_path):
    """Exactly one worker is elected, and after it was killed another one is."""
    with child(tmp_path) as first:
        assert answer(first) == "0 True"
        group = Group(tmp_path, "shop")
        assert not group.is_elected
        first.kill()
        first.wait()
        assert group.is_elected


@pytest.mark.slow
def test_a_forked_child_has_no_lock_of_its_parent(tmp_path):
    """A child that outlives an elected worker does not keep another one from being elected."""
    code = """
import os, time
pid = os.fork()
if pid == 0:
    os.close(0)
    os.close(1)
    time.sleep(60)
    os._exit(0)
print(pid, flush=True)
"""
    with child(tmp_path, code) as first:
        assert answer(first) == "0 True"
        orphan = int(answer(first))
        try:
            first.kill()
            first.wait()
            assert Group(tmp_path, "shop").is_elected
        finally:
            os.kill(orphan, signal.SIGKILL)


def test_a_forked_child_is_a_worker_of_its_own(tmp_path):
    """A child joins the group of its parent with another number, and is not elected for it."""
    group = Group(tmp_path, "shop")
    assert group.is_elected

    def join() -> object:
        group.join()
        return group.number, group.is_elected, group.process.pid == os.getpid()

    assert in_a_child(join) == "(1, False, True)"


def test_only_the_last_worker_that_leaves_is_the_last(tmp_path):
    """While another worker lives that has not left, a leaving worker is not the last one."""
    group = Group(tmp_path, "shop")
    with child(tmp_path) as other:
        answer(other)
        assert not group.leave()
        other.kill()
        other.wait()
    assert group.leave()


def test_workers_that_have_left_do_not_count(tmp_path):
    """A worker that is still alive after it has left does not keep another one from being the last."""
    with child(tmp_path, "print(group.leave(), flush=True)") as other:
        answer(other)
        assert answer(other) == "True"
        assert Group(tmp_path, "shop").leave()


def test_a_worker_without_a_number_counts(tmp_path):
    """A child that owns files and has not joined yet counts for its siblings, and keeps the folder."""
    group = Group(tmp_path, "shop")
    sibling = Group(tmp_path, "shop")
    sibling.folder, sibling._is_forked = group.folder, True
    with subprocess.Popen(["sleep", "60"]) as other:
        (group.folder / f"{Process.of(other.pid)}-1.page").touch()
        assert not sibling.leave()
        assert group.leave()  # the process that created the system does not count children
        group.close()
        assert group.folder.exists()
        other.kill()
    assert sibling.leave()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the children of a process")
def test_a_child_that_has_not_joined_keeps_the_folder(tmp_path):
    """A parent that ends right after a fork leaves its numbers to the child, which owns no file yet."""
    group = Group(tmp_path, "shop")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    try:
        assert group.leave()
        group.close()
        assert group.folder.exists()
    finally:
        os.close(writing)
        os.waitpid(child, 0)
        os.close(reading)
    group.close()
    assert not group.folder.exists()


def test_a_damaged_list_of_members_is_replaced(tmp_path):
    """A list that a full disk has cut does not keep a worker from joining."""
    first = Group(tmp_path, "shop")
    (first.folder / "members").write_bytes(b"[[1, 2, 0, fal")
    second = Group(tmp_path, "other")
    second.number = -1
    (second.folder / "members").write_bytes(b"\xff")
    assert second.join()
    assert second.number == 0


@pytest.mark.slow
def test_a_stopped_worker_that_holds_the_lock_delays_no_exit(tmp_path, monkeypatch):
    """Leaving takes a bounded time if a stopped process holds the lock, and the answer is still right."""
    monkeypatch.setattr(groups, "LOCK_SECONDS", 0.1)
    group = Group(tmp_path, "shop")
    code = "with group.try_lock() as held:\n    print(held, flush=True)\n    sys.stdin.read()"
    with child(tmp_path, code) as other:
        answer(other)
        assert answer(other) == "True"
        other.send_signal(signal.SIGSTOP)
        start = time.monotonic()
        assert not group.leave()
        assert time.monotonic() - start < 10
        with group.try_lock() as held:
            assert not held
        other.send_signal(signal.SIGCONT)


# -- folders ---------------------------------------------------------------------------------------------


def test_several_systems_of_a_process_have_a_folder_each(tmp_path):
    """The second system of a process does not share the numbers of the first; a later one may."""
    first, second = Group(tmp_path, "shop"), Group(tmp_path, "shop")
    assert first.folder != second.folder
    first.leave()
    first.close()
    assert Group(tmp_path, "shop").folder == first.folder
    second.leave()
    second.close()


def test_the_last_worker_removes_the_folder(tmp_path):
    """Nothing is left behind once the process that started the workers has ended, or is the last one."""
    group = Group(tmp_path, str(Process.of(os.getpid())))
    group.leave()
    group.close()
    assert list(tmp_path.iterdir()) == []


def test_the_folder_stays_for_workers_to_come(tmp_path):
    """While the process lives that starts the workers, the totals of workers that have ended are kept."""
    with subprocess.Popen(["sleep", "60"]) as starter:
        group = Group(tmp_path, str(Process.of(starter.pid)))
        group.leave()
        group.close()
        assert group.folder.exists()
        remove_old_groups(tmp_path)
        assert group.folder.exists()
        starter.kill()
    remove_old_groups(tmp_path)
    assert not group.folder.exists()


def test_a_folder_with_living_workers_stays(tmp_path):
    """The death of the process that started the workers does not remove the folder of its workers."""
    with subprocess.Popen(["sleep", "60"]) as starter:
        key = str(Process.of(starter.pid))
        starter.kill()
    with subprocess.Popen(["sleep", "60"]) as worker:
        folder = tmp_path / f"{groups._host()}-{key}"
        folder.mkdir()
        (folder / f"{Process.of(worker.pid)}-1.page").touch()
        remove_old_groups(tmp_path)
        assert folder.exists()
        worker.kill()
    remove_old_groups(tmp_path)
    assert not folder.exists()


@pytest.mark.parametrize("name", ["1-abcdef01-7-1", f"{groups._host()}-shop"])
def test_a_group_that_cannot_be_seen_is_removed_a_day_later(tmp_path, name):
    """The folder of another container, or of a named group, is removed once it gives no sign of life."""
    folder = tmp_path / name
    folder.mkdir()
    (folder / "lock").touch()
    os.utime(folder, (0, 0))
    remove_old_groups(tmp_path)
    assert folder.exists()
    long_ago = time.time() - STALE_SECONDS - 1
    os.utime(folder / "lock", (long_ago, long_ago))
    remove_old_groups(tmp_path)
    assert not folder.exists()


def test_a_worker_gives_signs_of_life(tmp_path):
    """A worker keeps its folder young, at most once a minute."""
    group = Group(tmp_path, "shop")
    os.utime(group.folder / "lock", (0, 0))
    group.give_sign_of_life()
    assert (group.folder / "lock").stat().st_mtime > 1
    os.utime(group.folder / "lock", (0, 0))
    group.give_sign_of_life()
    assert (group.folder / "lock").stat().st_mtime == 0


def test_other_folders_are_not_removed(tmp_path):
    """A folder of the application beside those of groups stays, however old it is."""
    (tmp_path / "2024-uploads").mkdir()
    os.utime(tmp_path / "2024-uploads", (0, 0))
    remove_old_groups(tmp_path)
    assert (tmp_path / "2024-uploads").exists()


@pytest.mark.slow
def test_a_named_group_begins_again_without_workers(tmp_path):
    """A redeploy of a named group starts from zero; a worker that joins living ones does not."""
    with child(tmp_path) as worker:
        answer(worker)
        folder = next(tmp_path.iterdir())
        (folder / "archive").touch()
        with child(tmp_path) as second:
            answer(second)
            assert (folder / "archive").exists()
        worker.kill()
        worker.wait()
    with child(tmp_path) as third:
        answer(third)
        assert not (folder / "archive").exists()


def test_the_default_folder_belongs_to_this_user_alone(tmp_path, monkeypatch):
    """A folder that another user prepared in a shared place is not used."""
    monkeypatch.setattr(groups.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(groups, "MEMORY_FOLDER", tmp_path / "missing")
    root = default_root()
    assert root.parent == tmp_path
    assert root.stat().st_mode & 0o777 == 0o700
    root.chmod(0o777)
    with pytest.raises(PermissionError, match="other users"):
        default_root()
    root.rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    root.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionError, match="other users"):
        default_root()
