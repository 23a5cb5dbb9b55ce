"""Any worker answers for all of them."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from metrics_framework.processes import removed, sharing
from metrics_framework.recording import engine
from metrics_framework.values import MetricUnit
from tests.metrics_framework.processes.workers import MINUTE, Worker, Workers, total


@pytest.fixture
def workers(tmp_path: Path) -> Workers:
    """Return the workers of a group."""
    return Workers(tmp_path)


def record(store: Any, kind: str, name: str, value: Any, tags: dict[str, str] | None = None) -> None:
    """Record a value."""
    series = store.find(kind, name, tags)
    {"counter": "add", "gauge": "set", "histogram": "observe", "timer": "observe"}[kind]
    getattr(series, {"counter": "add", "gauge": "set"}.get(kind, "observe"))(value)


def readings(worker: Worker) -> dict[Any, Any]:
    """Return the summary of each series."""
    return {(one.name, tuple(one.tags.items())): one.summary for one in worker.read().readings()}


def test_every_worker_answers_with_the_sum(workers: Workers) -> None:
    """A counter that three workers recorded has one total, in each of them."""
    many = workers.some(3)
    for number, worker in enumerate(many, 1):
        record(worker.store, "counter", "requests", number, {"route": "/"})
    assert [total(worker, "requests") for worker in many] == [6, 6, 6]
    record(many[0].store, "counter", "requests", 10, {"route": "/"})
    assert [total(worker, "requests") for worker in many] == [16, 16, 16]
    assert [len(readings(worker)) for worker in many] == [1, 1, 1]


def test_a_series_that_only_another_worker_has_is_read(workers: Workers) -> None:
    """A worker that recorded nothing itself knows the names, tags, units and help of the others."""
    one, other = workers.some(2)
    one.store.describe("size", unit=MetricUnit.BYTES, help="Bytes sent", buckets=(1, 10))
    record(one.store, "histogram", "size", 5, {"route": "/"})
    found = other.read().readings()
    assert [(reading.name, reading.tags) for reading in found] == [("size", {"route": "/"})]
    assert found[0].summary["count"] == 1
    assert found[0].buckets is not None
    assert found[0].buckets.counts == (0, 1, 0)
    description = other.store.description("size")
    assert (description.unit, description.help) == (MetricUnit.BYTES, "Bytes sent")


def test_totals_survive_their_worker_and_its_archive(workers: Workers) -> None:
    """A worker that ended counts on: from its files, from the archive, and for workers that start later."""
    one, other = workers.some(2)
    record(one.store, "counter", "requests", 3)
    record(other.store, "counter", "requests", 4)
    one.end()
    assert total(other, "requests") == 7
    other.shared.work()
    assert sorted(path.name for path in workers.group.folder.iterdir() if one.stem in path.name) == []
    assert total(other, "requests") == 7
    assert total(workers.make(), "requests") == 7


@pytest.mark.parametrize(
    ("law", "alive", "after"), [("latest", 5, 5), ("sum", 12, 5), ("min", 5, 5), ("max", 7, 5)]
)
def test_gauges_are_combined_by_their_law(workers: Workers, law: Any, alive: int, after: int) -> None:
    """Sums, minima and maxima count live workers; the latest value survives its worker."""
    one, other = workers.some(2)
    for worker in (one, other):
        worker.store.describe("level", merge=law)
    record(one.store, "gauge", "level", 7)
    workers.clock.advance(1)
    record(other.store, "gauge", "level", 5)
    for worker in (one, other):
        assert worker.read().summary("level")["last"] == alive
        assert readings(worker)["level", ()]["last"] == alive
    one.end()
    for _ in range(2):
        assert other.read().summary("level")["last"] == after
        assert readings(other)["level", ()]["last"] == after
        other.shared.work()


def test_the_latest_value_of_a_dead_worker_stays(workers: Workers) -> None:
    """A gauge that only a dead worker has set keeps its value."""
    one, other = workers.some(2)
    record(one.store, "gauge", "version", 7)
    one.end()
    assert other.read().summary("version")["last"] == 7
    other.shared.work()
    assert other.read().summary("version")["last"] == 7


def test_a_gauge_that_is_stepped_is_the_sum_of_live_workers(workers: Workers) -> None:
    """Requests in flight add up, and those of a killed worker vanish."""
    many = workers.some(3)
    for worker in many:
        for _ in range(2):
            worker.store.find_step("in_flight", 1, None)
            worker.store.find("gauge", "in_flight", None).increment()
    assert [worker.read().summary("in_flight")["last"] for worker in many] == [6, 6, 6]
    many[0].end()
    assert many[1].read().summary("in_flight")["last"] == 4
    many[1].shared.work()
    assert many[2].read().summary("in_flight")["last"] == 4
    many[1].end()
    many[2].shared.work()
    many[2].store.find("gauge", "in_flight", None).decrement(2)
    assert many[2].read().summary("in_flight")["last"] == 0


def test_windows_and_percentiles_are_those_of_all_workers(workers: Workers) -> None:
    """A window has the records of all workers: from open slots, from files and from the archive."""
    many = workers.some(3)
    for second in range(200):
        for number, worker in enumerate(many):
            record(worker.store, "timer", "db", float(second * 3 + number), {"query": "q"})
        workers.clock.advance(1)
        if second % 7 == 0:
            many[0].shared.work()
            many[1].shared.flush()
    for worker in many:
        worker.shared.flush()
    expected = many[0].read().summary("db", MINUTE)
    assert 150 <= expected["count"] <= 3 * 67
    assert expected["max"] == 599.0
    values = [float(value) for value in range(600 - int(expected["count"]), 600)]
    assert expected["min"] == values[0]
    assert expected["p95"] == pytest.approx(values[-(len(values) // 20)], rel=0.011)
    for worker in many:
        assert worker.read().summary("db", MINUTE) == pytest.approx(expected)
        assert worker.read().summary("db")["count"] == 600
    many[0].end()
    for _ in range(2):
        assert many[1].read().summary("db", MINUTE) == pytest.approx(expected)
        many[1].shared.work()
    by_tag = many[2].read().summary("db", MINUTE, {"query": "q"})
    assert by_tag["max"] == 599.0
    assert by_tag["count"] == pytest.approx(3 * by_tag["seconds"], abs=6)


def test_a_series_expires_when_it_is_idle_in_all_workers(tmp_path: Path) -> None:
    """One worker that records keeps it for all; then it vanishes in all of them."""
    workers = Workers(tmp_path, expire_after=timedelta(seconds=60))
    one, other = workers.some(2)
    for worker in (one, other):
        record(worker.store, "counter", "requests", 5, {"user": "a"})
        record(worker.store, "counter", "requests", 1, {"user": "b"})
    for _ in range(4):
        workers.clock.advance(30)
        record(other.store, "counter", "requests", 1, {"user": "a"})
        assert readings(one)["requests", (("user", "a"),)]["sum"] >= 10
    assert set(readings(one)) == {("requests", (("user", "a"),))}
    assert set(readings(other)) == {("requests", (("user", "a"),))}
    workers.clock.advance(61)
    assert readings(one) == {}
    assert readings(other) == {}
    record(other.store, "counter", "requests", 2, {"user": "a"})
    for worker in (one, other):
        assert readings(worker)["requests", (("user", "a"),)]["sum"] == 2


def test_a_removal_reaches_the_other_workers_and_the_archive(workers: Workers) -> None:
    """A removed series starts from zero in all workers, whoever recorded it, dead workers included."""
    one, other, dead = workers.some(3)
    for worker in (one, other, dead):
        record(worker.store, "counter", "requests", 5, {"user": "a"})
        record(worker.store, "counter", "requests", 1, {"user": "b"})
    dead.end()
    one.shared.work()
    workers.clock.advance(1)
    assert one.store.remove("requests", {"user": "a"})
    one.shared.work()
    other.shared.work()
    workers.clock.advance(1)
    for worker in (one, other, workers.make()):
        assert {key[1]: value["sum"] for key, value in readings(worker).items()} == {(("user", "b"),): 3}
    record(other.store, "counter", "requests", 2, {"user": "a"})
    for worker in (one, other):
        assert readings(worker)["requests", (("user", "a"),)]["sum"] == 2


def test_each_removal_is_obeyed(workers: Workers) -> None:
    """One after the other, by either worker, and again after a new record."""
    one, other = workers.some(2)
    for remover in (one, other, one, one):
        for worker in (one, other):
            record(worker.store, "counter", "requests", 5, {"user": "a"})
        workers.clock.advance(1)
        assert total(one, "requests") == total(other, "requests")
        remover.store.remove("requests", {"user": "a"})
        for worker in (one, other):
            worker.shared.work()
            assert readings(worker) == {}
        workers.clock.advance(1)


def test_a_removed_name_is_gone_with_its_windows(workers: Workers) -> None:
    """No worker reads it any more, until it is recorded again."""
    one, other, dead = workers.some(3)
    for worker in (one, other, dead):
        record(worker.store, "counter", "requests", 5)
    dead.end()
    one.shared.work()
    workers.clock.advance(10)
    one.store.remove("requests")
    for worker in (one, other):
        worker.shared.work()
        assert readings(worker) == {}
    workers.clock.advance(10)
    record(other.store, "counter", "requests", 2)
    for worker in (one, other):
        assert total(worker, "requests") == 2


def test_counters_of_health_are_those_of_all(workers: Workers) -> None:
    """The number of records and of rejected records add up, dead workers included."""
    many = [workers.make(on_error="log") for _ in range(3)]
    for worker in many:
        record(worker.store, "counter", "requests", 1)
        worker.store.find("counter", "", None)
        worker.shared.flush()
    many[2].end()
    for _ in range(2):
        for worker in many[:2]:
            worker.shared.refresh()
            assert (worker.store.recorded, worker.store.rejected) == (3, 3)
        many[0].shared.work()


def test_buckets_of_a_worker_without_bounds_are_counted_from_its_distribution(workers: Workers) -> None:
    """A reader that exposes buckets has them for all records, also if the other worker counts by none."""
    one, reader = workers.some(2)
    for value in range(1, 1_001):
        record(one.store, "histogram", "size", value)
    assert readings(reader)["size", ()]["count"] == 1_000
    reader.store.describe("size", buckets=(100, 500))
    buckets = reader.read().readings()[0].buckets
    assert buckets is not None
    assert sum(buckets.counts) == 1_000
    assert list(buckets.counts) == pytest.approx([100, 400, 500], abs=10)


def test_closed_slots_survive_a_rewrite_of_their_file(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file of closed slots is written again now and then, and stays small; the windows are the same."""
    monkeypatch.setattr(sharing, "COMPACT_BYTES", 2_000)
    one, reader = workers.some(2)
    sizes = []
    for second in range(400):
        record(one.store, "timer", "db", float(second), {"query": "q"})
        workers.clock.advance(1)
        one.shared.flush()
        sizes.append(max(path.stat().st_size for path in workers.group.folder.glob(f"{one.stem}.*s")))
        if second % 50 == 49:
            assert reader.read().summary("db")["count"] == second + 1
            expected, found = (worker.store.summary("db", MINUTE) for worker in (one, reader))
            assert found == pytest.approx(expected)
            expected, found = (worker.store.summary("db", MINUTE, {"query": "q"}) for worker in (one, reader))
            assert found == pytest.approx(expected)
    assert any(later < earlier for earlier, later in pairwise(sizes))


