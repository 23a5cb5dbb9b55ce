"""Memory, utilization, power and temperature of NVIDIA GPUs, read with NVML. Needs the extra ``gpu``."""

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
"""The collector of the events."""


@dataclass(frozen=True)
class GpuReading:
    """One reading of a GPU. A value is ``None`` if the device does not report it.

    Attributes:
        index: The number of the device, from 0.
        name: The model.
        memory_used: Used memory in bytes, as `nvidia-smi` shows it: without the part that the driver
            reserves. Drivers older than 510 count the reserved part as used.
        memory_free: Free memory in bytes.
        memory_total: All memory in bytes: used, free and reserved.
        utilization: The share of the last sampling period in which the GPU was busy, from 0 to 1.
        power_watts: The power draw.
        temperature_celsius: The temperature.
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

    Without a GPU or its driver there are no readings, and the reason is logged once.

    Args:
        collector: Receives the gauges of `TelemetryRecorder` from `sample` and background monitoring. Without
            a collector they do nothing.
        identity: The identity in events.
        clock: The source of the time of events.

    Attributes:
        problem: Why there are no readings, or ``None``.

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
        """Read every GPU once."""
        if self._pid != os.getpid():  # a forked child must initialize NVML again
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
        """Read and record once, as background monitoring does at each interval."""
        if self._recorder is not None:
            self._recorder.record_all(project_telemetry_mapping(event) for event in self.events("sample"))

    def start_monitoring(self, interval: float = 60.0) -> None:
        """Read and record in the background, until `stop_monitoring`.

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
    """Return the NVML handles of the devices, and the reason if there are none."""
    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError as error:
        return [], str(error)
    return handles, None if handles else "NVML finds no device"


def _read(index: int, handle: Any) -> GpuReading:
    memory = _query(lambda: _memory(handle))
    percent = _query(lambda: int(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu))
    milliwatts = _query(lambda: int(pynvml.nvmlDeviceGetPowerUsage(handle)))
    return GpuReading(
        index,
        name=_query(lambda: pynvml.nvmlDeviceGetName(handle)),
        memory_used=None if memory is None else int(memory.used),
        memory_free=None if memory is None else int(memory.free),
        memory_total=None if memory is None else int(memory.total),
        utilization=None if percent is None else percent / 100,
        power_watts=None if milliwatts is None else milliwatts / 1e3,
        temperature_celsius=_query(
            lambda: float(pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU))
        ),
    )


def _memory(handle: Any) -> Any:
    try:
        return pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
    except pynvml.NVMLError:  # an older driver has only the first version
        return pynvml.nvmlDeviceGetMemoryInfo(handle)


def _query(query: Callable[[], T]) -> T | None:
    """Return the result of NVML, or ``None`` if the device does not support the query or is lost."""
    try:
        return query()
    except pynvml.NVMLError:
        return None
