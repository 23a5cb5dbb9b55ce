"""Workers that are killed in the middle of their records lose at most the one that they were writing."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from metrics_framework.processes.sharing import SharedStore
from metrics_framework.recording import Store
from metrics_framework.recording.engine import ENGINE

KILLS = 40


class ForkedGroup:
    """Workers that this test forked: the stem of their files is their process id."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ended: set[str] = set()

    def is_alive(self, stem: str) -> bool:
        """Return whether the test has not seen the end of the worker."""
        return stem not in self.ended

    @contextmanager
    def try_lock(self) -> Iterator[bool]:
        """Return the lock: only this process archives."""
        yield True


def record_for_ever(group: ForkedGroup, told: int) -> None:
    """Record, and write a byte for each record before it."""
    store = Store()
    shared = SharedStore(store, group)
    shared.begin(f"{os.getpid()}")
    counter, timer = store.find("counter", "requests", None), store.find("timer", "db", {"route": "/"})
    while True:
        for _ in range(50):
            os.write(told, b".")
            counter.add(1)
            timer.observe(12.5)
        shared.flush()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the test forks")
@pytest.mark.skipif(ENGINE == "pure", reason="it loses what it recorded in the last interval")
def test_totals_are_exact_to_one_record_for_each_kill(tmp_path: Path) -> None:
    """No total ever falls, and at the end it lacks at most one record for each worker that was killed."""
    group = ForkedGroup(tmp_path)
    store = Store()
    shared = SharedStore(store, group)
    shared.begin("reader")
    chance = random.Random(5)
    sent, before = 0, 0.0
    living: dict[int, int] = {}
    try:
        for kill in range(KILLS):
            while len(living) < 3:
                out, told = os.pipe()
                child = os.fork()
                if child == 0:
                    with suppress(BaseException):
                        record_for_ever(group, told)
                    os._exit(1)
                os.close(told)
                os.set_blocking(out, False)
                living[child] = out
            deadline = time.monotonic() + chance.uniform(0.01, 0.1)
            while time.monotonic() < deadline:
                for out in living.values():
                    with suppress(BlockingIOError):
                        sent += len(os.read(out, 1 << 20))
                if store.readings():
                    total = store.summary("requests")["total"]
                    assert total >= before, kill
                    before = total
            child = chance.choice(list(living))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            group.ended.add(str(child))
            sent += rest(living.pop(child))
            if chance.random() < 0.3:
                shared.work()
    finally:
        for child, out in living.items():
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            group.ended.add(str(child))
            sent += rest(out)
    kills = KILLS + 2
    for _ in range(2):
        total = store.summary("requests")["total"]
        by_series = {reading.name: reading.summary["count"] for reading in store.readings()}
        assert sent - kills <= total <= sent
        assert by_series["requests"] == total
        assert sent - kills <= by_series["db"] <= total
        assert store.summary("db")["count"] == by_series["db"]
        shared.work()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive", "reader.page", "reader.slots"]


def rest(out: int) -> int:
    """Return how many bytes are left in the pipe of a killed worker."""
    os.set_blocking(out, True)
    number = 0
    while content := os.read(out, 1 << 20):
        number += len(content)
    os.close(out)
    return number
