"""Wheels, the source distribution and `make build`, with a compiler, without one, and without `Python.h`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("hatchling")
pytestmark = pytest.mark.heavy

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
SOURCES = ["hatch_build.py", "metrics_framework/recording/_core.c"]
VARIABLES = [
    "METRICS_FRAMEWORK_COMPILED",
    "METRICS_FRAMEWORK_DEBUG_CORE",
    "METRICS_FRAMEWORK_PURE",
    "MAKEFLAGS",
]
COMPILER = shutil.which(os.environ.get("CC", "cc"))

needs_compiler = pytest.mark.skipif(COMPILER is None, reason="this machine has no C compiler")


def run(command, **environ):
    """Run a command with those variables of a build that the test gives; return how it ended."""
    inherited = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    return subprocess.run(
        command,
        cwd=ROOT,
        env=inherited | environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def build_wheel(folder, **environ):
    """Build a wheel with the tools of this environment; return its path, its files and what was printed."""
    ended = run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT], **environ
    )
    assert ended.returncode == 0, ended.stdout
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return wheel, archive.namelist(), ended.stdout


def is_pure(wheel, names):
    """Return whether a wheel has neither a compiled file nor the tag of one."""
    has_binary = any(name.endswith((".so", ".pyd", ".c")) for name in names)
    return wheel.name.endswith("-py3-none-any.whl") and not has_binary


@pytest.fixture
def without_headers(tmp_path):
    """Return a compiler that finds no header of Python: the real one, without its search path."""
    compiler = tmp_path / "cc"
    compiler.write_text(
        "#!/bin/sh\n"
        'for argument; do shift; case $argument in -I*) ;; *) set -- "$@" "$argument" ;; esac; done\n'
        f'exec {COMPILER} "$@"\n'
    )
    compiler.chmod(0o755)
    return str(compiler)


@pytest.fixture
def checkout(tmp_path):
    """Return a folder with the files that `make build` needs. Its environment counts as installed."""
    folder = tmp_path / "checkout"
    for name in [*SOURCES, "Makefile", "pyproject.toml", "requirements/dev.txt"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    (folder / ".venv").mkdir()
    (folder / ".venv" / ".installed").touch()
    return folder


def make(checkout, target="build", **environ):
    """Run a target of the Makefile in a checkout, with the programs of this environment."""
    return run(["make", "-C", checkout, "--no-print-directory", f"BIN={BIN}", target], **environ)


CORE = "metrics_framework/recording/_core.abi3.so"


@needs_compiler
def test_a_compiled_wheel_serves_every_python_from_3_11(tmp_path):
    """It has the extension, not its source, and uses the stable ABI of CPython 3.11 and nothing else."""
    wheel, names, printed = build_wheel(tmp_path, METRICS_FRAMEWORK_COMPILED="1")
    assert f"-cp3{sys.version_info.minor}-abi3-" in wheel.name  # its headers suit this version and later ones
    assert [name for name in names if "/_core." in name and not name.endswith(".pyi")] == [CORE]
    assert "without its compiled engine" not in printed
    assert run([BIN / "check-wheel-contents", wheel]).returncode == 0
    audited = run([BIN / "abi3audit", "--strict", wheel])
    assert audited.returncode == 0, audited.stdout


@pytest.mark.parametrize("environ", [{"CC": "/nonexistent/cc"}, {"PATH": "/nonexistent"}])
def test_a_machine_without_a_compiler_gets_a_pure_wheel(tmp_path, environ):
    """One line names the compiler that is missing."""
    if "PATH" in environ and "CC" in os.environ:
        pytest.skip("CC may be an absolute path")
    wheel, names, printed = build_wheel(tmp_path, **environ)
    assert is_pure(wheel, names)
    (warning,) = [line for line in printed.splitlines() if "without its compiled engine" in line]
    assert "No such file or directory" in warning


@needs_compiler
def test_a_machine_without_python_h_gets_a_pure_wheel(tmp_path, without_headers):
    """One line names the header that is missing."""
    wheel, names, printed = build_wheel(tmp_path / "dist", CC=without_headers)
    assert is_pure(wheel, names)
    (warning,) = [line for line in printed.splitlines() if "without its compiled engine" in line]
    assert "Python.h" in warning


def test_a_pure_wheel_can_be_requested(tmp_path):
    """`METRICS_FRAMEWORK_PURE=1` builds it on any machine, without a warning."""
    wheel, names, printed = build_wheel(tmp_path, METRICS_FRAMEWORK_PURE="1")
    assert is_pure(wheel, names)
    assert "without its compiled engine" not in printed


def test_a_compiled_wheel_can_be_insisted_on(tmp_path):
    """With `METRICS_FRAMEWORK_COMPILED=1` a failure of the compiler is an error that shows its output."""
    ended = run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT],
        METRICS_FRAMEWORK_COMPILED="1",
        CC="/nonexistent/cc",
    )
    assert ended.returncode != 0
    assert "/nonexistent/cc" in ended.stdout
    assert not list(tmp_path.iterdir())


def test_the_source_distribution_can_build_both_wheels(tmp_path):
    """It has the C source and the build hook, and nothing compiled."""
    ended = run([sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", tmp_path, ROOT])
    assert ended.returncode == 0, ended.stdout
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = [name.partition("/")[2] for name in opened.getnames()]
    assert set(SOURCES) <= set(names)
    assert not [name for name in names if name.endswith((".so", ".pyd"))]


@needs_compiler
def test_make_build_compiles_beside_the_source(checkout):
    """Nothing else is written, and nothing is compiled again before the source changes."""
    before = {path for path in checkout.rglob("*") if path.is_file()}
    ended = make(checkout)
    assert ended.returncode == 0, ended.stdout
    assert {path for path in checkout.rglob("*") if path.is_file()} - before == {checkout / CORE}
    built = (checkout / CORE).stat()
    assert make(checkout).returncode == 0
    assert (checkout / CORE).stat().st_mtime_ns == built.st_mtime_ns
    later = built.st_mtime_ns + 10**9
    os.utime(checkout / "metrics_framework/recording/_core.c", ns=(later, later))
    with (checkout / CORE).open("rb") as loaded:
        assert make(checkout).returncode == 0
        assert (checkout / CORE).stat().st_mtime_ns > built.st_mtime_ns
        assert os.fstat(loaded.fileno()).st_nlink == 0, "a process that has loaded the file would crash"


def test_make_build_fails_without_a_compiler(checkout):
    """Its name promises the extension."""
    ended = make(checkout, CC="/nonexistent/cc")
    assert ended.returncode != 0
    assert "/nonexistent/cc" in ended.stdout


@needs_compiler
@pytest.mark.parametrize("lacks", ["a compiler", "Python.h"])
def test_other_targets_use_the_pure_engine(checkout, without_headers, lacks):
    """One line says so, and an outdated extension is not left beside the source."""
    (checkout / CORE).touch()
    os.utime(checkout / CORE, ns=(0, 0))
    ended = make(checkout, CORE, CC="/nonexistent/cc" if lacks == "a compiler" else without_headers)
    assert ended.returncode == 0
    (line,) = ended.stdout.splitlines()
    assert line.startswith("No compiled engine, the pure one is used: ")
    assert not (checkout / CORE).exists()


@needs_compiler
def test_a_mistake_in_the_source_is_never_passed_over(checkout):
    """Every target that needs the engine stops with the compiler's message."""
    with (checkout / "metrics_framework/recording/_core.c").open("a") as source:
        source.write("int mistake(\n")
    ended = make(checkout, CORE)
    assert ended.returncode != 0
    assert "_core.c" in ended.stdout


@needs_compiler
def test_a_debug_build_has_the_internal_checks(checkout, tmp_path):
    """`METRICS_FRAMEWORK_DEBUG_CORE=1` defines `METRICS_CORE_DEBUG` and keeps the assertions of C."""
    (checkout / "metrics_framework/recording/_core.c").write_text(
        "#include <Python.h>\n"
        "#if !defined METRICS_CORE_DEBUG || defined NDEBUG\n"
        "#error no debug build\n"
        "#endif\n"
        "PyMODINIT_FUNC PyInit__core(void) { return NULL; }\n"
    )
    command = [sys.executable, checkout / "hatch_build.py", tmp_path / "debug"]
    assert run(command, METRICS_FRAMEWORK_DEBUG_CORE="1").returncode == 0
    assert [path.name for path in (tmp_path / "debug").iterdir()] == [Path(CORE).name]
    assert "no debug build" in run(command).stdout
