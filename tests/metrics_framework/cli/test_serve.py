"""`metrics-framework serve`: a real process that serves, follows a file, and ends."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner, Result

from metrics_framework.cli.app import app

TOKEN = "s3cret-t0ken"
TIMEOUT_SECONDS = 60.0
EVENT = {"session_id": "s", "event_type": "peak", "host": "node-1"}


class Response(NamedTuple):
    """A response."""

    status: int
    body: str


class Service:
    """A running ``metrics-framework serve``."""

    def __init__(self, process: subprocess.Popen[str], errors: Path) -> None:
        self.process, self._errors = process, errors
        assert process.stdout is not None
        self.url = process.stdout.readline().strip()
        assert self.url, self.errors
        self.port = urlsplit(self.url).port or 0

    @property
    def errors(self) -> str:
        """What it has printed on standard error."""
        return self._errors.read_text()

    def get(self, path: str, token: str | None = None, host: str | None = None) -> Response:
        """Request a path below its URL."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_SECONDS)
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        headers |= {} if host is None else {"Host": host}
        connection.request("GET", urlsplit(self.url).path + path, headers=headers)
        response = connection.getresponse()
        found = Response(response.status, response.read().decode())
        connection.close()
        return found

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(TIMEOUT_SECONDS)


@contextmanager
def serving(tmp_path: Path, *arguments: str, token: str | None = None) -> Iterator[Service]:
    """Serve on a free port, and kill the process if it is still running."""
    errors = tmp_path / "stderr"
    with errors.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "metrics_framework", "serve", "--port", "0", *arguments],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=variables(token),
        )
    try:
        yield Service(process, errors)
    finally:
        process.kill()
        process.communicate()


def variables(token: str | None) -> dict[str, str]:
    """Return environment variables with this token only."""
    own = {name: value for name, value in os.environ.items() if name not in ("METRICS_TOKEN", "FORCE_COLOR")}
    return own if token is None else {**own, "METRICS_TOKEN": token}


def wait_until(holds: Callable[[], object], what: Callable[[], str] = str) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + TIMEOUT_SECONDS
    while not holds():
        assert time.monotonic() < end, what()
        time.sleep(0.05)


def run(*arguments: str, token: str | None = None) -> Result:
    """Run a command that fails before it serves."""
    return CliRunner().invoke(app, ["serve", *arguments], env={"METRICS_TOKEN": token})


