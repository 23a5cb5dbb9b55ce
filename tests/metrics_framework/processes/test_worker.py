"""Systems of several processes that share their numbers: what each of them answers, exports and leaves."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from metrics_adapters.null import NullAggregator, NullCollector, NullTimer, NullTracker
from metrics_framework import InvalidInputError, MetricsSystem
from metrics_framework.processes import worker as workers
from metrics_framework.processes.group import KEY_VARIABLE
from metrics_framework.recording import engine
from tests.metrics_framework.processes.programs import ROOT, Program, programs
from tests.metrics_framework.runtime.children import forks, in_a_child

pytestmark = forks
PATIENCE = 20.0
ENGINES = ["pure", "compiled"] if engine.ENGINE == "compiled" else ["pure"]
Start = Callable[..., Program]


@pytest.fixture(params=ENGINES)
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts a worker of the group ``shop``, with the variable ``metrics``."""
    is_pure = {"METRICS_FRAMEWORK_PURE": "1"} if request.param == "pure" else {}
    with programs() as starting:

        def begin(arguments: str = "", code: str = "") -> Program:
            create = f"metrics = MetricsSystem(shared={str(tmp_path / 'shared')!r}, {arguments})"
            lines = f"import os, sys, time\nfrom metrics_framework import MetricsSystem\n{code}\n{create}"
            return starting(lines, **{KEY_VARIABLE: "shop"}, **is_pure)

        yield begin


def total(program: Program, name: str = "orders") -> Any:
    """Return the total that a worker knows of a counter."""
    return program.do(f"(metrics.aggregator.get_metric_summary({name!r})['total'])")


def wait_for(expected: object, answer: Callable[[], object]) -> None:
    """Wait until a function returns a value."""
    end = time.monotonic() + PATIENCE
    while (found := answer()) != expected:
        assert time.monotonic() < end, f"{found!r} instead of {expected!r}"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="only root can change its user")
def test_a_worker_that_cannot_share_as_its_new_user_says_so(tmp_path):
    """Its error names what to change, and its own numbers go on."""
    code = f"""
import os, time
from metrics_framework import MetricsSystem
from metrics_framework.log import log_event
metrics = MetricsSystem(shared={str(tmp_path / "shared")!r})
log_event("warning", "begin")  # imports what the other user may not read
os.setuid(65534)
metrics.collector.increment("orders")
time.sleep(1.5)
print(metrics.aggregator.get_metric_summary("orders")["total"], flush=True)
os._exit(0)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )
    assert done.stdout == "1\n"
    assert "has changed its user" in done.stderr
    assert "without preload_app" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(engine.ENGINE == "pure", reason="loses what a child recorded in its last half second")
@pytest.mark.skipif(sys.version_info >= (3, 12), reason="gevent fails in a child if it was patched late")
@pytest.mark.parametrize("order", ["import", "patch", "create"])
def test_gevent_may_patch_before_or_after_the_system_is_created(tmp_path, order):
    """The system and its forked children work with threads that are greenlets, and nothing hangs."""
    pytest.importorskip("gevent")
    patch = "from gevent import monkey; monkey.patch_all()\n"
    create = f"metrics = MetricsSystem(shared={str(tmp_path / 'shared')!r})\n"
    load = "from metrics_framework import MetricsSystem\n"
    orders = {
        "import": load + patch + create,
        "patch": patch + load + create,
        "create": load + create + patch,
    }
    code = f"""
import os
{orders[order]}
if not (child := os.fork()):
    metrics.collector.increment("orders")
    os._exit(0)
os.waitpid(child, 0)
metrics.collector.increment("orders")
print(metrics.aggregator.get_metric_summary("orders")["total"])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )
    assert done.stdout == "2\n", done.stderr


# -- one set of numbers ----------------------------------------------------------------------------------