def test_another_kind_of_metric_with_the_name_is_left_out(
    workers: Workers, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker of another version of the application does not disturb a read; the fault is logged once."""
    one, reader = workers.some(2)
    record(one.store, "gauge", "requests", 7)
    record(one.store, "counter", "others", 1)
    record(reader.store, "counter", "requests", 2)
    for _ in range(2):
        assert total(reader, "requests") == 2
        assert total(reader, "others") == 1
        record(one.store, "gauge", "requests", 8)
    assert caplog.text.count("a metric of another worker is left out") == 1


def test_removals_do_not_pile_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Old ones are dropped from the file and from the memory of workers, and nothing comes back."""
    monkeypatch.setattr(removed, "MAX_REMOVED", 50)
    workers = Workers(tmp_path, expire_after=timedelta(seconds=60))
    one, other, dead = workers.some(3)
    for worker in (one, other, dead):
        for user in range(40):
            record(worker.store, "counter", "requests", 1, {"user": f"{worker.stem}{user}"})
    dead.end()
    one.shared.work()
    assert len(readings(one)) == 120
    workers.clock.advance(61)
    assert readings(one) == {}
    one.shared.work()
    other.shared.work()
    assert (tmp_path / "removed").stat().st_size > 2_000
    workers.clock.advance(601)
    for worker in (one, other, workers.make()):
        record(worker.store, "counter", "requests", 1, {"user": "new"})
        worker.shared.work()
        assert len(readings(worker)) == 1
    path = tmp_path / "removed"
    assert path.stat().st_size < 200
    for worker in (one, other, workers.make()):
        assert len(readings(worker)) == 1


@pytest.mark.skipif(engine.ENGINE == "pure", reason="loses what was recorded since the last write")
def test_a_kill_loses_no_window_if_the_background_thread_is_late(workers: Workers) -> None:
    """A busy worker whose closed slots wait for long writes them itself, so that no second is missing."""
    busy, other = workers.some(2)
    for _ in range(6):
        busy.store.find("histogram", "size", {}).observe(1)
        workers.clock.advance(1)
    workers.group.alive.discard(busy.stem)  # killed before its next `flush`
    assert other.store.summary("size")["count"] == 6
    assert other.store.summary("size", timedelta(seconds=3))["count"] == 3


def test_threads_read_while_others_record(tmp_path: Path) -> None:
    """Several threads read all numbers of workers that record and end; no total falls for any of them."""
    workers = Workers(tmp_path)
    recording, reader = workers.make(), workers.make()
    is_over = Event()
    problems: list[Any] = []

    def read() -> None:
        before: tuple[float, float] = (0, 0)
        while not is_over.is_set():
            try:
                count = sum(one.summary["count"] for one in reader.store.readings())
                found = (count, reader.store.summary("db")["count"] if count else 0)
            except Exception as error:  # noqa: BLE001 - the test reports it
                problems.append(error)
                return
            if found[0] < before[0] or found[1] < before[1]:
                problems.append((before, found))
            before = found

    threads = [Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for step in range(300):
        record(recording.store, "timer", "db", float(step), {"route": str(step % 50)})
        recording.shared.flush()
        workers.clock.advance(0.2)
        if step % 60 == 59:
            recording.end()
            recording = workers.make()
            reader.shared.work()
    is_over.set()
    for thread in threads:
        thread.join()
    assert problems == []
    assert reader.read().summary("db")["count"] == 300