@pytest.mark.heavy
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_this_machine_until_a_signal(tmp_path: Path, number: int) -> None:
    """It prints its URL, serves resources, and a signal ends it while connections are open."""
    with serving(tmp_path, "--prefix", "/internal") as service:
        assert service.url == f"http://127.0.0.1:{service.port}/internal/"
        assert service.get("metrics").status == 200
        assert service.get("metrics", host=f"evil.example:{service.port}").status == 421
        assert "<title>" in service.get("").body
        assert json.loads(service.get("health").body)["healthy"] in (True, False)
        wait_until(lambda: "process_memory_usage" in service.get("metrics").body)
        stream, idle, half = (
            socket.create_connection(("127.0.0.1", service.port), TIMEOUT_SECONDS) for _ in range(3)
        )
        with stream, idle, half:
            stream.sendall(b"GET /internal/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert stream.recv(12) == b"HTTP/1.1 200"
            half.sendall(b"GET /internal/metrics HT")
            start = time.monotonic()
            assert service.end(number) == 130
            assert time.monotonic() - start < 20
        assert "Traceback" not in service.errors
        assert "shows the resources of this machine; needs no token; Ctrl-C ends it\n" in service.errors


@pytest.mark.heavy
def test_a_port_in_use_is_one_clear_error(tmp_path: Path) -> None:
    """The error names the port and the remedy, with exit code 1."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "metrics_framework", "serve", "--port", str(port)],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
            env=variables(None),
        )
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: cannot listen on '127.0.0.1', port ")
    assert str(port) in line
    assert "pass another port" in line


@pytest.mark.heavy
@pytest.mark.parametrize("place", ["file", "variable"])
def test_a_token_protects_everything_and_is_not_shown(tmp_path: Path, place: str) -> None:
    """Without the token nothing is served; neither the list of processes nor the output has it."""
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    arguments = ["--token-file", str(file)] if place == "file" else []
    arguments += ["--snapshots", str(tmp_path)]
    with serving(tmp_path, *arguments, token=TOKEN if place == "variable" else "other") as service:
        for path in ("metrics", "health", "snapshot", "stream", "history", "assets/page.js", ""):
            assert service.get(path).status == 401
            assert service.get(path, "guess").status == 401
        assert service.get("metrics", TOKEN, host="status.example").status == 200
        if place == "file":
            assert service.get("metrics", "other").status == 401
        shown = Path(f"/proc/{service.process.pid}/cmdline").read_bytes()
        assert b"serve" in shown
        assert TOKEN.encode() not in shown
        service.end()
        assert TOKEN not in service.url + service.errors
        assert "asks for the token" in service.errors


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.invalid", "127.1"])
def test_other_machines_need_a_token(host: str) -> None:
    """On another address than loopback, no token is an error that names the three remedies."""
    done = run("--host", host)
    assert done.exit_code == 2
    for remedy in ("METRICS_TOKEN", "--token-file", "--no-token"):
        assert remedy in done.stderr


@pytest.mark.heavy
def test_no_token_has_to_be_asked_for(tmp_path: Path) -> None:
    """With --no-token, such an address is served to everyone, also if the variable has a token."""
    with serving(tmp_path, "--host", "127.1", "--no-token", token=TOKEN) as service:
        assert service.get("metrics").status == 200


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (b"\n", [], "is empty"),
        (b"\xff\xfes3cret", [], "is not text"),
        (b"s3cret t0ken", [], "without spaces"),
        (b"x" * 5000, [], "more than 4096 bytes"),
        (None, [], "cannot read"),
        (b"s3cret", ["--no-token"], "both --no-token and --token-file"),
    ],
)
def test_a_bad_token_is_an_error_that_does_not_show_it(
    tmp_path: Path, content: bytes | None, arguments: list[str], message: str
) -> None:
    """A token that cannot be used is wrong usage, and is not printed."""
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    done = run("--token-file", str(file), *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert "s3cret" not in done.output


def test_an_empty_variable_is_not_taken_for_no_token() -> None:
    """A variable that is set to nothing, such as a missing secret of a CI system, is an error."""
    done = run(token="")
    assert done.exit_code == 2
    assert "the token in METRICS_TOKEN is empty" in done.stderr


@pytest.mark.heavy
def test_the_history_of_hostile_snapshots_is_text(tmp_path: Path) -> None:
    """New snapshots appear while it serves, and their names are plain text in JSON."""
    folder = tmp_path / "runs"
    hostile = "<script>alert(1)</script>\u202e\x1b[2J"
    with serving(tmp_path, "--snapshots", str(folder)) as service:
        assert f"Warning: the folder '{folder}' does not exist yet: it is waited for\n" in service.errors
        assert json.loads(service.get("history").body)["runs"] == []
        folder.mkdir()
        for run_id, p95 in (("before", 100.0), ("after", 300.0)):
            metadata = {"run_id": run_id, "branch": hostile, "tags": {hostile: hostile}}
            document = {"metadata": metadata, "metrics": {"latency": {"p95": p95}, "custom": {hostile: 1}}}
            (folder / f"{run_id}.json").write_text(json.dumps(document))
        (folder / "damaged.json").write_text(hostile)
        history, found = (
            service.get(path) for path in ("history", "history/compare?baseline=before&current=after")
        )
        unknown = service.get("history/compare?baseline=../damaged&current=after")
        document = json.loads(history.body)
        assert {run["run_id"] for run in document["runs"]} == {"before", "after"}
        assert (document["folder"], document["unreadable"]) == ("runs", 1)
        assert json.loads(found.body)["rows"][0]["verdict"] == "inconclusive"
        for response in (history, found):
            assert response.status == 200
            assert response.body.strip().isprintable()
            assert "\\\\u202e" in response.body
        assert unknown.status == 400
        assert "pass the run_id of a listed run" in unknown.body


@pytest.mark.heavy
def test_a_telemetry_file_is_followed_while_it_grows(tmp_path: Path) -> None:
    """Events appear as they are written, and invalid lines are reported by one line."""
    file = tmp_path / "run.jsonl"
    with serving(tmp_path, "--telemetry", str(file), "--interval", "0.1") as service:
        assert f"the events of {file}; needs no token" in service.errors
        assert (
            f"Warning: the file or folder '{file}' does not exist yet: it is waited for\n" in service.errors
        )
        for number in range(1, 4):
            with file.open("a") as stream:
                stream.write("".join(f"junk\x1b[2J {one}\n" for one in range(50)))
                event = {**EVENT, "timestamp_ns": number, "device_used_bytes": number * 1000}
                stream.write(json.dumps(event) + "\n")
            wait_until(partial(_is_used, service, number * 1000))
        assert "telemetry_events_total" in service.get("metrics").body
        assert service.end() == 130
        warnings = [line for line in service.errors.splitlines() if line.startswith("Warning")]
        assert len(warnings) == 2
        assert "line 1: is not JSON" in warnings[1]
        assert "\x1b" not in service.errors
        assert "3 events, 150 invalid lines\n" in service.errors


def _is_used(service: Service, number: int) -> bool:
    lines = service.get("metrics").body.splitlines()
    start = 'telemetry_memory_device_used_bytes{device="unknown",host="node-1"'
    return any(line.startswith(start) and line.endswith(f" {number}") for line in lines)


@pytest.mark.heavy
def test_a_telemetry_file_that_cannot_be_read_does_not_end_the_service(tmp_path: Path) -> None:
    """The reason is printed once, and the rest is served."""
    file = tmp_path / "run.jsonl"
    file.write_bytes(b"\x1f\x8b\x08\x00" + bytes(99) + b"\n")
    with serving(tmp_path, "--telemetry", str(file), "--interval", "0.1") as service:
        wait_until(lambda: "Warning" in service.errors)
        assert service.get("metrics").status == 200
        assert service.end() == 130
        assert service.errors.count("gzip") == 1
