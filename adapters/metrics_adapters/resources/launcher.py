"""Starts one command from a small process and reports its resource usage from the kernel.

`metrics_adapters.resources.command` runs this file as a program, with an interpreter that loads almost
nothing. A process inherits its peak memory ``ru_maxrss`` from the process that started it, so a command that
a large application starts directly would seem as large as that application.

Usage: ``launcher.py DESCRIPTOR COMMAND [ARGUMENT ...]``. To the open descriptor it writes lines::

    failed ERRNO                                        the command could not be started
    started PID                                         it runs
    ended STATUS WALL_NS CPU_US MAXRSS FLOOR            it has ended

``MAXRSS`` and ``FLOOR`` are in the unit of the system's ``ru_maxrss``. The command inherits ``FLOOR`` from
this program, so a ``MAXRSS`` above it is the command's own.
"""

import errno
import os
import signal
import sys
import time


def main() -> None:
    """Run the command of the arguments, and wait for it."""
    report, command = int(sys.argv[1]), sys.argv[2:]
    os.set_inheritable(report, False)
    # Signals to the process group are for the command: this program stays alive to report its end. Python
    # ignores SIGPIPE and SIGXFSZ, and a child inherits that unless it is reset to the default.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    default = [signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGXFSZ]
    start = time.perf_counter_ns()
    try:
        pid = os.posix_spawnp(command[0], command, os.environ, setsigdef=default)
    except OSError as error:
        os.write(report, b"failed %d\n" % (error.errno or 0))
        return
    except ValueError:  # an empty name
        os.write(report, b"failed %d\n" % errno.ENOENT)
        return
    os.write(report, b"started %d\n" % pid)
    _, status, usage = os.wait4(pid, 0)
    wall_ns = time.perf_counter_ns() - start
    cpu_us = round((usage.ru_utime + usage.ru_stime) * 1e6)
    os.write(report, b"ended %d %d %d %d %d\n" % (status, wall_ns, cpu_us, usage.ru_maxrss, _floor()))


def _floor() -> int:
    """Return the peak memory of this program, or 0 if the system does not report it."""
    try:
        with open("/proc/self/status", "rb") as status:  # noqa: PTH123 - pathlib would make it larger
            return next(int(line.split()[1]) for line in status if line.startswith(b"VmHWM:"))
    except (OSError, StopIteration):
        return 0


main()
