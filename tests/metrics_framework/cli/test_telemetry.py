"""The telemetry commands as a user runs them."""

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
    """Return the cells of the output, split at wide gaps."""
    return [
        [cell.strip() for cell in line.split("  ") if cell.strip()]
        for line in output.splitlines()
        if line.strip()
    ]


# -- project -------------------------------------------------------------------------------------------


def test_project_prints_a_record_per_line():
    """Each line is an event in the envelope, in the order of the file: exit code 0."""
    done = run("project", SAMPLE)
    assert done.exit_code == 0
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        projected_record_to_dict(project_telemetry_mapping(json.loads(line)))
        for line in SAMPLE.read_text().splitlines()
    ]
    assert done.stderr == ""


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_project_reads_standard_input(pack):
    """A file named - is standard input, compressed or not."""
    done = run("project", "-", given=pack(SAMPLE.read_bytes()))
    assert done.exit_code == 0
    assert done.stdout == run("project", SAMPLE).stdout


def test_a_bad_line_is_reported_and_the_rest_is_printed(tmp_path):
    """The report is on standard error, with the line number; control characters are escaped; exit code 1."""
    path = tmp_path / "run.jsonl"
    path.write_bytes(json.dumps(event()).encode() + b'\n"\xc2\x9b31m"\n' + json.dumps(event()).encode())
    done = run("project", path)
    assert done.exit_code == 1
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr == f'{path}, line 2: must be a JSON object, got "\\x9b31m"\n'


@pytest.mark.parametrize("command", ["project", "summary"])
def test_a_missing_file_is_an_error(tmp_path, command):
    """The error names the path; exit code 1."""
    done = run(command, tmp_path / "missing")
    assert done.exit_code == 1
    assert done.stderr == f"Error: cannot read '{tmp_path / 'missing'}': No such file or directory\n"


# -- summary -------------------------------------------------------------------------------------------


def test_summary_shows_sessions_memory_and_events():
    """A real file has one completed session with one rank, whose memory grew."""
    done = run("summary", SAMPLE)
    assert done.exit_code == 0
    printed = rows(done.stdout)
    assert printed[0][0].endswith("telemetry_sample.jsonl, 101 events")
    assert ["17cec52a-eb75-4388-828b-b892c3bc27de", "completed", "cpu", "101", "3 s"] in printed
    assert ["17cec52a", "1", "none", "101", "3 s", "26.1 MB", "26.4 MB", "▁▂▂▂▂▂▂▂▂▄▅▆▆█"] in printed
    assert ["17cec52a", "allocation", "none", "20"] in printed


def test_summary_tells_sessions_ranks_and_stages_apart(tmp_path):
    """Sessions are shown by unique prefixes, and stages in the order of their first events."""
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


def test_summary_uses_device_memory_without_allocator_memory(tmp_path):
    """If there is neither, the table says none."""
    only_device = event(allocator_allocated_bytes=None, device_used_bytes=5_000)
    nothing = event(allocator_allocated_bytes=None, device_used_bytes=None, rank=0)
    printed = rows(run("summary", write(tmp_path / "run.jsonl", only_device, nothing)).stdout)
    assert ["session-", "1", "none", "1", "0 µs", "5 kB", "5 kB", "▁"] in printed
    assert ["session-", "0", "none", "1", "0 µs", "none", "none"] in printed


def test_summary_of_a_folder_uses_its_manifest(tmp_path):
    """For example, that a session was interrupted."""
    write(tmp_path / "segment-000001.jsonl", event())
    sessions = [{"session_id": "session-1", "status": "interrupted"}]
    (tmp_path / "manifest.json").write_text(json.dumps({"sessions": sessions, "segments": []}))
    assert ["session-1", "interrupted", "cuda", "1", "0 µs"] in rows(run("summary", tmp_path).stdout)


def test_summary_of_an_empty_file_is_empty(tmp_path):
    """An empty file is not an error."""
    done = run("summary", write(tmp_path / "run.jsonl"))
    assert done.exit_code == 0
    assert "0 events" in done.stdout


def test_summary_fits_a_terminal(tmp_path):
    """Eighty columns suffice for usual names, and control characters are escaped."""
    path = write(tmp_path / "run.jsonl", event(session_id="\x1b[31m" + "s" * 30, event_type="a\nb"))
    done = run("summary", path, width=80)
    assert max(len(line) for line in done.stdout.splitlines()[1:]) <= 80
    assert "\x1b" not in done.stdout
    assert "a\\nb" in done.stdout


