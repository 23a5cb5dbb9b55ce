"""NVIDIA GPUs: memory, utilisation, power and temperature, read with NVML. It needs the extra ``gpu``."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from metrics_framework.clock import SYSTEM_CLOCK, Clock
from metrics_framework.errors import MissingExtraError
from metrics_framework.log import log_event
from metrics_framework.protocols import MetricCollector
from metrics_framework.runtime.background import Background
from metrics_framework.telemetry import TelemetryIdentity, TelemetryRecorder, project_telemetry_mapping
from metrics_framework.validation import check_seconds

try:
    import pynvml
except ModuleNotFoundError as error:
    raise MissingExtraError("the GPU monitor", "gpu") from error

__all__ = ["GpuMonitor", "GpuReading"]

T = TypeVar("T")

COLLECTOR = "metrics_framework.cuda_monitor"
"""Who measured, in an event; the name of the backend in it tells what."""


@dataclass(frozen=True)
class GpuReading:
    """What one GPU says of itself; ``None`` where it does not tell.

    Attributes:
        index: Its number, from 0.
        name: Its model.
        memory_used: Bytes in use.
        memory_free: Bytes that are free.
        memory_total: Bytes that it has.
        utilization: The share of the last moments in which it worked, from 0 to 1.
        power_watts: What it draws.
        temperature_celsius: How hot it is.
    """

    index: int
    name: str | None = None
    memory_used: int | None = None
    memory_free: int | None = None
    memory_total: int | None = None
    utilization: float | None = None
    power_watts: float | None = None
    temperature_celsius: float | None = None


class GpuMonitor:
    """Reads the machine's NVIDIA GPUs, as gauges and as telemetry events.

    Without a GPU, or without its driver, there are no readings: one line of the log says why, once.

    Args:
        collector: Where `sample` and background monitoring record; without one they do nothing. The gauges
            are those of `TelemetryRecorder`.
        identity: Who reads, for events.
        clock: Where the time of an event comes from.

    Attributes:
        problem: Why there are no readings; ``None`` where there are some.

    Raises:
        MissingExtraError: On import, if nvidia-ml-py is not installed.
    """

    def __init__(
        self,
        collector: MetricCollector | None = None,
        identity: TelemetryIdentity | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._recorder = None if collector is None else TelemetryRecorder(collector)
        self._identity = identity or TelemetryIdentity.find()
        self._clock = clock
        self._background: Background | None = None
        self._begin()
        if self.problem is not None:
            log_event("warning", "no GPU is monitored", reason=self.problem)

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._handles, self.problem = _find_devices()

    def readings(self) -> list[GpuReading]:
        """Read every GPU once; none where there is none."""
        if self._pid != os.getpid():  # NVML has to be started anew in a forked child
            self._begin()
        return [_read(index, handle) for index, handle in enumerate(self._handles)]

    def events(self, event_type: str, *, interval_ms: int = 0) -> list[dict[str, Any]]:
        """Read every GPU once, as events of schema 4; see `metrics_framework.telemetry.EventSource`."""
        return [
            self._identity.event(
                event_type,
                self._clock.time_ns(),
                collector=COLLECTOR,
                backend="cuda",
                device_id=reading.index,
                counters={
                    "device_used_bytes": reading.memory_used,
                    "device_free_bytes": reading.memory_free,
                    "device_total_bytes": reading.memory_total,
                },
                interval_ms=interval_ms,
                metadata={
                    "gpu.name": reading.name,
                    "gpu.utilization": reading.utilization,
                    "gpu.power_watts": reading.power_watts,
                    "gpu.temperature_celsius": reading.temperature_celsius,
                },
            )
            for reading in self.readings()
        ]

    def sample(self) -> None:
        """Read and record once, as background monitoring does at every interval."""
        if self._recorder is not None:
            self._recorder.record_all(project_telemetry_mapping(event) for event in self.events("sample"))

    def start_monitoring(self, interval: float = 60.0) -> None:
        """Read and record in the background, until `stop_monitoring` or until nothing refers to the monitor.

        Raises:
            InvalidInputError: If ``interval`` is not a positive number of seconds.
        """
        check_seconds("interval", interval)
        self.stop_monitoring()
        self._background = Background(self.sample, interval, "GPU reading")

    def stop_monitoring(self) -> None:
        """Stop reading in the background; a second call does nothing."""
        background, self._background = self._background, None
        if background is not None:
            background.stop()


def _find_devices() -> tuple[list[Any], str | None]:
    """Return NVML's handles of the devices, or why there are none."""
    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError as error:
        return [], str(error)
    return handles, None if handles else "NVML finds no device"


def _read(index: int, handle: Any) -> GpuReading:
    memory = _told(lambda: pynvml.nvmlDeviceGetMemoryInfo(handle))
    percent = _told(lambda: int(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu))
    milliwatts = _told(lambda: int(pynvml.nvmlDeviceGetPowerUsage(handle)))
    return GpuReading(
        index,
        name=_told(lambda: pynvml.nvmlDeviceGetName(handle)),
        memory_used=None if memory is None else int(memory.used),
        memory_free=None if memory is None else int(memory.free),
        memory_total=None if memory is None else int(memory.total),
        utilization=None if percent is None else percent / 100,
        power_watts=None if milliwatts is None else milliwatts / 1e3,
        temperature_celsius=_told(
            lambda: float(pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU))
        ),
    )


def _told(ask: Callable[[], T]) -> T | None:
    """Return what NVML answers; ``None`` where this device does not support it, or is lost."""
    try:
        return ask()
    except pynvml.NVMLError:
        return None
