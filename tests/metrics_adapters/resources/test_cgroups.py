"""In a container, the readings are those of its control groups, of either version."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_adapters.resources import PsutilMonitor
from metrics_adapters.resources.cgroups import ControlGroups, CpuLimit, MemoryLimit
from metrics_framework import MetricsSystem, Thresholds
from metrics_framework.clock import ManualClock

MEGABYTE = 1_000_000
MACHINE = 16_000 * MEGABYTE
UNLIMITED = 9_223_372_036_854_771_712  # of version 1
DOCKER = "/docker/0a1b2c"


def write(folder: Path, **files: object) -> None:
    """Write the files of a control group. The first underscore of a name stands for a dot."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        controller, _, rest = name.partition("_")
        (folder / f"{controller}.{rest}").write_text(f"{content}\n")


class Machine:
    """A machine whose control groups the test writes into a folder."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "cgroup"
        self.proc = folder / "proc"
        self.root.mkdir()
        (self.proc / "self").mkdir(parents=True)

    @property
    def groups(self) -> ControlGroups:
        """The control groups of this process."""
        return ControlGroups(self.root, self.proc)

    def joined(self, *lines: str) -> Machine:
        """Put this process into control groups."""
        (self.proc / "self" / "cgroup").write_text("".join(f"{line}\n" for line in lines))
        return self

    def v2(self, path: str = "", **files: object) -> Machine:
        """Write a control group of version 2."""
        write(self.root / path.strip("/"), **files)
        return self

    def v1(self, controller: str, path: str = "", **files: object) -> Machine:
        """Write a control group of version 1."""
        write(self.root / controller / path.strip("/"), **files)
        return self

    def memory(self) -> MemoryLimit | None:
        """Return the memory limit."""
        return self.groups.memory(MACHINE)

    def cpu(self) -> CpuLimit | None:
        """Return the CPU limit."""
        return self.groups.cpu(8)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Return a machine without control groups."""
    return Machine(tmp_path)


V2 = {"memory_max": 500, "memory_current": 300, "memory_stat": "anon 200\ninactive_file 90\nactive_file 10"}
V1 = {
    "memory_limit_in_bytes": 500,
    "memory_usage_in_bytes": 300,
    "memory_stat": "inactive_file 1\ntotal_inactive_file 90\nhierarchical_memory_limit 500",
}


# -- memory ------------------------------------------------------------------------------------------------


def test_used_memory_is_without_the_cache_that_can_be_freed(machine):
    """The usage of Docker and Kubernetes, in either version: without the inactive file cache."""
    assert machine.joined("0::/").v2(**V2).memory() == MemoryLimit(210, 500)
    assert machine.joined("4:memory:/").v1("memory", **V1).memory() == MemoryLimit(210, 500)


@pytest.mark.parametrize("path", ["/", DOCKER, "/../../docker/0a1b2c", "/kubepods.slice/pod1/0a1b2c"])
def test_the_group_of_a_container_may_be_mounted_as_the_root(machine, path):
    """Without a namespace, the path is that of the host, which a container does not see."""
    machine.joined(f"4:memory:{path}", f"0::{path}").v1("memory", **V1)
    assert machine.memory() == MemoryLimit(210, 500)
    assert machine.joined(f"0::{path}").v2(**V2).memory() == MemoryLimit(210, 500)


def test_a_part_of_the_path_may_be_mounted(machine):
    """The process is in a group inside the container's group."""
    machine.joined(f"0::{DOCKER}/worker").v2(**{**V2, "memory_max": "max"}).v2("worker", **V2)
    assert machine.memory() == MemoryLimit(210, 500)


@pytest.mark.parametrize(
    ("outer", "inner", "expected"),
    [
        ({"memory_max": "max"}, V2, (210, 500)),
        (V2, {"memory_max": "max", "memory_current": 5}, (210, 500)),
        ({**V2, "memory_max": 9000}, V2, (210, 500)),
        ({**V2, "memory_current": 480}, V2, (390, 500)),  # a neighbour uses the rest of the pod
        ({**V2, "memory_max": 9000, "memory_current": 8990}, V2, (8900, 9000)),
    ],
)
def test_the_group_with_the_least_free_memory_decides(machine, outer, inner, expected):
    """Each group limits those inside it."""
    machine.joined("0::/pod/container").v2("pod", **outer).v2("pod/container", **inner)
    assert machine.memory() == MemoryLimit(*expected)