# -- follow --------------------------------------------------------------------------------------------


@contextmanager
def following(*arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Run `telemetry follow` in a process."""
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
    """The file need not exist at first and is truncated in between; the command runs until interrupted."""
    path = tmp_path / "run.jsonl"
    with following(path) as process:
        assert process.stderr
        assert process.stdout
        assert process.stderr.readline() == f"waiting for {path}\n"
        write(path, event(context="first"), event(context="second"))
        assert [json.loads(process.stdout.readline())["body"] for _ in range(2)] == ["first", "second"]
        path.write_text("[]\n" + json.dumps(event(context="third")) + "\n")
        assert json.loads(process.stdout.readline())["body"] == "third"
        time.sleep(0.2)  # until the event is counted
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 130
        assert (
            process.stderr.read()
            == f"{path}, line 1: must be a JSON object, got []\nevents: 3, invalid lines: 1\n"
        )


@pytest.mark.heavy
def test_follow_serves_measurements(tmp_path):
    """A scrape of the printed address returns the values of the latest event."""
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
    """Return whether a page contains a text within a few seconds."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        with urllib.request.urlopen(address) as page:
            if text in page.read().decode():
                return True
        time.sleep(0.02)
    return False


def test_a_port_in_use_is_an_error(tmp_path):
    """The error names the port and the reason; exit code 1."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run("follow", write(tmp_path / "run.jsonl"), "--serve", port)
    assert done.exit_code == 1
    assert f"port {port}: {os.strerror(98)}" in done.stderr


def test_a_file_that_cannot_be_followed_is_an_error(tmp_path):
    """For example, a compressed one."""
    path = tmp_path / "run.jsonl.gz"
    path.write_bytes(gzip.compress(SAMPLE.read_bytes()))
    done = run("follow", path)
    assert done.exit_code == 1
    assert "is compressed with gzip and cannot be followed" in done.stderr


@pytest.mark.parametrize(
    "key", ["timestamp_ns", "allocator_allocated_bytes", "device_used_bytes", "rank", "sampling_interval_ms"]
)
@pytest.mark.parametrize(
    "number",
    [2**63, 2**70, 10**400, -(10**400), -(2**70)],
    ids=["2^63", "2^70", "10^400", "-10^400", "-2^70"],
)
def test_an_absurd_integer_does_not_end_a_command(tmp_path: Path, key: str, number: int):
    """Its event is counted, the figures of the others are shown, and the output is strict JSON."""
    good = [event(timestamp_ns=1_000_000_000 + second * 10**9, rank=0) for second in range(3)]
    for order in (lambda one: [*good, one], lambda one: [one, *good]):
        path = write(tmp_path / "events.jsonl", *order({**good[0], key: number}))
        shown = run("summary", path, width=1000)
        assert shown.exit_code == 0, shown.output
        assert "4 events" in shown.stdout
        if key != "rank":
            assert next(row for row in rows(shown.stdout) if row[0] == "session-1")[-2:] == ["4", "2 s"]
        printed = run("project", path).stdout.splitlines()
        assert len([json.loads(line, parse_constant=pytest.fail) for line in printed]) == 4


def test_a_number_that_json_does_not_have_is_null(tmp_path: Path):
    """NaN and infinities, which Python's json module reads and writes, and lone surrogates."""
    odd = {**event(), "metadata": {"a": float("nan"), "b": float("-inf"), "c": "\ud800"}}
    (line,) = run("project", write(tmp_path / "events.jsonl", odd)).stdout.splitlines()
    attributes = json.loads(line, parse_constant=pytest.fail)["attributes"]
    assert (attributes["a"], attributes["b"], attributes["c"]) == (None, None, "\\ud800")


def test_a_run_on_a_gpu_is_summarized():
    """The events of `GpuMonitor` and `ResourceEvents` on an H100: two sessions, and memory in steps."""
    shown = run("summary", SAMPLE.with_name("gpu_h100_run.jsonl"), width=100)
    assert shown.exit_code == 0
    found = [row for row in rows(shown.stdout) if row[0].startswith(("7bac2f40", "f6bb295c"))]
    assert [row[1:] for row in found[:2]] == [["completed", kind, "21", "17.3 s"] for kind in ("cpu", "cuda")]
    assert found[2][4:] == ["17.3 s", "536 MB", "749 MB", "▁▁████████████"]
    assert found[3][4:] == ["17.3 s", "503 MB", "14.3 GB", "▁▁▂▄▄▄▅▆▆▇████"]