@pytest.mark.heavy
def test_each_worker_answers_for_all(start):
    """Totals, percentiles, windows, health and the scrape of one worker include the records of the others."""
    first, second = start(), start()
    for number, program in enumerate((first, second), 1):
        program.do(f"metrics.collector.record_counter('orders', {number}, {{'item': 'book'}})")
        program.do(f"metrics.collector.record_histogram('size', {number})")
        program.do("with metrics.measure('place'): pass")
    for program in (first, second):
        wait_for(3, lambda program=program: total(program))
        wait_for(2, lambda program=program: program.do("(metrics.get_system_health()['operations'])"))
        summary = program.do("(dict(metrics.aggregator.get_metric_summary('size')))")
        assert (summary["count"], summary["min"], summary["max"], summary["p50"]) == (2, 1, 2, 1)
        assert program.do("(metrics.snapshot().metrics.custom['orders[item:book]'])") == 3
        text = program.do("(metrics.aggregator.export_metrics('prometheus'))")
        assert 'orders_total{item="book"} 3' in text
        assert "place_duration_seconds_count 2" in text


@pytest.mark.heavy
def test_a_worker_takes_nothing_with_it(start):
    """After a worker has ended, with or without a shutdown, the others still have its records."""
    first, second, third = start(), start(), start("shutdown_on_exit=True")
    for program in (first, second, third):
        program.do("metrics.collector.increment('orders')")
    wait_for(3, lambda: total(first))
    second.kill()
    third.end()
    time.sleep(1.5)
    assert total(first) == 3
    fourth = start()
    wait_for(3, lambda: total(fourth))


@pytest.mark.heavy
def test_a_stepped_gauge_counts_living_workers(start):
    """The requests in flight of a killed worker are not in flight any more; a gauge that is set stays."""
    first, second = start(), start()
    for program, number in ((first, 2), (second, 3)):
        program.do("metrics.collector.record_gauge('in_flight', 0)")
        program.do(f"for _ in range({number}): metrics.collector.increment('in_flight')")
        program.do(f"metrics.collector.record_gauge('version', {number})")

    def last(name: str) -> object:
        return first.do(f"(metrics.aggregator.get_metric_summary({name!r})['last'])")

    wait_for(5, lambda: last("in_flight"))
    second.kill()
    wait_for(2, lambda: last("in_flight"))
    assert last("version") == 3


@pytest.mark.heavy
def test_process_metrics_are_per_worker(start):
    """Each worker has its own memory, under a small number; the machine's is recorded once."""
    first, second = start(), start()
    for program in (first, second):
        program.do("metrics.initialize_metrics({'collection_interval': 0.2})")

    def series(name: str) -> object:
        values = f"metrics.aggregator.get_metrics_by_tag({{}}) if value.name == {name!r}"
        return first.do(f"(sorted(value.tags.get('worker', '') for value in {values}))")

    wait_for(["0", "1"], lambda: series("process.memory.usage"))
    assert series("system.memory.available") == [""]
    second.kill()
    wait_for(["0"], lambda: series("process.memory.usage"))


# -- work for all ----------------------------------------------------------------------------------------

FILES = """
class Output:
    name = "files"
    def export(self, system):
        total = system.aggregator.get_metric_summary("orders")["total"]
        with open({path!r}, "a") as file:
            file.write(f"{{os.getpid()}} {{total}}\\n")
"""


def exports(path: Path) -> list[tuple[int, int]]:
    """Return the process and the total of each export."""
    with suppress(FileNotFoundError):
        return [(int(pid), int(total)) for pid, total in map(str.split, path.read_text().splitlines())]
    return []


@pytest.mark.heavy
def test_one_worker_exports_for_all(start, tmp_path):
    """At the interval, only the elected worker exports, with the numbers of all; another one succeeds it."""
    path = tmp_path / "exports"
    by_pid = {}
    for _ in range(2):
        program = start("outputs=[Output()]", FILES.format(path=str(path)))
        program.do("metrics.collector.increment('orders')")
        program.do("metrics.initialize_metrics({'collection_interval': 0.1})")
        by_pid[program.pid] = program
    wait_for(True, lambda: len(exports(path)) >= 3 and exports(path)[-1][1] == 2)
    elected = {pid for pid, _ in exports(path)}
    assert len(elected) == 1
    by_pid.pop(elected.pop()).kill()
    before = len(exports(path))
    [other] = by_pid
    wait_for((other, 2), lambda: exports(path)[before:] and exports(path)[-1])


