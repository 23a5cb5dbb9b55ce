"""Readings are written as telemetry events that Stormlog loads."""

from __future__ import annotations

import errno
import json
import logging
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from metrics_adapters.null import NullMonitor
from metrics_adapters.resources import PsutilMonitor
from metrics_framework.clock import ManualClock
from metrics_framework.errors import ClosedError, InvalidInputError, OutputError
from metrics_framework.telemetry import (
    ResourceEvents,
    TelemetryIdentity,
    TelemetryLog,
    read_projected_telemetry,
    read_telemetry,
)
from tests.metrics_framework.telemetry.peers import later_stormlog

IDENTITY = TelemetryIdentity("session-1", "node-1", 7, "job-1", 1, 0, 2)


class Monitor(NullMonitor):
    """Returns the readings that the test sets."""

    def __init__(self, **memory: float) -> None:
        super().__init__()
        self.memory = memory

    def get_memory_usage(self) -> dict[str, float]:
        """Return the memory reading."""
        return self.memory

    def get_cpu_usage(self) -> dict[str, float]:
        """Return a small reading."""
        return {"percent": 12.5}


class Broken:
    """A source that fails."""

    def events(self, event_type: str, *, interval_ms: int = 0) -> list[dict[str, Any]]:
        """Fail."""
        raise OSError("no reading")


def test_a_reading_is_an_event_of_schema_4(clock: ManualClock):
    """The process is the allocator, the machine is the device, and unknown values are null."""
    monitor = Monitor(process_rss=100.0, used=600, available=1_200, total=1_000)
    source = ResourceEvents(monitor, IDENTITY, clock)
    [first] = source.events("sample", interval_ms=50)
    capabilities = first["metadata"].pop("memory_capabilities")
    assert first == {
        "schema_version": 4,
        "session_id": "session-1",
        "timestamp_ns": clock.time_ns(),
        "event_type": "sample",
        "collector": "metrics_framework.cpu_monitor",
        "sampling_interval_ms": 50,
        "pid": 7,
        "host": "node-1",
        "job_id": "job-1",
        "rank": 1,
        "local_rank": 0,
        "world_size": 2,
        "device_id": -1,
        "allocator_allocated_bytes": 100,
        "allocator_reserved_bytes": None,
        "allocator_active_bytes": None,
        "allocator_inactive_bytes": None,
        "allocator_change_bytes": 0,
        "device_used_bytes": 600,
        "device_free_bytes": 1_000,  # at most the total
        "device_total_bytes": 1_000,
        "context": None,
        "metadata": {"backend": "cpu", "cpu.percent": 12.5},
    }
    assert {name for name, value in capabilities.items() if value is True} == {
        "supports_allocator_allocated",
        "supports_device_used",
        "supports_device_free",
        "supports_device_total",
    }
    monitor.memory["process_rss"] = 80
    assert source.events("sample")[0]["allocator_change_bytes"] == -20


def test_a_monitor_without_readings_writes_nulls(clock: ManualClock):
    """Missing values are not invented."""
    [event] = ResourceEvents(Monitor(), IDENTITY, clock).events("sample")
    assert [value for name, value in event.items() if name.endswith("_bytes")] == [None] * 8


def test_a_session_has_a_start_and_a_stop(tmp_path, clock):
    """The samples are between them, in order, and the file can be read back."""
    path = tmp_path / "new" / "folder" / "run.jsonl"
    with TelemetryLog(path, [ResourceEvents(Monitor(process_rss=1), IDENTITY, clock)]) as log:
        for _ in range(2):
            clock.advance(1)
            log.sample()
    records = list(read_projected_telemetry(path))
    assert [record.event_type for record in records] == ["start", "sample", "sample", "stop"]
    assert {record.source_kind for record in records} == {"cpu"}
    assert records[1].timestamp_ns - records[0].timestamp_ns == 1_000_000_000


def test_after_a_partial_line_writing_continues_on_a_new_line(tmp_path, clock):
    """No event is lost after another writer was killed."""
    path = tmp_path / "run.jsonl"
    path.write_bytes(b'{"half')
    flaws: list[object] = []
    with TelemetryLog(path, [ResourceEvents(Monitor(), IDENTITY, clock)]):
        pass
    with TelemetryLog(path, [ResourceEvents(Monitor(), IDENTITY, clock)]):
        pass
    assert len(list(read_telemetry(path, flaws.append))) == 4
    assert len(flaws) == 1


def test_a_source_that_fails_does_not_affect_others(tmp_path, clock, caplog):
    """The error is logged once."""
    path = tmp_path / "run.jsonl"
    with (
        caplog.at_level(logging.ERROR, logger="metrics_framework"),
        TelemetryLog(path, [Broken(), ResourceEvents(Monitor(), IDENTITY, clock)]) as log,
    ):
        log.sample()
    assert len(list(read_telemetry(path))) == 3
    assert len([line for line in caplog.text.splitlines() if "no reading" in line]) == 1


