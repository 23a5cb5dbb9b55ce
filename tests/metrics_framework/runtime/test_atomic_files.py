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
