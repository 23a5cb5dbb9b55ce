"""Work that is done again and again in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable

from metrics_framework.logs import log_event


class Background:
    """A daemon thread that calls a function at an interval, and outlives its failures.

    Args:
        work: What to do, at once and then at every interval. What it raises is logged, once until it
            succeeds again.
        interval: Seconds between two calls.
        name: What the thread and the log call it.
    """

    def __init__(self, work: Callable[[], object], interval: float, name: str) -> None:
        self._work = work
        self._interval = interval
        self._name = name
        self._stopped = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name=f"metrics-{name.replace(' ', '-')}", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop, and wait until nothing runs any more; a second call does nothing."""
        self._stopped.set()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        failing = False
        while True:
            try:
                self._work()
                failing = False
            except Exception as error:  # noqa: BLE001 - whatever the work raises, the application goes on
                if not failing:
                    log_event("warning", f"{self._name} failed", error=repr(error))
                failing = True
            if self._stopped.wait(self._interval):
                return
