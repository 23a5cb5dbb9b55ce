"""A textfile is replaced atomically and readable by node_exporter."""

from __future__ import annotations

import os
import stat
import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families

from metrics_adapters.in_memory import InMemoryCollector
from metrics_adapters.prometheus import Textfile, write_textfile
from metrics_adapters.prometheus import textfile as module
from metrics_framework import InvalidInputError, MetricsSystem, OutputError


@pytest.fixture
def collector():
    """Return a collector with one counter."""
    made = InMemoryCollector()
    made.increment("orders")
    return made


def names(folder):
    """Return the names of the files in a folder."""
    return sorted(path.name for path in folder.iterdir())


def orders(path):
    """Return the value of `orders` in a file, or fail if the file is incomplete."""
    (family,) = text_string_to_metric_families(path.read_text())
    return {sample.name: sample.value for sample in family.samples}["orders_total"]


def test_a_file_contains_the_metrics(tmp_path, collector):
    """The file is world-readable text, and no other file is left in the folder."""
    path = tmp_path / "orders.prom"
    before = os.umask(0o022)
    try:
        write_textfile(str(path), collector)
    finally:
        os.umask(before)
    assert orders(path) == 1
    assert path.read_bytes().endswith(b"\n")
    assert names(tmp_path) == ["orders.prom"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_stricter_umask_applies(tmp_path, collector):
    """A umask that hides files from others hides this one too."""
    before = os.umask(0o077)
    try:
        write_textfile(tmp_path / "orders.prom", collector)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "orders.prom").stat().st_mode) == 0o600


def test_a_file_is_replaced(tmp_path, collector):
    """A later write replaces the file, and a reader of the old file reads it to its end."""
    path = tmp_path / "orders.prom"
    write_textfile(path, collector)
    with path.open() as before:
        collector.increment("orders")
        write_textfile(path, collector)
        assert orders(path) == 2
        assert before.read().endswith(" 1\n")


def test_a_reader_never_sees_a_part(tmp_path):
    """Readers find a whole file each time during concurrent writes."""
    path = tmp_path / "orders.prom"
    collector = InMemoryCollector()
    for number in range(500):
        collector.increment("orders", {"number": str(number)})
    write_textfile(path, collector)
    ended = threading.Event()

    def write():
        while not ended.is_set():
            write_textfile(path, collector)

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        lengths = {len(path.read_bytes()) for _ in range(300)}
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert len(lengths) == 1
    assert names(tmp_path) == ["orders.prom"]


@pytest.mark.parametrize("name", ["orders.txt", "orders", "orders.prom.tmp", ".prom", "orders.PROM"])
def test_a_name_that_node_exporter_ignores_is_rejected(tmp_path, collector, name):
    """Both the function and the output raise an error."""
    with pytest.raises(InvalidInputError, match=rf"{name}' does not end in .prom: node_exporter"):
        write_textfile(tmp_path / name, collector)
    with pytest.raises(InvalidInputError, match="does not end in"):
        Textfile(tmp_path / name)
    assert names(tmp_path) == []


def test_a_failed_write_keeps_the_old_file(tmp_path, collector, monkeypatch):
    """If the disk fails during a write, only the old file remains."""
    path = tmp_path / "orders.prom"
    write_textfile(path, collector)
    collector.increment("orders")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(OutputError, match=r"^cannot write '.*orders.prom': No space left on device$"):
        write_textfile(path, collector)
    assert orders(path) == 1
    assert names(tmp_path) == ["orders.prom"]


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("missing/orders.prom", "No such file or directory"),
        ("file/orders.prom", "Not a directory"),
        ("folder.prom", "Is a directory"),
        ("\0.prom", r"(\w+: )?embedded null (byte|character in (dst|path))"),
    ],
)
def test_a_path_that_cannot_be_written_is_an_error(tmp_path, collector, place, reason):
    """The error contains the file and the reason of the system."""
    (tmp_path / "file").touch()
    (tmp_path / "folder.prom").mkdir()
    with pytest.raises(OutputError, match=rf"^cannot write '.*\.prom': {reason}$"):
        write_textfile(tmp_path / place, collector)
    assert names(tmp_path) == ["file", "folder.prom"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_missing_permission_is_an_error(tmp_path, collector):
    """The error says that permission is denied."""
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match=r"cannot write '.*orders.prom': Permission denied"):
        write_textfile(tmp_path / "orders.prom", collector)


def test_a_system_writes_at_shutdown(tmp_path):
    """As an output, the file is written at shutdown."""
    path = tmp_path / "orders.prom"
    with MetricsSystem(outputs=[Textfile(path)]) as metrics:
        metrics.collector.increment("orders")
        assert not path.exists()
    assert orders(path) == 1


@pytest.mark.heavy
def test_promtool_finds_nothing_wrong(tmp_path, promtool):
    """Promtool accepts every type without a complaint."""
    metrics = MetricsSystem()
    metrics.collector.describe("orders", help='Orders, "all" of\nthem.')
    metrics.collector.describe("level", help="The level.")
    metrics.collector.describe("size", help="The sizes.", buckets=(1, 10))
    metrics.collector.increment("orders", {"kind": 'a "b"\n\\'})
    metrics.collector.record_gauge("level", -1.5)
    metrics.collector.record_histogram("size", 3)
    with metrics.measure("load"):
        pass
    write_textfile(tmp_path / "all.prom", metrics)
    assert promtool((tmp_path / "all.prom").read_text()) == (0, "")
