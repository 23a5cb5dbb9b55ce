"""The GPU monitor on a machine without a GPU, and with a fake NVML library in C."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from metrics_adapters.gpu import GpuMonitor, GpuReading
from metrics_framework import MetricsSystem
from metrics_framework.clock import ManualClock
from metrics_framework.errors import InvalidInputError
from metrics_framework.plugins import load_adapter
from metrics_framework.telemetry import TelemetryIdentity, TelemetryLog, read_telemetry
from tests.metrics_framework.telemetry.peers import later_stormlog

NVML = r"""
#include <string.h>
#define RESERVED 500000000
typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned int version; unsigned long long total, reserved, free, used; } memory_v2_t;
typedef struct { unsigned int gpu, memory; } rates_t;
int nvmlInitWithFlags(unsigned int flags) { return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned int *count) { *count = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **device) {
    *device = (void *)(long)(index + 1);
    return 0;
}
int nvmlDeviceGetName(void *device, char *name, unsigned int length) {
    strncpy(name, "Test GPU", length);
    return 0;
}
int nvmlDeviceGetMemoryInfo(void *device, memory_t *memory) {
    memory->total = 80000000000;
    memory->used = RESERVED + 1000 * (long)device;
    memory->free = memory->total - memory->used;
    return 0;
}
#ifndef OLD_DRIVER
int nvmlDeviceGetMemoryInfo_v2(void *device, memory_v2_t *memory) {
    if (memory->version != (sizeof(*memory) | 2 << 24))
        return 25; /* argument version mismatch */
    memory->total = 80000000000;
    memory->reserved = RESERVED;
    memory->used = 1000 * (long)device;
    memory->free = memory->total - memory->reserved - memory->used;
    return 0;
}
#endif
int nvmlDeviceGetUtilizationRates(void *device, rates_t *rates) {
    rates->gpu = 37;
    rates->memory = 5;
    return 0;
}
int nvmlDeviceGetPowerUsage(void *device, unsigned int *milliwatts) {
    *milliwatts = 250500;
    return device == (void *)2 ? 3 /* not supported */ : 0;
}
int nvmlDeviceGetTemperature(void *device, int sensor, unsigned int *celsius) { *celsius = 41; return 0; }
"""
"""Two devices behind the functions of NVML, of which the second one does not tell its power."""


def has_gpu() -> bool:
    """Return whether this machine has a GPU."""
    return not GpuMonitor().problem


without_gpu = pytest.mark.skipif(has_gpu(), reason="this machine has a GPU")


@without_gpu
def test_a_machine_without_gpu_is_logged_once(caplog):
    """There are no readings, events or gauges."""
    metrics = MetricsSystem()
    with caplog.at_level(logging.DEBUG, logger="metrics_framework"):
        monitor = GpuMonitor(metrics.collector)
        for _ in range(3):
            monitor.sample()
    assert monitor.problem
    assert len(caplog.records) == 1
    assert "no GPU is monitored" in caplog.text
    assert monitor.problem in caplog.text
    assert monitor.readings() == []
    assert monitor.events("sample") == []
    assert metrics.aggregator.get_metrics_by_tag({}) == []


@without_gpu
def test_background_monitoring_without_gpu_does_nothing():
    """It can be started and stopped."""
    monitor = GpuMonitor(MetricsSystem().collector)
    monitor.start_monitoring(0.01)
    monitor.stop_monitoring()
    monitor.stop_monitoring()
    with pytest.raises(InvalidInputError, match="positive number of seconds"):
        monitor.start_monitoring(0)


def test_the_monitor_is_an_adapter_by_name():
    """It is in the table of adapters."""
    assert load_adapter("gpu") is GpuMonitor


@pytest.mark.slow
def test_without_the_extra_the_error_names_it():
    """The import error names the extra."""
    code = "import sys; sys.modules['pynvml'] = None\nimport metrics_adapters.gpu"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'metrics-framework[gpu]'" in done.stderr.splitlines()[-1]


def compile_nvml(folder: Path, *options: str) -> Path:
    """Compile a C library that imitates NVML into a folder, and return the folder."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("there is no C compiler")
    (folder / "nvml.c").write_text(NVML)
    library = folder / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", *options, "-o", library, folder / "nvml.c"], check=True)
    return folder


@pytest.fixture(scope="module")
def nvml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a C library that imitates NVML."""
    return compile_nvml(tmp_path_factory.mktemp("nvml"))


def with_nvml(folder: Path, program: str, *arguments: str | Path) -> str:
    """Run a program with that library, and return its output."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        env={"LD_LIBRARY_PATH": str(folder), "PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.heavy
