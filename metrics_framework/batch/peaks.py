"""The most memory that Python objects took while something ran, as `tracemalloc` knows it."""

from __future__ import annotations

import threading


class Peak:
    """What runs: the memory that was taken when it began, and the most since."""

    __slots__ = ("base", "most")

    def __init__(self, base: int) -> None:
        self.base = self.most = base


class Peaks:
    """Peaks of what runs at the same time, in several threads say, each counting the memory of all.

    tracemalloc knows one peak for the whole process. It is on only while something runs, unless somebody else
    has switched it on.
    """

    def __init__(self) -> None:
        self._running: set[Peak] = set()
        self._lock = threading.RLock()
        self._started = False

    def begin(self) -> Peak:
        """Begin to watch."""
        import tracemalloc  # only who asks for it pays for it

        with self._lock:
            if not tracemalloc.is_tracing():
                tracemalloc.start()
                self._started = True
            self._settle()
            peak = Peak(tracemalloc.get_traced_memory()[0])
            self._running.add(peak)
            return peak

    def end(self, peak: Peak) -> int:
        """Return the most bytes that were taken at once, above what was when it began."""
        import tracemalloc

        with self._lock:
            self._settle()
            self._running.discard(peak)
            if self._started and not self._running:
                tracemalloc.stop()
                self._started = False
            return max(0, peak.most - peak.base)

    def _settle(self) -> None:
        """Tell everything that runs of the peak so far, and begin a new one."""
        import tracemalloc

        most = tracemalloc.get_traced_memory()[1]
        for peak in self._running:
            peak.most = max(peak.most, most)
        tracemalloc.reset_peak()


PEAKS = Peaks()
"""One for the process, as tracemalloc is."""
