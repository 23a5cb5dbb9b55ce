"""The shop with simulated customers on a live page."""

from __future__ import annotations

import importlib
import json
import signal
import subprocess
import sys
import time
from collections import defaultdict
from itertools import islice
from pathlib import Path
from random import Random
from statistics import quantiles
from urllib.request import urlopen

import pytest

from metrics_framework import read_snapshot
from tests.examples.conftest import EXAMPLES

pytest.importorskip("uvicorn")


@pytest.mark.slow
def test_customers_are_realistic_and_repeatable(examples: None) -> None:
    """Equal seeds give equal visits of six routes, 5 to 400 ms, with slow periods and 1 to 3 % failures."""
    live = importlib.import_module("live")
    visits = list(islice(live.visits(Random(7), 0.0), 20_000))
    assert visits == list(islice(live.visits(Random(7), 0.0), 20_000))
    assert visits != list(islice(live.visits(Random(8), 0.0), 20_000))
    moment, by_route = 0.0, defaultdict(list)
    for visit in visits:
        moment += visit.pause
        by_route[visit.route.template, live.is_slow(moment)].append(visit.seconds)
        assert 0.005 <= visit.seconds <= 0.4
    assert len({template for template, _ in by_route}) == 6
    assert 25 < len(visits) / moment < 35
    slow, usual = (quantiles(by_route["/search", part], n=20)[-1] for part in (True, False))
    assert slow > 1.4 * usual
    failures = [visit.fault for visit in visits if visit.fault is not None]
    assert 0.01 < len(failures) / len(visits) < 0.03
    assert {fault.__name__ for fault in failures} == {
        *("TimeoutError", "ConnectionError", "PaymentDeclinedError", "OutOfStockError")
    }


@pytest.mark.heavy
def test_the_shop_is_served_until_ctrl_c(tmp_path: Path) -> None:
    """It prints the URL, its numbers move, and Ctrl-C ends it with a snapshot for the history."""
    process = subprocess.Popen(
        [sys.executable, str(EXAMPLES / "live.py"), "--port", "0"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("the shop is open: http://127.0.0.1:")
        url = line.split()[4]
        wanted = ("orders_total", "shipping_queue_size", "cache_hit_ratio", "batch_file_samples_total")
        end = time.monotonic() + 60
        while missing := [name for name in wanted if name not in _read(f"{url}metrics")]:
            assert time.monotonic() < end, missing
            time.sleep(0.2)
        assert "<title>" in _read(url)
        assert json.loads(_read(f"{url}history"))["runs"] == []
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, errors) == (0, "")
    snapshot = read_snapshot(tmp_path / output.strip())
    assert snapshot.metadata.tags.items() >= {"service": "shop", "seed": "1"}.items()
    assert snapshot.metrics.latency is not None


def _read(url: str) -> str:
    with urlopen(url, timeout=30) as response:
        text: str = response.read().decode()
        return text
