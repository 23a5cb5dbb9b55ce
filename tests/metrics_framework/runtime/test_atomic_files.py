"""A file gets its final name only when it is complete, and killed writers leave nothing for long."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from metrics_framework.errors import OutputError
from metrics_framework.runtime.atomic_files import (
    AtomicFile,
    read_file,
    remove_abandoned,
    remove_leftovers,
    replace_file,
)

posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX files and locks")


def names(folder: Path) -> list[str]:
    """Return the names in a folder."""
    return sorted(path.name for path in folder.iterdir())


def test_a_published_file_never_overwrites_another(tmp_path):
    """A free name is taken; a used one is refused, and its file is unchanged."""
    for content, is_free in ((b"first", True), (b"second", False)):
        with AtomicFile(tmp_path, content) as file:
            assert file.publish(tmp_path / "it") is is_free
    assert (tmp_path / "it").read_bytes() == b"first"
    assert names(tmp_path) == ["it"]


def test_without_hard_links_a_used_name_is_refused_as_well(tmp_path, monkeypatch):
    """File systems such as FAT have no hard links: the file is renamed if the name is free."""

    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    test_a_published_file_never_overwrites_another(tmp_path)


def test_a_replacing_file_takes_the_place_of_the_old_one(tmp_path):
    """Both ways to replace a file leave the new content and no temporary file."""
    (tmp_path / "it").write_bytes(b"old")
    with AtomicFile(tmp_path, b"new") as file:
        file.replace(tmp_path / "it")
    assert (tmp_path / "it").read_bytes() == b"new"
    replace_file(tmp_path / "it", b"newer")
    assert (tmp_path / "it").read_bytes() == b"newer"
    assert names(tmp_path) == ["it"]


def test_a_file_without_a_final_name_is_removed(tmp_path):
    """A block that publishes nothing, or fails, leaves nothing behind."""
    with pytest.raises(ZeroDivisionError), AtomicFile(tmp_path, b"content"):
        raise ZeroDivisionError
    assert names(tmp_path) == []


@posix
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002, 0o000])
def test_the_umask_decides_on_permissions(tmp_path, umask):
    """A published file is like any other of the process; a replaced one is writable by its owner alone."""
    before = os.umask(umask)
    try:
        with AtomicFile(tmp_path, b"") as file:
            file.publish(tmp_path / "published")
        replace_file(tmp_path / "replaced", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "published").stat().st_mode) == 0o666 & ~umask
    assert stat.S_IMODE((tmp_path / "replaced").stat().st_mode) == 0o644 & ~umask


def test_a_disk_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    """The error names the file and the reason, and there is no temporary file."""
    replace_file(tmp_path / "it", b"old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"^cannot write '.*it': No space left on device$"):
        replace_file(tmp_path / "it", b"new")
    assert (tmp_path / "it").read_bytes() == b"old"
    assert names(tmp_path) == ["it"]


# -- leftovers ---------------------------------------------------------------------------------------------


def test_leftovers_of_killed_writers_are_removed(tmp_path):
    """Other files are kept, and so are a folder and a link with the name of a leftover."""
    kept = ["notes.tmp", ".hidden", "writing-y.tmp"]
    for name in (".writing-0123456789abcdef.tmp", ".writing-x.tmp", *kept):
        (tmp_path / name).write_text("half")
    (tmp_path / ".writing-folder.tmp").mkdir()
    (tmp_path / ".writing-link.tmp").symlink_to(tmp_path / "nowhere")
    remove_leftovers(tmp_path)
    assert names(tmp_path) == sorted([*kept, ".writing-folder.tmp", ".writing-link.tmp"])


def test_the_name_of_a_folder_is_not_a_pattern(tmp_path):
    """A folder whose name looks like a pattern is that folder and no other."""
    for name in ("[ab]", "a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / ".writing-old.tmp").touch()
    remove_leftovers(tmp_path / "[ab]")
    assert names(tmp_path / "[ab]") == []
    assert names(tmp_path / "a") == [".writing-old.tmp"]


def test_a_file_that_is_being_written_is_kept(tmp_path):
    """Another writer in the same process does not remove it."""
    with AtomicFile(tmp_path, b"") as file:
        remove_leftovers(tmp_path)
        assert file.publish(tmp_path / "it")
        remove_abandoned(tmp_path / "it")
        assert (tmp_path / "it").exists()


HOLDER = """
import fcntl, sys
with open(sys.argv[1], "wb") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    print("locked", flush=True)
    sys.stdin.readline()
