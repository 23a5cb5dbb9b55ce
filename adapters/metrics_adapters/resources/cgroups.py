"""Limits of a container: the memory and the CPUs of its control groups on Linux, of version 1 and 2.

Every reading reads the limits again, because an orchestrator may change those of a running container. A file
that is missing or unreadable is a limit that does not exist.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

CGROUP_ROOT = "/sys/fs/cgroup"
PROC_ROOT = "/proc"
_LARGEST = 2**64


class MemoryLimit(NamedTuple):
    """The memory of the control group that is closest to its limit.

    Attributes:
        used: Its memory in bytes, without the file cache that the kernel can free at once, as Docker and
            Kubernetes count it.
        limit: Its limit in bytes.
    """

    used: int
    limit: int


class CpuLimit(NamedTuple):
    """The CPU time of the control group with the lowest limit.

    Attributes:
        cpus: Its limit in CPUs, such as 0.5.
        usage_seconds: The CPU time that it has used so far; ``None`` if the system does not tell it.
    """

    cpus: float
    usage_seconds: float | None


class ControlGroups:
    """The control groups of this process, from its own one to the outermost one that it can see.

    Args:
        root: The folder where control groups are mounted.
        proc: The folder where ``proc`` is mounted.
    """

    def __init__(self, root: str | Path = CGROUP_ROOT, proc: str | Path = PROC_ROOT) -> None:
        self._root = Path(root)
        self._membership = Path(proc, "self", "cgroup")
        self._folders: dict[str, list[Path]] = {}

    def memory(self, machine_bytes: int) -> MemoryLimit | None:
        """Return the memory limit of this process, or ``None`` if only the machine limits it.

        Args:
            machine_bytes: The memory of the machine. A limit that is not below it is none.
        """
        found = []
        for level, group in enumerate(self._groups("memory")):
            limit = _memory_limit(group, is_innermost=level == 0)
            # The usage takes longer to read.
            if limit is not None and 0 < limit < machine_bytes:
                used = _memory_used(group)
                if used is not None:
                    found.append(MemoryLimit(used, limit))
        # Each group limits all groups inside it, so the one with the least free memory decides.
        return min(found, key=lambda reading: reading.limit - reading.used, default=None)

    def cpu(self, machine_cpus: int) -> CpuLimit | None:
        """Return the CPU limit of this process, or ``None`` if only the machine limits it.

        Args:
            machine_cpus: The number of CPUs of the machine. A limit that is not below it is none.
        """
        groups = self._groups("cpu")
        found = [
            (cpus, level)
            for level in range(len(groups) - 1, -1, -1)
            if (cpus := _cpus(groups[level])) is not None and 0 < cpus < machine_cpus
        ]
        if not found:
            return None
        cpus, level = min(found, key=lambda each: each[0])  # the outermost of equal ones, which uses the most
        accounting = self._groups("cpuacct")
        same_group = accounting[level] if len(accounting) == len(groups) else groups[level]
        return CpuLimit(cpus, _usage_seconds(groups[level], same_group))

    def _groups(self, controller: str) -> list[Path]:
        """Return the folders of the control groups that limit this process, the innermost first."""
        if controller not in self._folders:
            self._folders[controller] = self._find_groups(controller)
        return self._folders[controller]

    def _find_groups(self, controller: str) -> list[Path]:
        base, path = self._hierarchy(controller)
        parts = [part for part in path.split("/") if part not in ("", ".", "..")]
        # In a container, the path may be that of the host, of which only the last part is mounted, or none.
        inner = next(
            (parts[start:] for start in range(len(parts) + 1) if _is_folder(base.joinpath(*parts[start:]))),
            [],
        )
        return [base.joinpath(*inner[:depth]) for depth in range(len(inner), -1, -1)]

    def _hierarchy(self, controller: str) -> tuple[Path, str]:
        """Return the folder where a controller is mounted, and the path of this process in it."""
        unified = ""
        for line in (_read(self._membership) or "").splitlines():
            _, _, rest = line.partition(":")
            controllers, _, path = rest.partition(":")
            if controller in controllers.split(","):  # version 1
                joined = self._root / controllers
                return (joined if _is_folder(joined) else self._root / controller), path
            if not controllers:
                unified = path
        return self._root, unified


def _memory_limit(group: Path, *, is_innermost: bool) -> int | None:
    limit = _number(group / "memory.max")
    if limit is None:  # version 1, or no limit
        limits = [_number(group / "memory.limit_in_bytes")]
        if is_innermost and limits[0] is not None:
            # The limit of outer groups, which a container does not see.
            limits.append(_fields(group / "memory.stat").get("hierarchical_memory_limit"))
        limit = min((value for value in limits if value is not None), default=None)
    return limit


def _memory_used(group: Path) -> int | None:
    used, cache = _number(group / "memory.current"), "inactive_file"
    if used is None:  # version 1
        used, cache = _number(group / "memory.usage_in_bytes"), "total_inactive_file"
    return None if used is None else max(used - _fields(group / "memory.stat").get(cache, 0), 0)


def _cpus(group: Path) -> float | None:
    words = (_read(group / "cpu.max") or "").split()
    if words:
        quota, period = _to_int(words[0]), _to_int(words[1]) if len(words) > 1 else 100_000
    else:
        quota, period = _number(group / "cpu.cfs_quota_us"), _number(group / "cpu.cfs_period_us")
    return quota / period if quota is not None and period else None


def _usage_seconds(group: Path, accounting: Path) -> float | None:
    microseconds = _fields(group / "cpu.stat").get("usage_usec")
    if microseconds is not None:
        return microseconds / 1e6
    nanoseconds = _number(accounting / "cpuacct.usage")  # version 1
    return None if nanoseconds is None else nanoseconds / 1e9


def _is_folder(path: Path) -> bool:
    return os.path.isdir(path)  # noqa: PTH112 - `Path.is_dir` raises if access is denied


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8", "replace")
    except (OSError, ValueError):  # ValueError: a null character in the path
        return None


def _number(path: Path) -> int | None:
    """Return the number in a file; ``None`` if there is none, such as ``max``."""
    return _to_int((_read(path) or "").strip())


def _fields(path: Path) -> dict[str, int]:
    """Return the numbers of a file with a name and a number in each line."""
    pairs = (line.split() for line in (_read(path) or "").splitlines())
    numbers = ((pair[0], _to_int(pair[1])) for pair in pairs if len(pair) == 2)
    return {name: number for name, number in numbers if number is not None}


def _to_int(text: str) -> int | None:
    """Return a number that the kernel can hold, or ``None``."""
    try:
        number = int(text)
    except ValueError:
        return None
    return number if abs(number) < _LARGEST else None