def test_every_device_is_read(nvml):
    """Memory in bytes, a share, watts and degrees. Values that a device does not report are missing."""
    printed = with_nvml(nvml, READ)
    assert eval(printed) == [
        GpuReading(0, "Test GPU", 1000, 79_499_999_000, 80_000_000_000, 0.37, 250.5, 41.0),
        GpuReading(1, "Test GPU", 2000, 79_499_998_000, 80_000_000_000, 0.37, None, 41.0),
    ]


@pytest.mark.heavy
def test_memory_is_read_from_a_driver_that_does_not_tell_the_reserved_part(tmp_path):
    """The first version of the query counts the reserved part as used."""
    readings = eval(with_nvml(compile_nvml(tmp_path, "-DOLD_DRIVER"), READ))
    assert [reading.memory_used for reading in readings] == [500_001_000, 500_002_000]


@pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="this machine has no GPU")
def test_memory_is_that_of_nvidia_smi():
    """Used and total memory are those of `nvidia-smi`, which rounds to MiB."""
    query = ["nvidia-smi", "--query-gpu=memory.used,memory.total", "--format=csv,noheader,nounits"]
    for _ in range(5):  # another process may allocate between the two readings
        lines = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
        readings = GpuMonitor().readings()
        shown = [tuple(int(number) for number in line.split(",")) for line in lines]
        read = [(round(one.memory_used / 2**20), round(one.memory_total / 2**20)) for one in readings]
        if all(abs(a - b) <= 1 for pair in zip(shown, read, strict=True) for a, b in zip(*pair, strict=True)):
            return
    raise AssertionError(f"nvidia-smi shows {shown} MiB, the monitor {read} MiB")


READ = "from metrics_adapters.gpu import *; print(GpuMonitor().readings())"

RECORD = """
from metrics_adapters.gpu import GpuMonitor
from metrics_framework import MetricsSystem
from metrics_framework.telemetry import TelemetryIdentity
metrics = MetricsSystem()
GpuMonitor(metrics.collector, TelemetryIdentity("s", "node", 1)).sample()
print(metrics.aggregator.export_metrics("prometheus"))
"""


@pytest.mark.heavy
def test_readings_are_gauges_by_device(nvml):
    """They are recorded as telemetry, and exposed to Prometheus."""
    text = with_nvml(nvml, RECORD)
    tags = 'device="0",host="node",rank="0",source_kind="cuda"'
    assert f"telemetry_memory_device_used_bytes{{{tags}}} 1000" in text
    assert f"telemetry_gpu_utilization{{{tags}}} 0.37" in text
    assert f"telemetry_gpu_power_watts{{{tags}}} 250.5" in text
    assert 'telemetry_gpu_power_watts{device="1"' not in text
    assert 'telemetry_gpu_temperature_celsius{device="1"' in text


FORK = """
import os
from metrics_adapters.gpu import GpuMonitor
monitor = GpuMonitor()
child = os.fork()
if not child:
    os._exit(len(monitor.readings()))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.heavy
def test_a_forked_child_reads_too(nvml):
    """The child initializes NVML again."""
    assert with_nvml(nvml, FORK) == "2\n"


WRITE = """
import sys
from metrics_adapters.gpu import GpuMonitor
from metrics_framework.telemetry import TelemetryIdentity, TelemetryLog
with TelemetryLog(sys.argv[1], [GpuMonitor(identity=TelemetryIdentity("s", "node", 1))]):
    pass
"""

LOAD = """
import sys
from stormlog.telemetry import load_telemetry_sessions
[session] = load_telemetry_sessions(sys.argv[1], permissive_legacy=False)
print(session.summary.status, len(session.events), {r.source_kind for r in session.telemetry_records()})
"""


@pytest.mark.heavy
def test_stormlog_loads_what_the_monitor_writes(nvml, tmp_path):
    """Events of schema 4, one for each device."""
    path = tmp_path / "gpu.jsonl"
    with_nvml(nvml, WRITE, path)
    assert [event["device_id"] for event in read_telemetry(path)] == [0, 1, 0, 1]
    assert later_stormlog(LOAD, path) == "completed 4 {'cuda'}\n"


@without_gpu
def test_a_log_without_gpu_is_empty(tmp_path, clock: ManualClock):
    """The log contains no events."""
    with TelemetryLog(tmp_path / "gpu.jsonl", [GpuMonitor(identity=TelemetryIdentity(), clock=clock)]) as log:
        log.sample()
    assert (tmp_path / "gpu.jsonl").read_bytes() == b""