@pytest.mark.heavy
def test_the_last_worker_writes_the_final_outputs(start, tmp_path):
    """Outputs get one final export, with the numbers of all, from the worker that leaves last."""
    path = tmp_path / "exports"
    first, second = (
        start("outputs=[Output()], shutdown_on_exit=True", FILES.format(path=str(path))) for _ in range(2)
    )
    for program in (first, second):
        program.do("metrics.collector.increment('orders')")
    first.end()
    assert exports(path) == []
    assert second.end() == ""
    assert exports(path) == [(second.pid, 2)]
    assert list((tmp_path / "shared").iterdir()) == []


@contextmanager
def statsd_server() -> Iterator[Callable[[], Counter[str]]]:
    """Return a function that adds up the lines that a StatsD server on the port of its attribute received."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.setblocking(False)
        sums: Counter[str] = Counter()

        def received() -> Counter[str]:
            with suppress(BlockingIOError):
                while True:
                    for line in server.recv(65_536).decode().splitlines():
                        name, _, number = line.partition(":")
                        value, kind = number.split("|")
                        sums[name] = int(float(value)) + (sums[name] if kind == "c" else 0)
                        sums[f"{name}|{kind}"] += 1
            return sums

        received.port = server.getsockname()[1]  # type: ignore[attr-defined]
        yield received


@pytest.mark.heavy
def test_each_worker_sends_its_own_increments(start):
    """StatsD gets each record once, whichever worker is elected, and gauges from one worker."""
    with statsd_server() as received:
        url = f"statsd://127.0.0.1:{received.port}"  # type: ignore[attr-defined]
        group = [start("shutdown_on_exit=True") for _ in range(3)]
        config = {"collection_interval": 0.2, "export_endpoints": [url]}
        for program in group:
            program.do(f"metrics.initialize_metrics({config!r})")
        for number, program in enumerate(group, 1):
            program.do(f"metrics.collector.record_counter('orders', {number})")
            program.do("metrics.collector.record_histogram('size', 7)")
        wait_for((6, 3), lambda: (received()["orders"], received()["size.count"]))
        group.pop(0).end()  # the elected one
        for program in group:
            program.do("metrics.collector.record_counter('orders', 10)")
            program.end()
        assert received()["orders"] == 26
        assert received()["size.count"] == 3
        assert received()["size.p50"] == 7


# -- child processes -------------------------------------------------------------------------------------

POOL = """
import multiprocessing, os, sys
from concurrent.futures import ProcessPoolExecutor
from metrics_framework import MetricsSystem

metrics = MetricsSystem(shared={folder!r})

def work(number):
    metrics.collector.increment("items")
    metrics.collector.record_histogram("sizes", number)
    return os.getpid()

def count():
    summary = metrics.aggregator.get_metric_summary("items")
    return summary["total"], metrics.aggregator.get_metric_summary("sizes")["max"]

if __name__ == "__main__":
    context = multiprocessing.get_context({method!r})
    pool = context.Pool(3, maxtasksperchild=7)
    pids = set(pool.map(work, range(60), chunksize=5))
    pool.close()
    pool.join()
    with ProcessPoolExecutor(2, mp_context=context) as executor:
        pids |= set(executor.map(work, range(60, 100)))
    assert len(pids) > 1 and os.getpid() not in pids
    print(*count())
"""


@pytest.mark.heavy
@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_children_of_pools_are_counted(method, name, tmp_path):
    """Children of multiprocessing leave by `os._exit`, and yet none of their records is lost."""
    script = tmp_path / "pool.py"
    script.write_text(POOL.format(folder=str(tmp_path / "shared"), method=method))
    paths = os.pathsep.join([str(ROOT), str(ROOT / "adapters"), *sys.path])
    is_pure = {"METRICS_FRAMEWORK_PURE": "1"} if name == "pure" else {}
    done = subprocess.run(
        [sys.executable, script],
        env={**os.environ, "PYTHONPATH": paths, **is_pure},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "100 99\n"), done.stderr
    assert list((tmp_path / "shared").iterdir()) == []


@pytest.mark.heavy
def test_a_forked_child_is_a_worker(start):
    """A child starts at zero, records for all, and is counted alive and after it has ended."""
    program = start()
    program.do("metrics.collector.increment('orders')")
    program.do("ours, theirs = os.pipe(), os.pipe()")
    fork = """
