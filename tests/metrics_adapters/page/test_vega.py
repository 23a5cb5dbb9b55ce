"""The chart library is prepared once, beside the event loop, and kept where only this user can write."""

from __future__ import annotations

import gzip
import os
import stat
import sys
import threading
import time
from contextlib import suppress

import pytest

from metrics_adapters.asgi import make_app
from metrics_adapters.http.page import PageEndpoint
from metrics_adapters.page import vega
from metrics_adapters.page.vega import RETRY_SECONDS, ChartLibrary, cache_folder
from metrics_framework.errors import MissingExtraError, OutputError
from tests.metrics_adapters.http.clients import TIMEOUT_SECONDS, get, until

pytest.importorskip("vl_convert")

SCRIPT = b"window.vega={};" * 1000


def prepared(library):
    """Return the script once it is prepared, or `None` after a failure."""
    with suppress(OutputError):
        library.script()
    for thread in threading.enumerate():
        if thread.name == "metrics-chart-library":
            thread.join(TIMEOUT_SECONDS)
    return library._file


def kept(tmp_path):
    """Return the path of the script in a cache folder."""
    (path,) = [each for each in tmp_path.iterdir() if each.name.startswith("vega-")]
    return path


class Bundler:
    """Returns the script, or fails, when it is called; it counts the calls."""

    def __init__(self, error=None):
        self.calls = 0
        self.error = error
        self.goes_on = threading.Event()
        self.goes_on.set()

    def __call__(self):
        """Return the script."""
        self.calls += 1
        self.goes_on.wait(TIMEOUT_SECONDS)
        if self.error is not None:
            raise self.error
        return SCRIPT


def test_the_script_is_prepared_once_and_kept(tmp_path):
    """In a file for this user only, from which the next process takes it."""
    bundle = Bundler()
    library = ChartLibrary(bundle, lambda: tmp_path)
    assert prepared(library).content == SCRIPT
    path = kept(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert gzip.decompress(path.read_bytes()) == SCRIPT
    again = ChartLibrary(bundle, lambda: tmp_path)
    assert prepared(again) == library.script()
    assert bundle.calls == 1


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "others", "folder", "bomb", "link"])
def test_a_file_that_cannot_be_trusted_is_not_used(tmp_path, monkeypatch, damage):
    """A damaged one, a huge one, a link, and one that others could have written."""
    monkeypatch.setattr(vega, "_MAX_SCRIPT_BYTES", 1 << 15)
    bundle = Bundler()
    prepared(ChartLibrary(bundle, lambda: tmp_path))
    path = kept(tmp_path)
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[:-10])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_bytes(b"alert(1)")
    elif damage == "others":
        path.write_bytes(gzip.compress(b"alert(1)"))
        path.chmod(0o622)
    elif damage == "bomb":
        path.write_bytes(gzip.compress(b"x" * (1 << 16)))
    else:
        path.unlink()
        if damage == "folder":
            path.mkdir()
        else:
            other = tmp_path / "other"
            other.write_bytes(gzip.compress(b"alert(1)"))
            path.symlink_to(other)
    assert prepared(ChartLibrary(bundle, lambda: tmp_path)).content == SCRIPT
    assert bundle.calls == 2


def test_without_a_folder_it_is_in_memory():
    """Such as in a container with a read-only file system."""
    bundle = Bundler()
    library = ChartLibrary(bundle, lambda: None)
    assert prepared(library).content == SCRIPT
    assert library.script().content == SCRIPT
    assert bundle.calls == 1


def test_the_cache_folder_belongs_to_this_user(tmp_path, monkeypatch):
    """It is created for the user only. A link, a file, and a folder that others can write are not used."""
    root = tmp_path / "cache"
    folder = cache_folder({"XDG_CACHE_HOME": str(root)})
    assert folder == root / "metrics-framework"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o777)
    assert cache_folder({"XDG_CACHE_HOME": str(root)}) is None
    folder.rmdir()
    folder.symlink_to(tmp_path)
    assert cache_folder({"XDG_CACHE_HOME": str(root)}) is None
    folder.unlink()
    folder.write_text("")
    assert cache_folder({"XDG_CACHE_HOME": str(root)}) is None
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder({"XDG_CACHE_HOME": "relative"}) == tmp_path / ".cache" / "metrics-framework"
    monkeypatch.setattr(vega.os, "geteuid", lambda: os.getuid() + 1)
    assert cache_folder({}) is None


def test_a_failure_is_logged_once_and_retried_later(tmp_path, caplog):
    """Not at each request."""
    now = [0.0]
    bundle = Bundler(OutputError("out of memory"))
    library = ChartLibrary(bundle, lambda: tmp_path, lambda: now[0])
    for _ in range(3):
        assert prepared(library) is None
    assert bundle.calls == 1
    now[0] += RETRY_SECONDS
    assert prepared(library) is None
    assert bundle.calls == 2
    with pytest.raises(OutputError, match="could not be prepared: see the log"):
        library.script()
    assert len(caplog.records) == 1
    assert "out of memory" in caplog.text
    bundle.error = None
    now[0] += RETRY_SECONDS
    assert prepared(library).content == SCRIPT


