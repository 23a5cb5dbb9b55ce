"""The commands on telemetry files, as a user runs them."""

from __future__ import annotations

import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from metrics_framework.cli.app import app
from metrics_framework.telemetry import project_telemetry_mapping, projected_record_to_dict
from tests.metrics_framework.telemetry.made import event

SAMPLE = Path(__file__).parents[1] / "telemetry" / "data" / "telemetry_sample.jsonl"


def run(*arguments: str | Path, given: bytes | None = None, width: int = 100) -> Result:
    """Run a command on telemetry."""
    return CliRunner(env={"COLUMNS": str(width)}).invoke(
        app, ["telemetry", *map(str, arguments)], input=given, prog_name="metrics-framework"
    )


def write(path: Path, *events: dict[str, object]) -> Path:
    """Write events to a file."""
    path.write_text("".join(json.dumps(one) + "\n" for one in events))
    return path


def rows(output: str) -> list[list[str]]:
    """Return the cells of what was printed, by their columns' distance."""
    return [
        [cell.strip() for cell in line.split("  ") if cell.strip()]
        for line in output.splitlines()
        if line.strip()
    ]


# -- project -------------------------------------------------------------------------------------------


def test_project_prints_a_record_a_line():
    """Each is the event in the envelope, in the file's order, and exit code 0."""
    done = run("project", SAMPLE)
    assert done.exit_code == 0
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        projected_record_to_dict(project_telemetry_mapping(json.loads(line)))
        for line in SAMPLE.read_text().splitlines()
    ]
    assert done.stderr == ""


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_project_reads_its_input(pack):
    """A file called - is the standard input, packed or not."""
    done = run("project", "-", given=pack(SAMPLE.read_bytes()))
    assert done.exit_code == 0
    assert done.stdout == run("project", SAMPLE).stdout


def test_a_bad_line_is_reported_and_the_rest_is_printed(tmp_path):
    """On standard error, by its number; exit code 1. Nothing in it steers the terminal."""
    path = tmp_path / "run.jsonl"
    path.write_bytes(json.dumps(event()).encode() + b'\n"\xc2\x9b31m"\n' + json.dumps(event()).encode())
    done = run("project", path)
    assert done.exit_code == 1
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr == f'{path}, line 2: is no JSON object but "\\x9b31m"\n'


@pytest.mark.parametrize("command", ["project", "summary"])
def test_a_file_that_is_not_there_is_an_error(tmp_path, command):
    """It names the path, and exit code 1."""
    done = run(command, tmp_path / "missing")
    assert done.exit_code == 1
    assert done.stderr == f"Error: cannot read '{tmp_path / 'missing'}': No such file or directory\n"


# -- summary -------------------------------------------------------------------------------------------


def test_summary_shows_sessions_memory_and_events():
    """Of a real file: a completed session of one rank, whose memory grew."""
    done = run("summary", SAMPLE)
    assert done.exit_code == 0
    printed = rows(done.stdout)
    assert printed[0][0].endswith("telemetry_sample.jsonl, 101 events")
    assert ["17cec52a-eb75-4388-828b-b892c3bc27de", "completed", "cpu", "101", "3 s"] in printed
    assert ["17cec52a", "1", "none", "101", "3 s", "26.1 MB", "26.4 MB", "▁▂▂▂▂▂▂▂▂▄▅▆▆█"] in printed
    assert ["17cec52a", "allocation", "none", "20"] in printed


def test_summary_tells_sessions_ranks_and_stages_apart(tmp_path):
    """Sessions by as many characters as it takes, stages in the order in which they came."""
    events = [
        event(
            session_id=session,
            rank=rank,
            timestamp_ns=at * 10**9,
            allocator_allocated_bytes=at,
            metadata={"phase_scope": {"name": stage}},
        )
        for at, (session, rank, stage) in enumerate(
            (session, rank, stage)
            for session in ("session-aa", "session-ab")
            for rank in (1, 0)
            for stage in ("forward[1]", "backward")
        )
    ]
    done = run("summary", write(tmp_path / "run.jsonl", *events))
    parts = [row[:3] for row in rows(done.stdout) if row[0].startswith("session-a") and len(row) == 8]
    assert parts == [
        [session, rank, stage]
        for session in ("session-aa", "session-ab")
        for rank in ("0", "1")
        for stage in ("forward[1]", "backward")
    ]