child = os.fork()
if child == 0:
    metrics.collector.record_counter('orders', 10)
    time.sleep(1.2)
    os.write(ours[1], str(metrics.aggregator.get_metric_summary('orders')['total']).encode())
    os.read(theirs[0], 1)
    os._exit(0)
"""
    program.do(fork)
    assert program.do("(os.read(ours[0], 10))") == b"11"
    assert total(program) == 11
    program.do("os.write(theirs[1], b'x'); os.waitpid(child, 0)")
    time.sleep(1)
    assert total(program) == 11


@pytest.mark.heavy
def test_a_forked_child_exports_at_the_interval_of_its_parent(start, tmp_path):
    """If the parent, which was elected, is gone, its child goes on exporting for all."""
    path = tmp_path / "exports"
    program = start("outputs=[Output()]", FILES.format(path=str(path)))
    program.do("metrics.collector.increment('orders')")
    program.do("metrics.initialize_metrics({'collection_interval': 0.1})")
    wait_for(True, lambda: exports(path) != [])
    child = program.do("(os.fork() or [os.close(0), os.close(1), time.sleep(60), os._exit(0)])")
    try:
        time.sleep(0.5)
        assert {pid for pid, _ in exports(path)} == {program.pid}
        program.process.kill()
        program.process.wait()
        before = len(exports(path))
        wait_for((child, 1), lambda: exports(path)[before:] and exports(path)[-1])
    finally:
        os.kill(child, 9)


@pytest.mark.heavy
def test_a_forked_child_writes_no_final_outputs(start, tmp_path):
    """A child that reaches the end of the interpreter leaves the final outputs to its parent."""
    path = tmp_path / "exports"
    program = start("outputs=[Output()], shutdown_on_exit=True", FILES.format(path=str(path)))
    program.do("metrics.collector.increment('orders')")
    program.do("child = os.fork()\nif child == 0: os.dup2(os.open('/dev/null', os.O_RDONLY), 0); sys.exit(0)")
    program.do("os.waitpid(child, 0)")
    assert exports(path) == []
    program.end()
    assert exports(path) == [(program.pid, 1)]


CHILD_THAT_LIVES_ON = """
reading, writing = os.pipe()
child = os.fork()
if child == 0:
    for stream in (0, 1):
        os.dup2(os.open("/dev/null", os.O_RDWR), stream)
    os.close(writing)
    os.read(reading, 1)  # until the parent has ended
    metrics.collector.increment("orders")
    sys.exit(0)
"""


@pytest.mark.heavy
def test_a_child_that_lives_on_costs_no_final_outputs(start, tmp_path):
    """Its parent writes them when it ends, and the child once more when it ends as the last one."""
    path = tmp_path / "exports"
    program = start("outputs=[Output()], shutdown_on_exit=True", FILES.format(path=str(path)))
    program.do("metrics.collector.increment('orders')")
    program.do(CHILD_THAT_LIVES_ON)
    child = program.do("(child)")
    program.end()
    assert exports(path)[0] == (program.pid, 1)
    wait_for([(program.pid, 1), (child, 2)], lambda: exports(path))


CELERY = """
import os
from celery import Celery
from metrics_framework import MetricsSystem

metrics = MetricsSystem(shared={folder!r})
app = Celery("tasks", broker="filesystem://", backend="file://{results}")
app.conf.broker_transport_options = {{
    "data_folder_in": {queue!r}, "data_folder_out": {queue!r}, "control_folder": {control!r},
}}
app.conf.worker_hijack_root_logger = False

@app.task
def work(number):
    metrics.collector.increment("tasks")
    return os.getpid()

@app.task
def total():
    return metrics.aggregator.get_metric_summary("tasks")["total"]

@app.task
def die(number):
    metrics.collector.increment("tasks")
    os.kill(os.getpid(), 9)