@pytest.mark.parametrize(
    ("program", "text"),
    [
        ("import sys; sys.exit('no\\nroom')", "failed with status 1: room"),
        ("pass", "failed with status 0"),
        ("import time; time.sleep(60)", "more than 0.5 seconds"),
    ],
)
@pytest.mark.slow
def test_a_failing_child_is_an_error(monkeypatch, program, text):
    """The message has its last line. A child that hangs is killed."""
    monkeypatch.setattr(vega, "_PROGRAM", program)
    monkeypatch.setattr(vega, "PREPARE_SECONDS", 0.5 if "sleep" in program else 20)
    with pytest.raises(OutputError, match=text):
        vega.bundle_script()


def test_the_event_loop_does_not_wait(run, system, monkeypatch, tmp_path):
    """Until it is prepared, the status is 503. A page begins it; a request without credentials does not."""
    bundle = Bundler()
    bundle.goes_on.clear()
    library = ChartLibrary(bundle, lambda: tmp_path)
    monkeypatch.setattr("metrics_adapters.http.page.chart_library", lambda: library)
    app = make_app(system, bearer_token="s3cret")
    token = {"authorization": "Bearer s3cret"}

    async def ask():
        assert (await get(app, "/", accept="text/html")).status_code == 401
        assert bundle.calls == 0
        assert (await get(app, "/", **token)).status_code == 200
        await until(lambda: bundle.calls == 1)
        begin = time.monotonic()
        for _ in range(20):
            waiting = await get(app, "/assets/vega.js", **token)
            assert (waiting.status_code, waiting.headers["retry-after"]) == (503, "1")
        assert time.monotonic() - begin < TIMEOUT_SECONDS / 2
        bundle.goes_on.set()

    run(ask())
    assert prepared(library).content == SCRIPT
    assert bundle.calls == 1

    async def again():
        ready = await get(app, "/assets/vega.js", accept_encoding="gzip", **token)
        assert (ready.status_code, ready.content) == (200, SCRIPT)
        assert ready.headers["content-encoding"] == "gzip"

    run(again())


def test_a_failure_is_told_to_the_page(run, system, monkeypatch):
    """Without Retry-After, so that the page shows the reason; the page itself is served."""
    library = ChartLibrary(Bundler(OutputError("out of memory")), lambda: None)
    assert prepared(library) is None
    monkeypatch.setattr("metrics_adapters.http.page.chart_library", lambda: library)
    app = make_app(system)

    async def ask():
        failed = await get(app, "/assets/vega.js")
        assert (failed.status_code, failed.headers.get("retry-after")) == (503, None)
        assert failed.text == "the chart library could not be prepared: see the log\n"
        assert (await get(app, "/")).status_code == 200

    run(ask())


def test_a_missing_package_is_named(run, system, monkeypatch):
    """The page works without it, and the library has status 501 with the extra."""
    monkeypatch.setattr(vega, "find_spec", lambda name: None)
    monkeypatch.setattr("metrics_adapters.http.page.chart_library", ChartLibrary)
    app = make_app(system)

    async def ask():
        assert (await get(app, "/")).status_code == 200
        missing = await get(app, "/assets/vega.js")
        assert missing.status_code == 501
        assert missing.text == ("charts needs an optional dependency: pip install 'metrics-framework[web]'\n")

    run(ask())
    with pytest.raises(MissingExtraError, match="web"):
        vega.bundle_script()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_prepares_it_itself(tmp_path):
    """It does not wait for a thread of the parent."""
    bundle = Bundler()
    bundle.goes_on.clear()
    library = ChartLibrary(bundle, lambda: None)
    assert library.script() is None
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            library._bundle = lambda: SCRIPT
            end = time.monotonic() + TIMEOUT_SECONDS
            while library.script() is None and time.monotonic() < end:
                time.sleep(0.01)
            code = 0 if library.script() else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    bundle.goes_on.set()
    assert prepared(library).content == SCRIPT


@pytest.mark.heavy
def test_the_real_bundle_has_the_chart_library(monkeypatch):
    """With the interpreter, so that it works without `unsafe-eval`. This process does not load vl-convert."""
    monkeypatch.setenv("PYTHONPATH", "/nonexistent")
    loaded = "vl_convert" in sys.modules
    script = vega.bundle_script()
    assert ("vl_convert" in sys.modules) == loaded
    for name in (b"window.vegaEmbed=", b"window.vega=", b"window.vegaLite="):
        assert name in script
    assert len(script) < 1 << 22


def test_the_page_has_one_library(system):
    """All applications of a process share it."""
    endpoints = [PageEndpoint("", make_app(system)._authenticator, None, None, 1.0) for _ in range(2)]
    assert endpoints[0]._library is endpoints[1]._library
