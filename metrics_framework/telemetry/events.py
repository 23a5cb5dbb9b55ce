"""Writes resource readings as telemetry events of schema 4, which Stormlog loads."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self
from uuid import uuid4

from metrics_framework.clock import SYSTEM_CLOCK, Clock
from metrics_framework.errors import ClosedError, InvalidInputError, OutputError, reason_of
from metrics_framework.log import Isolation
from metrics_framework.protocols import ResourceMonitor
from metrics_framework.runtime.background import Background
from metrics_framework.validation import check_seconds

SCHEMA_VERSION = 4

_RANK_VARIABLES = (
    ("RANK", "LOCAL_RANK", "WORLD_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS"),
)
_JOB_VARIABLES = ("TORCHELASTIC_RUN_ID", "SLURM_JOB_ID")

_COUNTER_CAPABILITIES = {
    "allocator_allocated_bytes": "supports_allocator_allocated",
    "allocator_reserved_bytes": "supports_allocator_reserved",
    "allocator_active_bytes": "supports_allocator_active",
    "allocator_inactive_bytes": "supports_allocator_inactive",
    "device_used_bytes": "supports_device_used",
    "device_free_bytes": "supports_device_free",
    "device_total_bytes": "supports_device_total",
}
_UNSUPPORTED_CAPABILITIES = (
    "supports_native_allocator_history",
    "supports_fragmentation_analysis",
    "supports_allocator_attribution",
    "supports_bounded_profiling",
)


@dataclass(frozen=True)
class TelemetryIdentity:
    """The source of events: one session of one process, which may be one rank of a job.

    Attributes:
        session_id: The name of the session; a new UUID by default.
        host: The host name.
        pid: The process id.
        job_id: The job, if any.
        rank: The number of this process in the job, from 0.
        local_rank: The number of this process on its host, from 0.
        world_size: The number of processes of the job.

    Raises:
        InvalidInputError: If a rank is not less than ``world_size``, or a name is empty.
    """

    session_id: str = field(default_factory=lambda: str(uuid4()))
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    job_id: str | None = None
    rank: int = 0
    local_rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        """Validate the fields as Stormlog does."""
        for name in ("session_id", "host"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                raise InvalidInputError(f"{name}={value!r} is not a non-empty string")
        for name in ("rank", "local_rank"):
            value = getattr(self, name)
            if value.__class__ is not int or not 0 <= value < self.world_size:
                raise InvalidInputError(f"{name}={value!r} is not an integer from 0 to {self.world_size - 1}")

    @classmethod
    def find(cls, environ: Mapping[str, str] = os.environ) -> TelemetryIdentity:
        """Return the identity of this process, with the rank and job of torchrun, Open MPI or Slurm.

        Raises:
            InvalidInputError: If their environment variables are not consistent integers.
        """
        job_id = next((value for name in _JOB_VARIABLES if (value := environ.get(name, "").strip())), None)
        for rank, local_rank, world_size in _RANK_VARIABLES:
            if rank in environ and world_size in environ:
                local = environ.get(local_rank, "").strip() or environ[rank]
                given = (environ[rank], local, environ[world_size])
                try:
                    numbers = [int(value) for value in given]
                except ValueError as error:
                    raise InvalidInputError(
                        f"{rank}, {local_rank} and {world_size} are not all integers: {given}"
                    ) from error
                return cls(job_id=job_id, rank=numbers[0], local_rank=numbers[1], world_size=numbers[2])
        return cls(job_id=job_id)

    def event(
        self,
        event_type: str,
        timestamp_ns: int,
        *,
        collector: str,
        backend: str,
        device_id: int = -1,
        counters: Mapping[str, int | None],
        change: int | None = None,
        interval_ms: int = 0,
        context: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return an event of schema 4.

        Args:
            event_type: Such as ``sample``, ``start`` or ``stop``.
            timestamp_ns: The time, in nanoseconds since 1970.
            collector: The program that measured.
            backend: The kind of memory, such as ``cpu`` or ``cuda``.
            device_id: The device; -1 for the CPU.
            counters: Bytes by key, such as ``allocator_allocated_bytes`` and ``device_used_bytes``. Missing
                keys are values that cannot be measured.
            change: The change of allocated memory, in bytes.
            interval_ms: The sampling interval.
            context: A message for people.
            metadata: Any other JSON values.
        """
        known = {name: counters.get(name) for name in _COUNTER_CAPABILITIES}
        capabilities: dict[str, Any] = {
            "backend": backend,
            "telemetry_collector": collector,
            "sampling_source": "metrics_framework",
        }
        capabilities |= {_COUNTER_CAPABILITIES[name]: value is not None for name, value in known.items()}
        capabilities |= dict.fromkeys(_UNSUPPORTED_CAPABILITIES, False)
        return {
            "schema_version": SCHEMA_VERSION,
            "session_id": self.session_id,
            "timestamp_ns": timestamp_ns,
            "event_type": event_type,
            "collector": collector,
            "sampling_interval_ms": interval_ms,
            "pid": self.pid,
            "host": self.host,
            "job_id": self.job_id,
            "rank": self.rank,
            "local_rank": self.local_rank,
            "world_size": self.world_size,
            "device_id": device_id,
            **known,
            "allocator_change_bytes": change,
            "context": context,
            "metadata": {"backend": backend, **(metadata or {}), "memory_capabilities": capabilities},
        }


class EventSource(Protocol):
    """A source of events. `TelemetryLog` reads it."""

    def events(self, event_type: str, *, interval_ms: int = 0) -> Sequence[dict[str, Any]]:
        """Take a reading, and return one event for each device."""
        ...