def test_an_invisible_outer_group_limits_memory_in_version_1(machine):
    """The kernel tells the lowest limit of all groups."""
    hidden = {**V1, "memory_limit_in_bytes": UNLIMITED}
    machine.joined(f"4:memory:{DOCKER}").v1("memory", **hidden)
    assert machine.memory() == MemoryLimit(210, 500)


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"memory_max": "max", "memory_current": 300},
        {"memory_max": MACHINE, "memory_current": 300},
        {"memory_max": 0, "memory_current": 300},
        {"memory_max": 500},
        {"memory_max": "", "memory_current": 300},
        {"memory_max": "plenty", "memory_current": 300},
        {"memory_limit_in_bytes": UNLIMITED, "memory_usage_in_bytes": 300},
        {"memory_limit_in_bytes": 500},
    ],
    ids=str,
)
def test_a_group_without_a_limit_or_a_usage_is_none(machine, files):
    """Such as ``max``, a limit above the memory of the machine, or files that are missing or broken."""
    assert machine.joined("0::/").v2(**files).memory() is None
    assert machine.joined("4:memory:/").v1("memory", **files).memory() is None


@pytest.mark.parametrize("stat", [None, "", "inactive_file", "inactive_file many", "inactive_file 400"])
def test_a_broken_statistic_changes_nothing_else(machine, stat):
    """Without the size of the cache all of the usage counts, and it is never negative."""
    files = {"memory_max": 500, "memory_current": 300} | ({} if stat is None else {"memory_stat": stat})
    assert machine.joined("0::/").v2(**files).memory() == MemoryLimit(
        0 if stat == "inactive_file 400" else 300, 500
    )


def test_without_a_list_of_groups_the_root_is_read(machine):
    """If ``/proc/self/cgroup`` is missing, the mounted root of a container still has its limit."""
    assert machine.memory() is machine.cpu() is None
    assert machine.v2(**V2, cpu_max="50000 100000").memory() == MemoryLimit(210, 500)
    assert machine.cpu() == CpuLimit(0.5, None)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads every file")
def test_an_unreadable_file_is_no_limit(machine):
    """The readings are those of the machine."""
    machine.joined("0::/").v2(**V2)
    (machine.root / "memory.max").chmod(0)
    assert machine.memory() is None


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads every folder")
def test_an_unreadable_folder_is_no_limit(machine):
    """A group that denies access is like one that is not mounted."""
    machine.joined("0::/a/b").v2("a/b", **V2)
    (machine.root / "a").chmod(0)
    assert machine.memory() is None
    (machine.root / "a").chmod(0o700)


def test_a_folder_in_place_of_a_file_is_no_limit(machine):
    """A file that cannot be read is a limit that does not exist, for any reason."""
    machine.joined("0::/").v2(**{**V2, "memory_stat": ""})
    (machine.root / "memory.max").unlink()
    (machine.root / "memory.max").mkdir()
    assert machine.memory() is None


def test_a_limit_that_changes_is_read_again(machine):
    """An orchestrator may resize a running container."""
    groups = machine.joined("0::/").v2(**V2).groups
    assert groups.memory(MACHINE) == MemoryLimit(210, 500)
    machine.v2(memory_max=700)
    assert groups.memory(MACHINE) == MemoryLimit(210, 700)
    machine.v2(memory_max="max")
    assert groups.memory(MACHINE) is None


