"""Starts a server for tests, and ends it even if the test fails."""

from __future__ import annotations

import http.client
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

LOOPBACK = "127.0.0.1:0"
"""The address of a server: it chooses a free port itself, so that two servers never conflict."""

_LISTENING = re.compile(r'msg="Listening on" address=(127\.0\.0\.1:\d+)')
_STARTING = 15.0
_ENDING = 10.0


@contextmanager
def running(command: Sequence[str], folder: Path, ready: str = "/-/ready") -> Iterator[str]:
    """Run a server of the Prometheus project in ``folder`` and yield its address once it is ready.

    Args:
        command: The program and its arguments; it listens at `LOOPBACK`.
        folder: Its working directory, which gets its log.
        ready: The path that it answers with status 200 once it is ready.

    Raises:
        RuntimeError: If it is not ready within 15 seconds; the message has its log.
    """
    log = folder / "server.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield _ready(process, log, ready)
    finally:
        process.terminate()
        try:
            process.wait(_ENDING)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def request(method: str, address: str, path: str, body: str | None = None) -> tuple[int, str]:
    """Send a request and return the status and body of the response.

    Args:
        method: ``GET``, ``PUT`` and so on.
        address: Host and port.
        path: The path and query.
        body: The body of the request.

    Raises:
        OSError: If there is no response within ten seconds.
    """
    # Not urllib.request: it would ask a proxy of the environment.
    connection = http.client.HTTPConnection(address, timeout=10)
    try:
        connection.request(method, path, None if body is None else body.encode())
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def _ready(process: subprocess.Popen[bytes], log: Path, path: str) -> str:
    end = time.monotonic() + _STARTING
    while process.poll() is None and time.monotonic() < end:
        listening = _LISTENING.search(log.read_text())
        if listening and request("GET", listening[1], path)[0] == http.client.OK:
            return listening[1]
        time.sleep(0.05)
    raise RuntimeError(f"{process.args!r} is not ready (exit status {process.poll()}):\n{log.read_text()}")