def test_an_event_that_is_not_json_is_an_error(tmp_path):
    """Nothing of it is written."""
    path = tmp_path / "run.jsonl"
    log = TelemetryLog(path, [])
    for value in ({1}, float("nan")):
        with pytest.raises(InvalidInputError, match="cannot be converted to JSON"):
            log.write({"a": value})
    log.close()
    assert path.read_bytes() == b""


def test_a_closed_log_rejects_events(tmp_path):
    """The error says that it is closed."""
    log = TelemetryLog(tmp_path / "run.jsonl", [])
    log.close()
    log.close()
    with pytest.raises(ClosedError, match="is closed"):
        log.write({})


def test_a_file_that_cannot_be_written_is_an_error(tmp_path):
    """The error names the path."""
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot write '.*file/run.jsonl'"):
        TelemetryLog(tmp_path / "file" / "run.jsonl", [])
    with pytest.raises(OutputError, match="cannot write"):
        TelemetryLog("a\0b", [])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_is_an_error():
    """No event is lost silently."""
    log = TelemetryLog("/dev/full", [])
    with pytest.raises(OutputError) as caught:
        log.write({})
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOSPC
    log.close()


def test_samples_are_taken_in_the_background(tmp_path):
    """They are taken at an interval, which the events contain, until sampling is stopped."""
    path = tmp_path / "run.jsonl"
    enough = threading.Event()

    class Counting(ResourceEvents):
        count = 0

        def events(self, event_type: str, *, interval_ms: int = 0) -> list[dict[str, Any]]:
            self.count += 1
            if self.count == 4:
                enough.set()
            return super().events(event_type, interval_ms=interval_ms)

    with TelemetryLog(path, [Counting(PsutilMonitor(), IDENTITY)]) as log:
        with pytest.raises(InvalidInputError, match="positive number of seconds"):
            log.start_sampling(0)
        log.start_sampling(0.005)
        assert enough.wait(10)
        log.stop_sampling()
    events = list(read_telemetry(path))
    assert [event["event_type"] for event in events] == ["start", *["sample"] * (len(events) - 2), "stop"]
    assert {event["sampling_interval_ms"] for event in events[1:]} == {5}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, (None, 0, 0, 1)),
        ({"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "TORCHELASTIC_RUN_ID": "j"}, ("j", 3, 1, 4)),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_JOB_ID": " 9 "}, ("9", 1, 1, 2)),
        ({"RANK": "1", "OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"}, (None, 0, 0, 1)),
    ],
)
def test_rank_and_job_are_found(environ, expected):
    """They are found in the variables of torchrun, Open MPI and Slurm."""
    found = TelemetryIdentity.find(environ)
    assert (found.job_id, found.rank, found.local_rank, found.world_size) == expected


@pytest.mark.parametrize(
    "changes",
    [{"rank": 2}, {"rank": -1}, {"rank": True}, {"local_rank": 5}, {"session_id": " "}, {"host": ""}],
)
def test_an_invalid_identity_is_an_error(changes):
    """Every reader of the events would reject it."""
    with pytest.raises(InvalidInputError):
        replace(IDENTITY, **changes)


def test_variables_that_are_not_integers_are_an_error():
    """The message names them."""
    with pytest.raises(InvalidInputError, match="RANK, LOCAL_RANK and WORLD_SIZE are not all integers"):
        TelemetryIdentity.find({"RANK": "x", "WORLD_SIZE": "2"})


LOAD = """
import json, sys
from stormlog.telemetry import load_telemetry_sessions, telemetry_event_to_dict, validate_telemetry_record
sessions = load_telemetry_sessions(sys.argv[1], permissive_legacy=False)
for session in sessions:
    for event in session.events:
        validate_telemetry_record(telemetry_event_to_dict(event))
print(json.dumps([{
    "session": session.summary.session_id,
    "status": session.summary.status,
    "rank": session.summary.rank,
    "ids": [record.record_id for record in session.telemetry_records()],
    "plain": [telemetry_event_to_dict(event) for event in session.events],
} for session in sessions]))
"""


@pytest.mark.heavy
def test_stormlog_loads_our_events(tmp_path):
    """It loads a completed session without changes, with the same record ids."""
    path = tmp_path / "run.jsonl"
    with TelemetryLog(path, [ResourceEvents(PsutilMonitor(), IDENTITY)]) as log:
        log.sample()
    [session] = json.loads(later_stormlog(LOAD, path))
    assert (session["session"], session["status"], session["rank"]) == ("session-1", "completed", 1)
    assert session["plain"] == list(read_telemetry(path))
    assert session["ids"] == [record.record_id for record in read_projected_telemetry(path)]
