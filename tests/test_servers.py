"""The servers that tests start: found or asked for, ready or ended."""

from __future__ import annotations

import os
from contextlib import suppress

import pytest

from tests.servers import programs
from tests.servers.fixtures import required
from tests.servers.pages import serving
from tests.servers.process import LOOPBACK, request, running


@pytest.fixture
def bare_machine(monkeypatch, tmp_path):
    """Have no program on `PATH` and none in the cache; return the cache's folder."""
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setattr(programs, "CACHE", tmp_path)
    return tmp_path


def test_a_missing_server_skips_its_tests(bare_machine, monkeypatch):
    """Who lacks a server is told what is skipped and how to get it."""
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="prometheus is not on this machine; `make servers`"):
        required("prometheus")


def test_a_missing_server_fails_in_ci(bare_machine, monkeypatch):
    """In CI nothing is skipped unseen."""
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="promtool is not on this machine; `make servers`"):
        required("promtool")


def test_a_fetched_server_is_found(bare_machine):
    """What was unpacked into the cache need not be installed."""
    program = bare_machine / "usr" / "bin" / "prometheus"
    program.parent.mkdir(parents=True)
    program.touch(mode=0o755)
    assert required("prometheus") == os.fspath(program)


def test_a_server_that_does_not_start_shows_its_log(tmp_path):
    """A server that ends before it is ready is an error that says why."""
    server = running(["sh", "-c", "echo no such flag; exit 3"], tmp_path)
    with pytest.raises(RuntimeError, match=r"(?s)exit status 3.*no such flag"):
        server.__enter__()


@pytest.mark.heavy
def test_a_server_ends_with_its_test(tmp_path):
    """Also where a test fails, its server is gone afterwards."""
    command = [required("prometheus-pushgateway"), f"--web.listen-address={LOOPBACK}"]
    with suppress(ZeroDivisionError), running(command, tmp_path) as address:
        assert request("GET", address, "/-/healthy")[0] == 200
        raise ZeroDivisionError
    with pytest.raises(ConnectionRefusedError):
        request("GET", address, "/-/healthy")


@pytest.mark.heavy
def test_a_condition_that_never_holds_shows_the_result(prometheus):
    """What was waited for in vain fails with the query and its last result."""
    with pytest.raises(AssertionError, match=r"vector\(42\) after 0.1 s: .*42.0"):
        prometheus.wait_until("vector(42)", lambda found: found[0][1] == 43, seconds=0.1)
    with pytest.raises(ValueError, match="parse error"):
        prometheus.query("vector(")


def test_a_page_is_rendered_for_each_request():
    """A page shows what there is at the time of each request."""
    numbers = iter(range(2))
    with serving(lambda: f"x {next(numbers)}\n") as address:
        answers = [request("GET", address, "/metrics") for _ in range(2)]
    assert answers == [(200, "x 0\n"), (200, "x 1\n")]
