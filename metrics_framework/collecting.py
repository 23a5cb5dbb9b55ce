"""What a system does by itself: at an interval it reads the machine and writes snapshots, in one thread.

A forked child does neither until it configures an interval of its own: it would write files that nobody asked
it for, and a pool of workers would read the same machine many times.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from metrics_framework.background import Background
from metrics_framework.errors import SnapshotError
from metrics_framework.faults import Faults
from metrics_framework.outputs import Outputs, Run


class Collection:
    """Collects at an interval, in a thread of its own, which ends when nobody has the collection any more.

    Args:
        read: Reads the machine and records the readings.
        build: Makes what is written.
        outputs: Where snapshots go.
        faults: Logs what fails; what fails costs nothing else.

    Attributes:
        cpu_ns: CPU time that the thread has used so far, in nanoseconds.
    """

    def __init__(
        self,
        read: Callable[[], object],
        build: Callable[[], Run],
        outputs: Outputs,
        faults: Faults,
    ) -> None:
        self._read = read
        self._build = build
        self._outputs = outputs
        self._faults = faults
        self._interval: float | None = None
        self._is_first = True
        self._background: Background | None = None
        self.cpu_ns = 0

    @property
    def interval(self) -> float | None:
        """Seconds between two collections; ``None`` while there are none."""
        return self._interval

    def start(self, interval: float) -> None:
        """Read the machine at once, and read it and write snapshots every ``interval`` seconds from now on.

        Nothing happens where the interval is that already.
        """
        if interval != self._interval:
            self.stop()
            self._interval, self._is_first = interval, True
            # A bound method, which keeps neither this nor the system alive.
            self._background = Background(self._work, interval, "metrics collection", in_child=False)

    def stop(self) -> None:
        """Stop, and wait until nothing runs any more; a second call does nothing."""
        background, self._background, self._interval = self._background, None, None
        if background is not None:
            background.stop()

    def begin_in_child(self) -> None:
        """Forget the thread, which a forked child does not have."""
        self._background, self._interval, self.cpu_ns = None, None, 0

    def _work(self) -> None:
        start_ns = time.thread_time_ns()
        try:
            self._faults.attempt("resources not read", self._read)
            if not self._is_first:
                self._write()
            self._is_first = False
        finally:
            self.cpu_ns += time.thread_time_ns() - start_ns

    def _write(self) -> None:
        if not self._outputs.names:
            return
        try:
            run = self._build()
        except SnapshotError:
            return  # nothing was measured yet
        self._outputs.write(lambda: run, self._faults, owe=True)