class ResourceEvents:
    """Events of the CPU from a `ResourceMonitor`: the process is the allocator, the machine is the device.

    Allocated memory is the resident memory of the process. Used, free and total memory are the used,
    available and total memory of the machine. The CPU reading is in the metadata, as ``cpu.percent`` etc.

    Args:
        monitor: Takes the readings.
        identity: The source of the events.
        clock: Provides the times of events.
    """

    collector = "metrics_framework.cpu_monitor"

    def __init__(
        self,
        monitor: ResourceMonitor,
        identity: TelemetryIdentity | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._monitor = monitor
        self._identity = identity or TelemetryIdentity.find()
        self._clock = clock
        self._before: int | None = None

    def events(self, event_type: str, *, interval_ms: int = 0) -> list[dict[str, Any]]:
        """Take a reading; see `EventSource.events`."""
        memory = self._monitor.get_memory_usage()
        allocated = _bytes(memory, "process_rss")
        change = (
            None if allocated is None else allocated - (allocated if self._before is None else self._before)
        )
        self._before = allocated
        total = _bytes(memory, "total")
        counters = {
            "allocator_allocated_bytes": allocated,
            "device_used_bytes": _at_most(_bytes(memory, "used"), total),
            "device_free_bytes": _at_most(_bytes(memory, "available"), total),
            "device_total_bytes": total,
        }
        return [
            self._identity.event(
                event_type,
                self._clock.time_ns(),
                collector=self.collector,
                backend="cpu",
                counters=counters,
                change=change,
                interval_ms=interval_ms,
                metadata={f"cpu.{key}": value for key, value in self._monitor.get_cpu_usage().items()},
            )
        ]


def _bytes(reading: Mapping[str, float], key: str) -> int | None:
    return int(reading[key]) if key in reading else None


def _at_most(value: int | None, limit: int | None) -> int | None:
    return value if value is None or limit is None else min(value, limit)


class TelemetryLog:
    """Appends the events of sources to a file of telemetry events, which Stormlog loads.

    As a context manager, it writes a ``start`` event of each source at the beginning and a ``stop`` event at
    the end, by which Stormlog recognizes a completed session. Each line is written at once, by one system
    call.

    Args:
        path: The file. Its folder is created if necessary.
        sources: The sources. If one fails, the error is logged and the others are written.

    Raises:
        OutputError: If the file cannot be written.

    Example:
        >>> import tempfile
        >>> from metrics_framework import MetricsSystem
        >>> from metrics_framework.telemetry import ResourceEvents, read_telemetry
        >>> metrics = MetricsSystem()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with TelemetryLog(f"{folder}/run.jsonl", [ResourceEvents(metrics.resource_monitor)]) as log:
        ...         log.sample()
        ...     [event["event_type"] for event in read_telemetry(f"{folder}/run.jsonl")]
        ['start', 'sample', 'stop']
    """

    def __init__(self, path: str | Path, sources: Iterable[EventSource]) -> None:
        self._path = Path(path)
        self._sources = list(sources)
        self._isolation = Isolation()
        self._background: Background | None = None
        self._interval_ms = 0
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a+b", buffering=0)
            self._line_start = self._end_of_partial_line()
        except (OSError, ValueError) as error:
            raise self._cannot_write(error) from error

    def __enter__(self) -> Self:
        self.sample("start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop_sampling()
        try:
            self.sample("stop")
        finally:
            self.close()

    def sample(self, event_type: str = "sample") -> None:
        """Take one reading of every source, and write its events.

        Raises:
            OutputError: If the file cannot be written.
            ClosedError: After `close`.
        """
        for source in self._sources:
            read = partial(source.events, event_type, interval_ms=self._interval_ms)
            events = self._isolation.call("telemetry not read", read, source=type(source).__name__)
            for event in events or ():
                self.write(event)

    def write(self, event: Mapping[str, Any]) -> None:
        """Write one event.

        Raises:
            InvalidInputError: If it cannot be converted to JSON.
            OutputError: If the file cannot be written.
            ClosedError: After `close`.
        """
        if self._file.closed:
            raise ClosedError(f"the telemetry log {str(self._path)!r} is closed: create a new one")
        try:
            line = json.dumps(event, sort_keys=True, allow_nan=False).encode() + b"\n"
        except (TypeError, ValueError) as error:
            raise InvalidInputError(f"the event {event!r} cannot be converted to JSON: {error}") from error
        try:
            written = self._file.write(self._line_start + line)
        except OSError as error:
            raise self._cannot_write(error) from error
        self._line_start = b"" if written == len(self._line_start) + len(line) else b"\n"
        if self._line_start:
            raise OutputError(f"cannot write {str(self._path)!r}: the disk took only a part of the line")

    def start_sampling(self, interval: float) -> None:
        """Sample in a background thread, now and every ``interval`` seconds, but not in a forked child.

        Raises:
            InvalidInputError: If ``interval`` is not a positive number of seconds.
        """
        check_seconds("interval", interval)
        self.stop_sampling()
        self._interval_ms = round(interval * 1e3)
        # Not in a forked child, because the events contain the id of this process.
        self._background = Background(self.sample, interval, "telemetry sampling", in_child=False)

    def stop_sampling(self) -> None:
        """Stop background sampling. A second call does nothing."""
        background, self._background = self._background, None
        if background is not None:
            background.stop()

    def close(self) -> None:
        """Close the file. A second call does nothing."""
        self.stop_sampling()
        self._file.close()

    def _end_of_partial_line(self) -> bytes:
        """Return a newline if the file ends in a partial line, as after a killed writer."""
        if not self._file.seek(0, os.SEEK_END):
            return b""
        self._file.seek(-1, os.SEEK_END)
        return b"" if self._file.read(1) == b"\n" else b"\n"

    def _cannot_write(self, error: Exception) -> OutputError:
        return OutputError(f"cannot write {str(self._path)!r}: {reason_of(error)}")