"""


@pytest.mark.heavy
@pytest.mark.skipif(engine.ENGINE == "pure", reason="loses what a child recorded in its last half second")
def test_a_celery_pool_shares_its_numbers(tmp_path):
    """Children of Celery's prefork pool that are recycled or killed take no task with them."""
    pytest.importorskip("celery")
    queue, control, results = (tmp_path / name for name in ("queue", "control", "results"))
    for folder in (queue, control, results):
        folder.mkdir()
    folders = {"queue": str(queue), "control": str(control), "results": str(results)}
    module = CELERY.format(folder=str(tmp_path / "shared"), **folders)
    (tmp_path / "tasks.py").write_text(module)
    paths = os.pathsep.join([str(tmp_path), str(ROOT), str(ROOT / "adapters"), *sys.path])
    environ = {**os.environ, "PYTHONPATH": paths}
    log = tmp_path / "log"
    options = ("--concurrency", "3", "--max-tasks-per-child", "5", "--loglevel", "WARNING")
    with log.open("w") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "tasks", "worker", *options],
            cwd=tmp_path,
            env=environ,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    client = """
import tasks, time
pids = {tasks.work.delay(number).get(timeout=60) for number in range(30)}
tasks.die.delay(1)
pids |= {tasks.work.delay(number).get(timeout=60) for number in range(10)}
time.sleep(1.5)
print(len(pids) > 3, {tasks.total.delay().get(timeout=60) for _ in range(6)})
"""
    try:
        done = subprocess.run(
            [sys.executable, "-c", client],
            env=environ,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
    finally:
        server.terminate()
        server.wait(30)
    assert done.stdout == "True {41}\n", f"{done.stderr}\n{log.read_text()}"


# -- what cannot be shared -------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [1, "", b"folder", None])
def test_only_true_false_or_a_folder_is_allowed(shared):
    """Another value is an error that quotes it."""
    with pytest.raises(InvalidInputError, match="is not true, false or a folder"):
        MetricsSystem(shared=shared)


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    """A file in place of the folder is found out at the start, not after a deploy."""
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInputError, match="pass a folder that the workers can write in"):
        MetricsSystem(shared=tmp_path / "file" / "folder")


def test_a_system_without_a_store_cannot_share(tmp_path):
    """The error names the parts that have no store."""
    with pytest.raises(InvalidInputError, match="have no store"):
        MetricsSystem(
            collector=NullCollector(),
            timer=NullTimer(),
            tracker=NullTracker(),
            aggregator=NullAggregator(),
            shared=tmp_path,
        )


def test_a_store_with_records_cannot_be_shared(tmp_path):
    """Numbers that were recorded before cannot move to where others read them."""
    with MetricsSystem() as first:
        first.collector.increment("orders")
        with pytest.raises(InvalidInputError, match="has records already"):
            MetricsSystem(collector=first.collector, shared=tmp_path)


def test_a_store_is_shared_once(tmp_path):
    """Two systems of one store share it through the first one."""
    with (
        MetricsSystem(shared=tmp_path) as first,
        pytest.raises(InvalidInputError, match="is shared already"),
    ):
        MetricsSystem(collector=first.collector, shared=tmp_path)


def test_windows_counts_for_itself(tmp_path, monkeypatch, caplog):
    """On Windows the system works, and the log has a warning that nothing is shared."""
    monkeypatch.setattr(workers.sys, "platform", "win32")
    with MetricsSystem(shared=tmp_path) as metrics:
        metrics.collector.increment("orders")
        assert metrics.aggregator.get_metric_summary("orders")["total"] == 1
    assert "not shared between processes on Windows" in caplog.text


def test_the_configuration_shares(tmp_path):
    """The key and the environment variable have the effect of the argument."""
    environ = {"METRICS_FRAMEWORK_SHARED": str(tmp_path)}
    with MetricsSystem.from_config(environ=environ) as metrics:
        metrics.collector.increment("orders")
        assert in_a_child(lambda: metrics.aggregator.get_metric_summary("orders")["total"]) == "1"
    with MetricsSystem.from_config({"shared": False}, environ=environ):
        assert list(tmp_path.iterdir()) == []