# -- CPU -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu_max": "150000 100000", "cpu_stat": "usage_usec 2500000\nuser_usec 1"}, (1.5, 2.5)),
        ({"cpu_max": "20000 100000"}, (0.2, None)),
        ({"cpu_max": "200000"}, (2.0, None)),
        ({"cpu_max": "max 100000"}, None),
        ({"cpu_max": "800000 100000"}, None),  # all CPUs of the machine
        ({"cpu_max": "1000 0"}, None),
        ({"cpu_max": ""}, None),
        ({}, None),
    ],
    ids=str,
)
def test_a_cpu_limit_of_version_2(machine, files, expected):
    """It is a quota of time in a period."""
    found = machine.joined("0::/box").v2("box", **files).cpu()
    assert found == (None if expected is None else CpuLimit(*expected))


@pytest.mark.parametrize(("quota", "expected"), [(150_000, 1.5), (-1, None), (800_000, None)])
@pytest.mark.parametrize(
    ("controllers", "folder", "accounting"),
    [
        ("cpu,cpuacct", "cpu,cpuacct", "cpu,cpuacct"),
        ("cpu,cpuacct", "cpu", "cpuacct"),  # links
        ("cpuacct,cpu", "cpuacct,cpu", "cpuacct,cpu"),
    ],
)
def test_a_cpu_limit_of_version_1(machine, quota, expected, controllers, folder, accounting):
    """Time is counted by another controller, often in the same folder."""
    machine.joined(f"3:{controllers}:{DOCKER}", "0::/")
    machine.v1(folder, DOCKER, cpu_cfs_quota_us=quota, cpu_cfs_period_us=100_000)
    machine.v1(accounting, DOCKER, cpuacct_usage=2_500_000_000)
    (machine.root / folder / DOCKER.strip("/") / "cpu.stat").write_text("nr_periods 4\n")
    assert machine.cpu() == (None if expected is None else CpuLimit(expected, 2.5))


def test_separate_controllers_of_version_1(machine):
    """Each controller has its own list of groups."""
    machine.joined("1:cpu:/box", "2:cpuacct:/box", "4:memory:/")
    machine.v1("cpu", "box", cpu_cfs_quota_us=50_000, cpu_cfs_period_us=100_000)
    machine.v1("cpuacct", "box", cpuacct_usage=2_500_000_000)
    assert machine.cpu() == CpuLimit(0.5, 2.5)


def test_the_lowest_cpu_limit_decides(machine):
    """Of equal ones the outermost, which also counts the neighbours."""
    machine.joined("0::/slice/pod/container")
    machine.v2("slice", cpu_max="400000 100000", cpu_stat="usage_usec 9000000")
    machine.v2("slice/pod", cpu_max="100000 100000", cpu_stat="usage_usec 5000000")
    machine.v2("slice/pod/container", cpu_max="10000 10000", cpu_stat="usage_usec 1000000")
    assert machine.cpu() == CpuLimit(1.0, 5.0)
    machine.v2("slice/pod/container", cpu_max="5000 10000")
    assert machine.cpu() == CpuLimit(0.5, 1.0)


# -- the monitor ---------------------------------------------------------------------------------------------


