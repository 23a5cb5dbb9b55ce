"""What a test with a real server asks for; each worker of a test run starts its own.

A test that asks for one is skipped where the program is missing, and fails in CI.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator

import pytest

from tests.servers.process import LOOPBACK, running
from tests.servers.programs import find, missing
from tests.servers.prometheus import Prometheus, running_prometheus

Promtool = Callable[[str], tuple[int, str]]


def required(program: str) -> str:
    """Return the path of a program, or skip the test; in CI, fail it."""
    path = find(program)
    if path is not None:
        return path
    if os.environ.get("CI"):
        pytest.fail(missing(program), pytrace=False)
    pytest.skip(missing(program))


@pytest.fixture(scope="session")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Return a running Prometheus; its first scrape of a target comes within ten seconds."""
    program = required("prometheus")
    with running_prometheus(program, tmp_path_factory.mktemp("prometheus")) as server:
        yield server


@pytest.fixture(scope="session")
def pushgateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of a running Pushgateway; push to a job of your own."""
    arguments = (f"--web.listen-address={LOOPBACK}", "--persistence.file=pushed")
    command = [required("prometheus-pushgateway"), *arguments]
    with running(command, tmp_path_factory.mktemp("pushgateway")) as address:
        yield address


@pytest.fixture(scope="session")
def promtool() -> Promtool:
    """Return what runs `promtool check metrics` on a text; it returns the exit status and the output.

    The status is 0 for a clean text, 1 for a broken one and 3 for one with lints: advice about its names and
    help texts.
    """
    program = required("promtool")

    def check(text: str) -> tuple[int, str]:
        command = [program, "check", "metrics"]
        done = subprocess.run(command, input=text.encode(), capture_output=True, check=False, timeout=60)
        return done.returncode, (done.stdout + done.stderr).decode()

    return check