"""


@posix
def test_a_file_of_a_living_process_is_kept(tmp_path):
    """A file that another process has locked is removed only when that process has ended."""
    leftover = tmp_path / ".writing-locked.tmp"
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", HOLDER, str(leftover)]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout.readline() == "locked\n"
        remove_leftovers(tmp_path)
        assert names(tmp_path) == [leftover.name]
        process.kill()
    remove_leftovers(tmp_path)
    assert names(tmp_path) == []


@posix
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), Path.mkdir])
def test_only_a_regular_file_is_a_leftover(tmp_path, make):
    """A FIFO, a link or a folder with the name of a temporary file is skipped and reported."""
    strange, leftover = tmp_path / ".writing-x.tmp", tmp_path / ".writing-y.tmp"
    make(strange)
    leftover.write_bytes(b"")
    assert remove_leftovers(tmp_path) == [strange]
    assert names(tmp_path) == [strange.name]
    remove_abandoned(strange)
    assert names(tmp_path) == [strange.name]


@posix
def test_a_replaced_file_keeps_its_permissions(tmp_path):
    """A file that a group may write stays so under any umask; a new one can be read by others."""
    before = os.umask(0o027)
    try:
        replace_file(tmp_path / "new", b"1")
        (tmp_path / "shared").write_bytes(b"0")
        (tmp_path / "shared").chmod(0o664)
        replace_file(tmp_path / "shared", b"1")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"new": 0o640, "shared": 0o664}


@posix
def test_a_symbolic_link_stays(tmp_path):
    """The file behind the link is replaced, also through two links and if it does not exist yet."""
    (tmp_path / "there").mkdir()
    (tmp_path / "first").symlink_to("second")
    (tmp_path / "second").symlink_to(tmp_path / "there" / "it")
    for content in (b"1", b"2"):
        replace_file(tmp_path / "first", content)
        assert (tmp_path / "there" / "it").read_bytes() == content
    assert (tmp_path / "first").is_symlink()
    assert (tmp_path / "second").is_symlink()


def test_a_file_is_read_up_to_a_size(tmp_path):
    """A larger file is an error before its content is in memory; its size is not trusted."""
    (tmp_path / "it").write_bytes(b"12345")
    assert read_file(tmp_path / "it", 5) == b"12345"
    with pytest.raises(OSError, match="it has more than 4 bytes"):
        read_file(tmp_path / "it", 4)
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OSError, match="it has more than 1000 bytes"):
        read_file(tmp_path / "sparse", 1000)
    if sys.platform != "win32":
        with pytest.raises(OSError, match="it has more than 1000 bytes"):
            read_file(Path("/dev/zero"), 1000)


@posix
def test_what_is_not_a_file_is_refused(tmp_path):
    """Immediately: opening a FIFO would wait for a writer."""
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero")):
        with pytest.raises(OSError, match="it is not a regular file"):
            read_file(path, 1000, pipe=False)
    for pipe in (True, False):
        with pytest.raises(IsADirectoryError):
            read_file(tmp_path, 1000, pipe=pipe)


@pytest.mark.parametrize("name", ["a\0b", "a" * 300, "\udc80\ud800"])
def test_an_impossible_name_is_one_error(tmp_path, name):
    """A null character, a long name or a lone surrogate, which no file system has."""
    with pytest.raises(OutputError, match="cannot write"):
        replace_file(tmp_path / name, b"")
    assert names(tmp_path) == []