def test_summary_takes_device_memory_where_nothing_was_allocated(tmp_path):
    """And says so where there is neither."""
    only_device = event(allocator_allocated_bytes=None, device_used_bytes=5_000)
    nothing = event(allocator_allocated_bytes=None, device_used_bytes=None, rank=0)
    printed = rows(run("summary", write(tmp_path / "run.jsonl", only_device, nothing)).stdout)
    assert ["session-", "1", "none", "1", "0 µs", "5 kB", "5 kB", "▁"] in printed
    assert ["session-", "0", "none", "1", "0 µs", "none", "none"] in printed


def test_summary_of_a_folder_shows_what_its_manifest_says(tmp_path):
    """Such as that a session was interrupted."""
    write(tmp_path / "segment-000001.jsonl", event())
    sessions = [{"session_id": "session-1", "status": "interrupted"}]
    (tmp_path / "manifest.json").write_text(json.dumps({"sessions": sessions, "segments": []}))
    assert ["session-1", "interrupted", "cuda", "1", "0 µs"] in rows(run("summary", tmp_path).stdout)


def test_summary_of_an_empty_file_is_empty(tmp_path):
    """It is no error."""
    done = run("summary", write(tmp_path / "run.jsonl"))
    assert done.exit_code == 0
    assert "0 events" in done.stdout


def test_summary_fits_a_terminal_and_is_not_steered(tmp_path):
    """Eighty columns are enough for usual names, and control characters are shown."""
    path = write(tmp_path / "run.jsonl", event(session_id="\x1b[31m" + "s" * 30, event_type="a\nb"))
    done = run("summary", path, width=80)
    assert max(len(line) for line in done.stdout.splitlines()[1:]) <= 80
    assert "\x1b" not in done.stdout
    assert "a\\nb" in done.stdout


# -- follow --------------------------------------------------------------------------------------------


@contextmanager
def following(*arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Run `telemetry follow` in a process of its own."""
    command = [sys.executable, "-m", "metrics_framework", "telemetry", "follow", "--interval", "0.02"]
    with subprocess.Popen(
        [*command, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.heavy
def test_follow_prints_events_as_they_come(tmp_path):
    """From a file that is not there yet, through a truncation, until it is interrupted."""
    path = tmp_path / "run.jsonl"
    with following(path) as process:
        assert process.stderr
        assert process.stdout
        assert process.stderr.readline() == f"waiting for {path}\n"
        write(path, event(context="first"), event(context="second"))
        assert [json.loads(process.stdout.readline())["body"] for _ in range(2)] == ["first", "second"]
        path.write_text("[]\n" + json.dumps(event(context="third")) + "\n")
        assert json.loads(process.stdout.readline())["body"] == "third"
        time.sleep(0.2)  # it may be about to count it
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 130
        assert (
            process.stderr.read()
            == f"{path}, line 1: is no JSON object but []\nevents: 3, invalid lines: 1\n"
        )


@pytest.mark.heavy
def test_follow_serves_what_was_measured(tmp_path):
    """A scrape of the address that is printed gives the values of the last event so far."""
    path = write(tmp_path / "run.jsonl", event(device_used_bytes=1))
    with following(path, "--serve", "0") as process:
        assert process.stdout
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:")
        for value in (1, 2):
            write(path, event(device_used_bytes=value, timestamp_ns=value * 10**18))
            sample = (
                'telemetry_memory_device_used_bytes{device="0",host="node-1",rank="1",source_kind="cuda"}'
            )
            assert eventually(address, f"{sample} {value}\n")
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130


def eventually(address: str, text: str) -> bool:
    """Return whether a page holds a text before long."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        with urllib.request.urlopen(address) as page:
            if text in page.read().decode():
                return True
        time.sleep(0.02)
    return False


def test_a_port_that_is_taken_is_an_error(tmp_path):
    """It names the port and the reason, and exit code 1."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run("follow", write(tmp_path / "run.jsonl"), "--serve", port)
    assert done.exit_code == 1
    assert f"port {port}: {os.strerror(98)}" in done.stderr


def test_a_file_that_cannot_be_followed_is_an_error(tmp_path):
    """Such as a packed one."""
    path = tmp_path / "run.jsonl.gz"
    path.write_bytes(gzip.compress(SAMPLE.read_bytes()))
    done = run("follow", path)
    assert done.exit_code == 1
    assert "is packed with gzip, and cannot be followed" in done.stderr
