"""The chart library of the live page: vega-embed, Vega-Lite and Vega as one script, from vl-convert.

Bundling it takes seconds and 150 MB, so a child process does that once, and the compressed script is kept in
the user's cache folder. The script assigns ``window.vegaEmbed``, ``vega`` and ``vegaLite``.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from metrics_adapters.page.files import PageFile
from metrics_framework.errors import MissingExtraError, OutputError, reason_of
from metrics_framework.log import Isolation, log_event
from metrics_framework.runtime.atomic_files import AtomicFile, read_file
from metrics_framework.runtime.fork import ForkOrder, reset_after_fork

PREPARE_SECONDS = 120.0
"""The deadline of the child process. It takes 5 seconds on an idle core."""

RETRY_SECONDS = 60.0
"""How long a failed preparation is not repeated."""

_MAX_SCRIPT_BYTES = 1 << 24  # it has about 900 KB
_PACKAGE = "vl_convert"
_DISTRIBUTION = "vl-convert-python"

# In isolated mode, Python ignores the variables and the working folder that could replace modules, but also
# PYTHONPATH and the user's packages: so the folder of the package is an argument.
_PROGRAM = f"""
import sys
sys.path.append(sys.argv[1])
import {_PACKAGE}
sys.stdout.buffer.write({_PACKAGE}.javascript_bundle().encode())
"""


def bundle_script() -> bytes:
    """Return the script. A child process bundles it, which takes seconds.

    Raises:
        MissingExtraError: If vl-convert is not installed.
        OutputError: If the child fails or misses its deadline.
    """
    spec = find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise MissingExtraError("charts", "web")
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", _PROGRAM, str(Path(spec.origin).parents[1])],
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PREPARE_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise OutputError(f"bundling the chart library took more than {PREPARE_SECONDS:g} seconds") from None
    except OSError as error:
        raise OutputError(f"cannot run {sys.executable!r}: {reason_of(error)}") from error
    if done.returncode or not done.stdout:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise OutputError(f"bundling the chart library failed with status {done.returncode}: {last[:200]}")
    return done.stdout


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path | None:
    """Return the library's folder for files that can be made again, or ``None`` if there is no safe one.

    It is created, for this user only. Nobody else may be able to write in it: its content runs in browsers.
    """
    root = Path(environment.get("XDG_CACHE_HOME", ""))  # the specification says to ignore a relative path
    try:
        folder = (root if root.is_absolute() else Path.home() / ".cache") / "metrics-framework"
        folder.mkdir(0o700, parents=True, exist_ok=True)
        status = folder.lstat()
        is_usable = os.access(folder, os.W_OK)
    except (OSError, RuntimeError, ValueError):  # RuntimeError: no home; ValueError: a null character
        return None
    is_own = sys.platform == "win32" or (status.st_uid == os.geteuid() and not status.st_mode & 0o022)
    return folder if stat.S_ISDIR(status.st_mode) and is_own and is_usable else None


class ChartLibrary:
    """The script, prepared in a thread when it is first asked for. Thread-safe.

    Args:
        bundle: Returns the script; see `bundle_script`.
        folder: Returns the folder that keeps it, or ``None`` for none.
        now: Returns seconds that never go back.
    """

    def __init__(
        self,
        bundle: Callable[[], bytes] = bundle_script,
        folder: Callable[[], Path | None] = cache_folder,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bundle = bundle
        self._folder = folder
        self._now = now
        self._file: PageFile | None = None
        self._isolation = Isolation()
        self._retry_at = 0.0
        self.reset()
        reset_after_fork(self, ChartLibrary.reset, ForkOrder.LOCKS)

    def reset(self) -> None:
        """Forget the thread: a forked child does not have it."""
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def script(self) -> PageFile | None:
        """Return the script, or start preparing it and return ``None``. This never blocks.

        Raises:
            MissingExtraError: If vl-convert is not installed.
            OutputError: If it could not be prepared. This is tried again a minute later.
        """
        if self._file is not None:
            return self._file
        if find_spec(_PACKAGE) is None:
            raise MissingExtraError("charts", "web")
        with self._lock:
            if self._thread is None and self._now() >= self._retry_at:
                thread = threading.Thread(target=self._run, name="metrics-chart-library", daemon=True)
                # A thread that cannot be started is like a failed preparation: it is logged and tried again.
                self._isolation.call("no thread for the chart library", lambda: self._start(thread))
            if self._thread is None and self._file is None:
                raise OutputError("the chart library could not be prepared: see the log")
        return self._file

    def _start(self, thread: threading.Thread) -> None:
        thread.start()
        self._thread = thread

    def _run(self) -> None:
        self._file = self._isolation.call("the chart library could not be prepared", self._prepare)
        self._retry_at = self._now() + RETRY_SECONDS
        with self._lock:  # `script` holds it until the thread is known
            self._thread = None

    def _prepare(self) -> PageFile:
        folder = self._folder()
        path = None if folder is None else folder / f"vega-{metadata.version(_DISTRIBUTION)}.js.gz"
        kept = None if path is None else _read(path)
        if kept is not None:
            return kept
        script = self._bundle()
        made = PageFile.of("vega.js", script)
        if path is not None:
            _write(path, made.compressed)
        return made


@cache
def chart_library() -> ChartLibrary:
    """Return the chart library of this process, which all applications share."""
    return ChartLibrary()


def _read(path: Path) -> PageFile | None:
    """Return the script of an earlier process; ``None`` if there is none, or others could have written it."""
    try:
        status = path.lstat()
        if sys.platform != "win32" and (status.st_uid != os.geteuid() or status.st_mode & 0o022):
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        compressed = read_file(path, _MAX_SCRIPT_BYTES, pipe=False)
        decompressor = zlib.decompressobj(16 + zlib.MAX_WBITS)
        script = decompressor.decompress(compressed, _MAX_SCRIPT_BYTES)
    except (OSError, zlib.error):
        return None
    # An incomplete file cannot be told from a whole one otherwise: only at its end, gzip has a checksum.
    return PageFile.of("vega.js", script, compressed) if script and decompressor.eof else None


def _write(path: Path, compressed: bytes) -> None:
    try:
        with AtomicFile(path.parent, compressed, 0o600) as file:
            file.replace(path)
    except OSError as error:
        log_event("info", "the chart library is not kept", path=str(path), error=reason_of(error))