def test_a_container_has_its_own_memory(machine, clock):
    """The readings have the keys of the machine; health and gauges use them."""
    total = psutil.virtual_memory().total
    limit = total // 2
    machine.joined("0::/").v2(
        memory_max=limit, memory_current=limit, memory_stat=f"inactive_file {limit // 4}"
    )
    monitor = PsutilMonitor(clock=clock, cgroups=machine.groups)
    memory = monitor.get_memory_usage()
    assert memory.keys() == PsutilMonitor().get_memory_usage().keys()
    assert (memory["total"], memory["used"]) == (limit, limit - limit // 4)
    assert memory["available"] == limit // 4
    assert memory["percent"] == pytest.approx(75, abs=0.01)
    thresholds = Thresholds(memory_percent=75.1)
    system = MetricsSystem(resource_monitor=monitor, thresholds=thresholds, clock=clock)
    assert system.get_system_health()["healthy"] is True
    machine.v2(memory_stat="inactive_file 0")
    health = system.get_system_health()
    assert (health["healthy"], health["memory_percent"]) == (False, 100.0)


@pytest.mark.parametrize("version", [1, 2])
def test_a_container_has_its_own_cpus(machine, clock, monkeypatch, version):
    """The percentage is that of the limit, since the previous reading."""
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 8)

    def use(seconds: float, cpus: float = 0.5) -> None:
        if version == 2:
            machine.v2(
                cpu_max=f"{round(cpus * 100_000)} 100000", cpu_stat=f"usage_usec {round(seconds * 1e6)}"
            )
        else:
            machine.v1("cpu", cpu_cfs_quota_us=round(cpus * 100_000), cpu_cfs_period_us=100_000)
            machine.v1("cpuacct", cpuacct_usage=round(seconds * 1e9))

    machine.joined("0::/" if version == 2 else "3:cpu,cpuacct:/")
    use(100)
    monitor = PsutilMonitor(clock=clock, cgroups=machine.groups)
    clock.advance(10)
    use(101)
    cpu = monitor.get_cpu_usage()
    assert cpu.keys() == PsutilMonitor().get_cpu_usage().keys()
    assert (cpu["count"], cpu["percent"]) == (0.5, pytest.approx(20.0))
    clock.advance(10)
    use(110)  # a burst beyond the limit
    assert monitor.get_cpu_usage()["percent"] == 100.0
    clock.advance(10)
    use(115, cpus=2.0)
    cpu = monitor.get_cpu_usage()
    assert (cpu["count"], cpu["percent"]) == (2.0, pytest.approx(25.0))
    clock.advance(10)
    use(3)  # another group
    assert monitor.get_cpu_usage()["percent"] == 0.0


def test_without_limits_the_readings_are_those_of_the_machine(machine):
    """A process that no group limits has all memory and CPUs."""
    monitor = PsutilMonitor(cgroups=machine.joined("0::/user.slice").groups)
    assert monitor.get_memory_usage()["total"] == psutil.virtual_memory().total
    assert monitor.get_cpu_usage()["count"] == psutil.cpu_count()


NUMBERS = st.integers(-(10**30), 10**30).map(str) | st.sampled_from(["max", "", "0", "\x00", "1e9"])
LINES = st.lists(
    st.sampled_from(["usage_usec", "inactive_file", "0::/a/b", "4:memory:/a"]) | NUMBERS, max_size=4
)
CONTENTS = NUMBERS | LINES.map(" ".join) | LINES.map("\n".join) | st.text(max_size=20)
FILES = ["memory.max", "memory.current", "memory.stat", "cpu.max", "cpu.stat", "cpu.cfs_quota_us"]


@given(st.dictionaries(st.sampled_from(FILES), CONTENTS), st.text(max_size=40) | LINES.map("\n".join))
def test_no_content_of_a_file_breaks_a_reading(contents, membership):
    """Whatever the files contain, memory and CPU have their keys, and percentages are from 0 to 100."""
    with tempfile.TemporaryDirectory() as folder:
        machine = Machine(Path(folder))
        (machine.proc / "self" / "cgroup").write_bytes(membership.encode())
        for name, content in contents.items():
            (machine.root / name).write_bytes(content.encode())
        monitor = PsutilMonitor(clock=ManualClock(), cgroups=machine.groups)
        memory, cpu = monitor.get_memory_usage(), monitor.get_cpu_usage()
    assert 0 <= memory["percent"] <= 100
    assert memory["available"] >= 0
    assert 0 <= cpu["percent"] <= 100
    assert 0 < cpu["count"] <= psutil.cpu_count()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has control groups")
def test_the_limits_of_this_process():
    """Here, the limits are those that the kernel's files state, or those of the machine."""
    total, count = psutil.virtual_memory().total, psutil.cpu_count()
    limit = ControlGroups().memory(total)
    memory, cpu = PsutilMonitor().get_memory_usage(), PsutilMonitor().get_cpu_usage()
    assert memory["total"] == (total if limit is None else limit.limit)
    assert 0 < memory["used"] <= memory["total"]
    assert 0 < cpu["count"] <= count
    # The membership of this process leads to a folder that the kernel keeps.
    everything = ControlGroups().memory(2**70)
    if everything is not None:
        assert 0 < everything.used < total
