"""The entry point of the command line, with and without its extra."""

from __future__ import annotations

import signal
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from metrics_framework import __version__
from metrics_framework.cli import main
from metrics_framework.recording.engine import ENGINE

# Hides a package the way its absence does: importing it fails with the same error.
WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {package!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
sys.argv = ["metrics-framework", "--version"]
"""
START = "from metrics_framework.cli import main; main()"


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run this interpreter in a process, and return its output."""
    import os

    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.mark.slow
@pytest.mark.smoke
def test_the_package_runs_as_a_module() -> None:
    """``python -m metrics_framework`` runs the command line, under its own name."""
    done = python("-m", "metrics_framework", "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"metrics-framework, version {__version__}, {ENGINE} engine\n"


@pytest.mark.smoke
def test_the_installed_command_is_the_entry_point() -> None:
    """The command that pip installs as ``metrics-framework`` is `main`."""
    (script,) = entry_points(group="console_scripts", name="metrics-framework")
    assert script.load() is main


@pytest.mark.slow
@pytest.mark.parametrize("package", ["click", "rich"])
@pytest.mark.parametrize("hide", [WITHOUT + START, "import sys; sys.modules[{package!r}] = None; " + START])
def test_without_its_extra_the_command_names_it(package: str, hide: str) -> None:
    """Without click or rich, one line names the package to install, without a traceback."""
    done = python("-c", hide.format(package=package))
    assert done.returncode != 0
    assert done.stdout == ""
    assert (
        done.stderr == "the command line needs an optional dependency: pip install 'metrics-framework[cli]'\n"
    )


@pytest.mark.slow
def test_another_missing_module_is_not_blamed_on_the_extra() -> None:
    """A broken installation shows its own error, not advice that would not help."""
    done = python("-c", "import sys; sys.modules['metrics_framework.cli.measure'] = None; " + START)
    assert done.returncode != 0
    assert "metrics_framework.cli.measure" in done.stderr.splitlines()[-1]
    assert "pip install" not in done.stderr


@pytest.mark.slow
def test_importing_the_entry_point_needs_no_extra() -> None:
    """The module imports neither click nor rich."""
    done = python(
        "-c", "import sys, metrics_framework.cli; sys.exit('click' in sys.modules or 'rich' in sys.modules)"
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [["show"], ["validate"], ["history"], ["diff", "."], ["batch", "stats"]]
)
def test_an_odd_name_is_one_line(arguments: list[str], tmp_path: Path) -> None:
    """A name that no file system has is an error without a traceback."""
    done = python("-m", "metrics_framework", *arguments, "a" * 300)
    assert done.returncode in (1, 2)
    assert "aaa" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["history", "."]])
def test_a_full_disk_is_one_line(arguments: list[str], tmp_path: Path) -> None:
    """Output that cannot be written is an error without a traceback, and the exit code is 1."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "metrics_framework", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
            cwd=tmp_path,
        )
    if arguments != ["history", "."]:
        assert (done.returncode, done.stderr) == (
            1,
            "Error: cannot write the output: No space left on device\n",
        )
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_an_ascii_terminal_loses_no_result(tmp_path: Path) -> None:
    """An ASCII stream shows question marks for other letters, and the path is printed."""
    done = python(
        *("-m", "metrics_framework", "run", "-n", "2", "--name", "größe", "--output", str(tmp_path)),
        *("--", "sh", "-c", "echo ärger >&2; exit 3"),
        PYTHONIOENCODING="ascii",
    )
    assert done.returncode == 1
    assert "gr??e, 2 runs" in done.stdout
    assert "?rger" in done.stderr
    assert Path(done.stdout.splitlines()[-1]).parent == tmp_path
    assert done.stdout.isascii()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_during_the_imports_is_silent(number: int) -> None:
    """They take most of a second, and a command that is cancelled then ends as it would later."""
    code = (
        "import os, sys\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == 'metrics_framework.cli.measure': os.kill(os.getpid(), {int(number)})\n"
        "sys.meta_path.insert(0, Interrupting())\n"
    )
    done = python("-c", code + START)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
