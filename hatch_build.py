"""Compiles `metrics_framework.recording._core` for wheels, editable installs and `make build`.

The extension uses CPython's limited API, so one wheel per platform serves CPython 3.11 and later if it is
built with 3.11: a wheel serves the version that builds it and later ones. Without a C
compiler or without `Python.h` the wheel is pure Python, and recording uses the pure engine. An editable
install has the extension beside its source. ``python hatch_build.py [FOLDER]`` compiles it there, or into
another folder.

These environment variables are on with 1:

- `METRICS_FRAMEWORK_COMPILED`: fail if the extension cannot be built.
- `METRICS_FRAMEWORK_PURE`: do not build the extension.
- `METRICS_FRAMEWORK_DEBUG_CORE`: build it for debugging, with its internal checks.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = Path(__file__).resolve().parent / "metrics_framework" / "recording" / "_core.c"


class BuildError(Exception):
    """The extension cannot be built. The message is one line; `output` is all that the tools printed."""

    def __init__(self, output: str) -> None:
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        errors = [line for line in lines if re.search(r"error( [A-Z]+\d+)?:|Error:", line)]
        super().__init__((errors or lines[-1:] or ["no reason given"])[0])
        self.output = output

    @property
    def is_tool_missing(self) -> bool:
        """Whether the machine lacks a compiler, `Python.h` or setuptools. If not, the source is at fault."""
        missing = r"Python\.h|No such file or directory|Visual C\+\+|No module named"
        return re.search(missing, str(self)) is not None


class CoreBuildHook(BuildHookInterface[Any]):
    """Adds the extension to a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the extension and tag the wheel for it; leave a pure wheel if it cannot be built."""
        self._folder = tempfile.TemporaryDirectory()
        if not is_wanted():
            return
        is_editable = version == "editable"
        try:
            built, _ = build(SOURCE.parent if is_editable else Path(self._folder.name))
        except BuildError as error:
            if is_on("METRICS_FRAMEWORK_COMPILED"):
                self.app.abort(error.output)
            self.app.display_warning(f"metrics-framework is built without its compiled engine: {error}")
            return
        if not is_editable:
            platform = self.build_config.builder.get_best_matching_tag().rpartition("-")[2]
            build_data["pure_python"] = False
            # Headers of 3.12 and later do not count references to None, which 3.11 needs.
            build_data["tag"] = f"cp3{sys.version_info.minor}-abi3-{platform}"
            build_data["force_include"][str(built)] = f"metrics_framework/recording/{built.name}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Delete the extension that the wheel now contains."""
        self._folder.cleanup()


def is_on(variable: str) -> bool:
    """Return whether an environment variable is on."""
    return os.environ.get(variable) == "1"


def is_wanted() -> bool:
    """Return whether this interpreter gets the extension: free-threaded builds and PyPy do not."""
    return (
        sys.implementation.name == "cpython"
        and not sysconfig.get_config_var("Py_GIL_DISABLED")
        and not is_on("METRICS_FRAMEWORK_PURE")
    )


def build(folder: Path) -> tuple[Path, str]:
    """Compile the extension into a folder.

    Returns:
        The path of the extension, and what the compiler printed.

    Raises:
        BuildError: It cannot be built. An extension that was in the folder is outdated, and deleted.
    """
    # A child process, so that the output of all tools is caught; an empty folder, which has no settings file.
    with tempfile.TemporaryDirectory() as place:
        compiled = subprocess.run(
            [sys.executable, __file__, "--compile"],
            check=False,
            cwd=place,
            env={**os.environ, "LC_ALL": "C"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
        built = list(Path(place, "built").glob("_core.*"))
        if compiled.returncode or not built:
            for outdated in [*folder.glob("_core.*.so"), *folder.glob("_core.pyd")]:
                outdated.unlink()
            raise BuildError(compiled.stdout)
        # Replaced in one step: a process that has loaded the file before goes on with that one.
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".core-") as beside:
            copy = Path(shutil.copy(built[0], beside))
            return copy.replace(folder / copy.name), compiled.stdout


def run_build_ext() -> None:
    """Run setuptools' `build_ext` in the working directory."""
    from setuptools import Extension, setup

    debug = is_on("METRICS_FRAMEWORK_DEBUG_CORE")
    macros: list[tuple[str, str | None]] = [("Py_LIMITED_API", "0x030B0000")]
    if "MSC" in sys.version:
        flags = ["/std:c11", "/Od" if debug else "/O2"]
    else:
        # No fused multiply-add: both engines compute the same numbers to the last bit.
        flags = [
            "-std=c11",
            "-fvisibility=hidden",
            "-ffp-contract=off",
            *(["-g", "-O1"] if debug else ["-O3"]),
        ]
    if debug:
        macros.append(("METRICS_CORE_DEBUG", None))
    core = Extension(
        "_core",
        [str(SOURCE)],
        define_macros=macros,
        undef_macros=["NDEBUG"] if debug else [],
        extra_compile_args=flags,
        py_limited_api=True,
    )
    setup(
        name="core",
        ext_modules=[core],
        script_args=["build_ext", "--build-lib", "built", "--build-temp", "objects"],
    )


def main() -> None:
    """Compile the extension beside its source, or into the folder given as argument.

    If the machine cannot compile it, a line says so and the exit status is 0. The status is 1 if the source
    is at fault, or if `METRICS_FRAMEWORK_COMPILED` is on.
    """
    if not is_wanted():
        return
    try:
        _, output = build(Path(sys.argv[1]) if sys.argv[1:] else SOURCE.parent)
    except BuildError as error:
        if is_on("METRICS_FRAMEWORK_COMPILED") or not error.is_tool_missing:
            sys.exit(error.output)
        sys.stderr.write(f"No compiled engine, the pure one is used: {error}\n")
    else:
        if "warning:" in output:
            sys.stderr.write(output)


if __name__ == "__main__":
    if sys.argv[1:] == ["--compile"]:
        run_build_ext()
    else:
        main()
