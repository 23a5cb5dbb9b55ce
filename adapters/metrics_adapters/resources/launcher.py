"""Runs commands one by one from a small process, and reports their resource usage from the kernel.

`metrics_adapters.resources.command` runs this file as a program, with an interpreter that loads almost
nothing. A process inherits its peak memory ``ru_maxrss`` from the process that started it, so a command that
a large application starts directly would seem as large as that application.

Usage: ``launcher.py REQUESTS REPORT``. A command is read from the open descriptor ``REQUESTS``, as its length
in bytes in one line and its arguments separated by null bytes. To the open descriptor ``REPORT`` this program
writes one line for each command::

    failed ERRNO                                        it could not be started
    ended STATUS WALL_NS CPU_US MAXRSS FLOOR IS_LAST    it has ended

``MAXRSS`` and ``FLOOR`` are in the unit of the system's ``ru_maxrss``. The command inherits ``FLOOR`` from
this program, so a ``MAXRSS`` above it is the command's own.

On Linux this program is a child subreaper: background processes whose parent ends become its children, so
they are found as descendants, and the usage of those that end before the command is added to the command's.
If some outlive the command, and on other systems, ``IS_LAST`` is 1 and this program ends, so that no
descendant of another command counts. It also ends with ``REQUESTS``.
"""

import errno
import os
import signal
import sys
import time

_PR_SET_CHILD_SUBREAPER = 36
_CHUNK_BYTES = 1 << 16


def main() -> None:
    """Run the commands of the requests."""
    requests, report = int(sys.argv[1]), int(sys.argv[2])
    os.set_inheritable(requests, False)
    os.set_inheritable(report, False)
    is_subreaper = _become_subreaper()
    # Signals to the process group are for the command: this program stays alive to report its end. Python
    # ignores SIGPIPE and SIGXFSZ, and a child inherits that unless it is reset to the default.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    default = [signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGXFSZ]
    try:  # noqa: SIM105 - contextlib is slow to import
        # The root folder cannot be executed; without this attempt, the first command starts 0.1 ms later.
        os.posix_spawnp("/", ["/"], os.environ, setsigdef=default)
    except OSError:
        pass
    while command := _read_command(requests):
        line, is_last = _run(command, default)
        is_last = is_last or not is_subreaper
        os.write(report, line + b" %d\n" % is_last)
        if is_last:
            return


def _read_command(requests: int) -> list[bytes]:
    """Return the arguments of the next command; none at the end of the requests."""
    content = b""
    while b"\n" not in content:
        chunk = os.read(requests, _CHUNK_BYTES)
        if not chunk:
            return []
        content += chunk
    size, _, content = content.partition(b"\n")
    while len(content) < int(size):
        chunk = os.read(requests, _CHUNK_BYTES)
        if not chunk:
            return []
        content += chunk
    return content.split(b"\0")


def _run(command: list[bytes], default: list[signal.Signals]) -> tuple[bytes, bool]:
    """Run a command. Return the line of the report, and whether processes are left.

    Args:
        command: The arguments.
        default: Signals that get their default action back.
    """
    start = time.perf_counter_ns()
    try:
        pid = os.posix_spawnp(command[0], command, os.environ, setsigdef=default)
    except OSError as error:
        return b"failed %d" % (error.errno or 0), False
    except ValueError:  # an empty name
        return b"failed %d" % errno.ENOENT, False
    cpu_seconds, maxrss = 0.0, 0
    while True:
        ended, status, usage = os.wait4(-1, 0)
        wall_ns = time.perf_counter_ns() - start
        cpu_seconds += usage.ru_utime + usage.ru_stime
        maxrss = max(maxrss, usage.ru_maxrss)
        if ended == pid:  # not a background process that this program has adopted
            break
    numbers = (status, wall_ns, round(cpu_seconds * 1e6), maxrss, _floor())
    return b"ended %d %d %d %d %d" % numbers, _are_processes_left()


def _are_processes_left() -> bool:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def _become_subreaper() -> bool:
    """Adopt the orphans among the descendants, on Linux. Return whether that works."""
    if sys.platform == "linux":
        try:
            import _ctypes  # `ctypes` takes four times as long to import

            prctl = _ctypes.dlsym(_ctypes.dlopen(None, 0), "prctl")  # type: ignore[arg-type]
            return bool(_ctypes.call_function(prctl, (_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)) == 0)
        except (ImportError, AttributeError, OSError, TypeError):  # without orphans, as on other systems
            pass
    return False


def _floor() -> int:
    """Return the peak memory of this program, or 0 if the system does not report it."""
    try:
        with open("/proc/self/status", "rb") as status:  # noqa: PTH123 - pathlib would make it larger
            peak = next(int(line.split()[1]) for line in status if line.startswith(b"VmHWM:"))
    except (OSError, StopIteration):
        return 0
    # `ru_maxrss` is approximate, by some pages for each CPU, and may exceed the exact peak.
    return peak + peak // 50


main()
