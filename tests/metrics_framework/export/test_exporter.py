"""Exports are concurrent on demand, pause after failures, retry snapshots, and never raise."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from functools import partial

import pytest
import trio

from metrics_framework.clock import ManualClock
from metrics_framework.errors import InvalidInputError, OutputError, RefusedError
from metrics_framework.export import exporter
from metrics_framework.export.exporter import (
    FIRST_PAUSE_SECONDS,
    MAX_PAUSE_SECONDS,
    MAX_PENDING_SNAPSHOTS,
    Destination,
    Outputs,
    _Usage,
)
from metrics_framework.export.outputs import FullSnapshot
from metrics_framework.log import Isolation
from metrics_framework.recording import Distribution
from metrics_framework.runtime.deadline import Deadline
from metrics_framework.snapshots import Metrics, PerformanceSnapshot
from metrics_framework.system import MetricsSystem

PATIENCE = 20.0
SYSTEM = MetricsSystem()


class Output:
    """An output of the system that counts its exports and can fail."""

    def __init__(self, name="output", error=None):
        self.name, self.error, self.tries = name, error, 0
        self.go_on = threading.Event()
        self.go_on.set()

    def export(self, system):
        """Wait until it may continue; then fail or succeed."""
        self.tries += 1
        assert self.go_on.wait(PATIENCE)
        if self.error is not None:
            raise self.error


def write(outputs, build):
    """Export as at the interval, and wait for the outputs."""
    for _, call in outputs.begin(build, Isolation()):
        assert call.wait(PATIENCE)


def export(system, *endpoints):
    """Export on a loop of asyncio."""
    return asyncio.run(system.export_metrics_async(list(endpoints)))


# -- when asked for ----------------------------------------------------------------------------------------


def test_exports_on_demand_run_concurrently():
    """No endpoint waits for another."""
    meeting = threading.Barrier(3)

    class Meeting(Output):
        def export(self, system):
            meeting.wait(PATIENCE)

    system = MetricsSystem(outputs=[Meeting(name) for name in "abc"])
    assert export(system, "a", "b", "c") == dict.fromkeys("abc", True)


def test_a_hanging_export_times_out(caplog):
    """The result is `False` after the time-out. Other exports are not delayed, and it is not called again."""
    hanging, good = Output("hanging"), Output("good")
    hanging.go_on.clear()
    system = MetricsSystem(outputs=[hanging, good])
    system.initialize_metrics({"export_timeout": 0.1})
    for _ in range(2):
        assert export(system, "hanging", "good") == {"hanging": False, "good": True}
    assert (hanging.tries, good.tries) == (1, 2)
    assert system.export_failures == {"hanging": "no answer within 0.1 seconds"}
    assert "no answer within 0.1 seconds" in caplog.text
    hanging.go_on.set()
    end = time.monotonic() + PATIENCE
    while not export(system, "hanging")["hanging"]:
        assert time.monotonic() < end
    assert system.export_failures == {}


def test_exporting_works_on_trio():
    """The result is the same as on asyncio."""
    system = MetricsSystem(outputs=[Output("good"), Output("bad", OSError("full"))])
    assert trio.run(system.export_metrics_async, ["good", "bad"]) == {"good": True, "bad": False}


def test_the_reason_is_in_the_log_and_on_the_system(caplog):
    """Each failure on demand is logged, and `export_failures` has the reason until the next success."""
    output = Output(error=RefusedError("no such bucket"))
    system = MetricsSystem(outputs=[output])
    for _ in range(2):
        assert export(system, "output") == {"output": False}
    assert caplog.text.count("no such bucket") == 2
    assert system.export_failures == {"output": "RefusedError('no such bucket')"}
    output.error = None
    assert export(system, "output") == {"output": True}
    assert system.export_failures == {}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), MemoryError()])
def test_no_exception_of_an_output_reaches_the_caller(error):
    """Exceptions that would end a thread are failures of the output too."""
    assert export(MetricsSystem(outputs=[Output(error=error)]), "output") == {"output": False}


def test_an_export_accepts_a_url_that_is_not_configured(tmp_path):
    """The endpoint of the URL is created once and keeps its state."""
    system = MetricsSystem()
    system.collector.increment("orders")
    url = f"file://{tmp_path}/metrics.jsonl"
    for _ in range(2):
        assert export(system, url) == {url: True}
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def slow_creation(monkeypatch):
    """Return an event that delays the creation of endpoints, and the threads that created one."""
    from metrics_framework.export import endpoints

    go_on, threads, make = threading.Event(), [], endpoints.make_endpoint

    def slowly(url):
        threads.append(threading.current_thread())
        assert go_on.wait(PATIENCE)
        return make(url)

    monkeypatch.setattr(endpoints, "make_endpoint", slowly)
    return go_on, threads


def test_an_endpoint_is_created_once_in_a_thread(monkeypatch, tmp_path):
    """Its imports do not block the event loop, and concurrent exports create it once."""
    go_on, threads = slow_creation(monkeypatch)
    system = MetricsSystem()
    url = f"file://{tmp_path}/metrics.jsonl"

    async def twice():
        exports = [asyncio.ensure_future(system.export_metrics_async([url])) for _ in range(2)]
        while not threads:
            await asyncio.sleep(0.001)
        go_on.set()
        return await asyncio.gather(*exports)

    assert asyncio.run(twice()) == [{url: True}] * 2
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()


def test_the_creation_of_an_endpoint_times_out(monkeypatch, tmp_path, caplog):
    """The time-out includes the creation, and the other exports succeed."""
    go_on, _ = slow_creation(monkeypatch)
    system = MetricsSystem(outputs=[Output("good")])
    system.initialize_metrics({"export_timeout": 0.1})
    url = f"file://{tmp_path}/metrics.jsonl"
    assert export(system, "good", url) == {"good": True, url: False}
    assert system.export_failures == {"file:…": "not created within 0.1 seconds"}
    assert "not created within 0.1 seconds" in caplog.text
    go_on.set()
    end = time.monotonic() + PATIENCE
    while not export(system, url)[url]:
        assert time.monotonic() < end
    assert system.export_failures == {}


def test_the_number_of_remembered_endpoints_is_limited(tmp_path, monkeypatch):
    """An application that generates URLs does not fill the memory."""
    monkeypatch.setattr(exporter, "MAX_ON_DEMAND_ENDPOINTS", 3)
    system = MetricsSystem()
    urls = [f"file:{tmp_path}/nowhere/{number}.json" for number in range(5)]
    unknown = [f"unknown{number}" for number in range(5)]
    assert not any(export(system, *urls, *unknown).values())
    assert len(system.export_failures) == 2 * 3


def test_the_secret_of_an_unknown_endpoint_is_not_logged(caplog):
    """The result is `False`, and the reason contains only the scheme of the URL."""
    system = MetricsSystem()
    url = "influks+http://me:geheim@host?db=x"
    assert export(system, url) == {url: False}
    assert "Did you mean 'influx+http'" in caplog.text
    assert list(system.export_failures) == ["***:…"]
    assert "geheim" not in caplog.text + str(system.export_failures)


def test_no_secret_of_a_url_reaches_the_log(caplog, monkeypatch):
    """An error of the endpoint that quotes its password is redacted."""
    from metrics_adapters.webhook import WebhookEndpoint

    def fail(self, system):
        raise RuntimeError("https://:ge%2Fheim@host/T0/hidden?sig=sealed: ge/heim")

    monkeypatch.setattr(WebhookEndpoint, "export", fail)
    url = "webhook+https://:ge%2Fheim@host/T0/hidden?sig=sealed"
    system = MetricsSystem()
    assert export(system, url) == {url: False}
    system.initialize_metrics({"export_endpoints": [url]})
    system.shutdown_metrics()
    said = caplog.text + str(system.export_failures)
    assert "RuntimeError" in said
    assert not any(secret in said for secret in ("heim", "T0", "hidden", "sealed"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_exports_while_its_parent_does():
    """An export that hangs in a thread of the parent does not block the child."""
    output = Output()
    output.go_on.clear()
    system = MetricsSystem(outputs=[output])
    system.initialize_metrics({"export_timeout": 0.1})
    assert export(system, "output") == {"output": False}
    child = os.fork()
    if child == 0:
        output.go_on = threading.Event()
        output.go_on.set()
        os._exit(0 if export(system, "output") == {"output": True} else 1)
    output.go_on.set()
    assert os.waitpid(child, 0)[1] == 0


# -- at the interval -----------------------------------------------------------------------------------------


def test_pauses_double_until_a_success(clock, caplog):
    """Each failure doubles the pause, up to five minutes, less a random part; it is logged once."""
    output = Output(error=OSError("down"))
    outputs = Outputs(MetricsSystem(), [output], clock)

    def seconds_until_next_try():
        tries, seconds = output.tries, 0.0
        while output.tries == tries:
            write(outputs, lambda: None)
            clock.advance(0.25)
            seconds += 0.25
        return seconds

    assert seconds_until_next_try() == 0.25
    for failures in range(12):
        pause = min(MAX_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2**failures)
        assert pause / 2 <= seconds_until_next_try() <= pause + 0.5
    assert caplog.text.count("down") == 1
    output.error = None
    seconds_until_next_try()
    assert outputs.failures == {}
    assert seconds_until_next_try() == 0.25


def test_the_final_export_does_not_wait_for_a_pause(clock):
    """The final export and exports on demand are tried during a pause."""
    output = Output(error=OSError("down"))
    system = MetricsSystem(outputs=[output], clock=clock)
    export(system, "output")
    export(system, "output")
    system.shutdown_metrics()
    assert output.tries == 3


def test_local_files_are_started_first(clock):
    """All outputs are started at once: local files before servers, failed ones last."""

    class Local(Output):
        is_local = True

    outputs = [
        Output("bad", OSError("down")),
        Output("server"),
        Local("full", OSError("full")),
        Local("file"),
    ]
    outputs = Outputs(MetricsSystem(), outputs, clock)
    write(outputs, lambda: None)
    clock.advance(MAX_PAUSE_SECONDS)
    begun = outputs.begin(lambda: None, Isolation())
    assert [each.name for each, _ in begun] == ["file", "full", "server", "bad"]


def test_an_output_that_hangs_is_skipped_until_it_returns(clock, caplog):
    """It keeps its own thread, is reported once, and gets the newest numbers when it returns."""
    hanging, good = Output("hanging"), Output("good")
    hanging.go_on.clear()
    outputs = Outputs(MetricsSystem(), [hanging, good], clock)
    outputs.timeout = 0.01
    calls = dict(outputs.begin(lambda: None, Isolation()))
    (stuck,) = (call for each, call in calls.items() if each.name == "hanging")
    for _ in range(3):
        time.sleep(0.02)
        (found,) = outputs.begin(lambda: None, Isolation())
        assert found[0].name == "good"
        assert found[1].wait(PATIENCE)
    assert (hanging.tries, good.tries) == (1, 4)
    assert outputs.failures == {"hanging": "no answer within 0.01 seconds"}
    assert caplog.text.count("no answer within") == 1
    hanging.go_on.set()
    assert stuck.wait(PATIENCE)
    clock.advance(MAX_PAUSE_SECONDS)
    write(outputs, lambda: None)
    assert (hanging.tries, outputs.failures) == (2, {})


def test_a_call_that_waits_gets_the_newest_numbers():
    """Exports that are asked for during another one are one export after it, with the last snapshot."""
    entered, go_on, written = threading.Event(), threading.Event(), []

    class Slow:
        name = "slow"

        def write(self, snapshot):
            entered.set()
            assert go_on.wait(PATIENCE)
            written.append(snapshot.metrics.throughput)

    (slow,) = Outputs(SYSTEM, [Slow()], ManualClock())._given
    calls = [slow.begin(SYSTEM, lambda: run(1), Deadline(PATIENCE))]
    assert entered.wait(PATIENCE)
    calls += [slow.begin(SYSTEM, partial(run, number), Deadline(PATIENCE)) for number in (2, 3)]
    assert calls[1] is calls[2]
    go_on.set()
    assert all(call.wait(PATIENCE) for call in calls)
    assert written == [1, 3]


def test_a_configured_endpoint_is_kept_and_exported_to_at_shutdown(tmp_path):
    """An endpoint that is configured again keeps its state; one that is removed gets no more exports."""
    first, second = f"file://{tmp_path}/a.jsonl", f"file://{tmp_path}/b.jsonl"
    with MetricsSystem.from_config({"export_endpoints": [first]}, environ={}) as system:
        before = system._outputs._configured[0]
        system.initialize_metrics({"export_endpoints": [second, first, first]})
        assert system._outputs._configured[1] is before
        system.initialize_metrics({"export_endpoints": [second]})
        system.collector.increment("orders")
    assert [path.name for path in tmp_path.iterdir()] == ["b.jsonl"]


def test_endpoints_with_the_same_redacted_url_have_different_names():
    """Two endpoints that differ only in a secret get numbered names."""
    system = MetricsSystem()
    urls = [f"webhook+http://127.0.0.1:1/{secret}" for secret in ("first", "second")]
    assert export(system, *urls) == dict.fromkeys(urls, False)
    assert list(system.export_failures) == [
        "webhook+http://127.0.0.1:1",
        "webhook+http://127.0.0.1:1 (2)",
    ]


# -- pending snapshots ---------------------------------------------------------------------------------------


class SnapshotKeeper:
    """An output that stores snapshots, or fails."""

    name = "output"

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.written: list[float] = []

    def write(self, snapshot: PerformanceSnapshot) -> None:
        """Store the number of the snapshot, or fail."""
        if self.error is not None:
            raise self.error
        self.written.append(snapshot.metrics.throughput)


class DistributionKeeper(SnapshotKeeper):
    """An output that stores distributions too."""

    keeps_distributions = True

    def write(self, snapshot, distributions=None):
        """Store both."""
        super().write(snapshot)
        self.kept = distributions


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    """Retry the final snapshot without a pause."""
    monkeypatch.setattr(exporter, "FINAL_PAUSE_SECONDS", 0)


def run(number: float) -> FullSnapshot:
    """Return a snapshot with a number."""
    return FullSnapshot(
        PerformanceSnapshot(Metrics(throughput=number)), {"latency": Distribution.of([number])}
    )


def messages(caplog) -> list[str]:
    """Return the log messages."""
    return [record.getMessage() for record in caplog.records]


def test_refused_snapshots_are_retried_with_the_next_one(caplog):
    """The next snapshot is written first, then the pending ones. Failure and recovery are logged."""
    caplog.set_level("INFO")
    output = SnapshotKeeper(OutputError("the disk is full"))
    outputs = Outputs(SYSTEM, [output], ManualClock())
    for number in (1, 2, 3):
        write(outputs, lambda number=number: run(number))
        assert "full" in outputs.failures["output"]
    output.error = None
    write(outputs, lambda: run(4))
    assert outputs.failures == {}
    assert output.written == [4, 3, 2, 1]
    write(outputs, lambda: run(5))
    assert output.written == [4, 3, 2, 1, 5]
    first, second = messages(caplog)
    assert "snapshot not written" in first
    assert "the disk is full" in first
    assert "'snapshots written late'" in second
    assert "written=3 lost=0" in second


def test_the_number_of_pending_snapshots_is_limited(caplog):
    """The newest ten are pending, and the log reports how many are lost."""
    output = SnapshotKeeper(OSError("full"))
    outputs = Outputs(SYSTEM, [output], ManualClock())
    for number in range(1, MAX_PENDING_SNAPSHOTS + 6):
        write(outputs, lambda number=number: run(number))
    output.error = None
    write(outputs, lambda: run(100))
    assert output.written == [100, *range(MAX_PENDING_SNAPSHOTS + 5, 5, -1)]
    assert f"written={MAX_PENDING_SNAPSHOTS} lost=5" in messages(caplog)[-1]


def test_only_an_os_error_makes_a_snapshot_pending():
    """Any other error would occur again."""
    output = SnapshotKeeper(RuntimeError("a bug"))
    outputs = Outputs(SYSTEM, [output], ManualClock())
    write(outputs, lambda: run(1))
    output.error = None
    write(outputs, lambda: run(2))
    assert output.written == [2]


def test_a_failed_export_on_demand_is_not_pending():
    """The caller can retry it. A successful export on demand also writes the pending snapshots."""
    output = SnapshotKeeper(OSError("full"))
    outputs = Outputs(SYSTEM, [output], ManualClock())
    write(outputs, lambda: run(1))
    asked = asyncio.run(outputs.export(["output"], lambda: run(2), {}))
    assert asked == {"output": False}
    output.error = None
    assert asyncio.run(outputs.export(["output"], lambda: run(3), {})) == {"output": True}
    assert output.written == [3, 1]


def test_a_failed_retry_keeps_the_order():
    """A pending snapshot that is refused again stays pending, in its place."""

    class Filling(SnapshotKeeper):
        room = 0

        def write(self, snapshot):
            if not self.room:
                raise OSError("full")
            self.room -= 1
            super().write(snapshot)

    output = Filling()
    outputs = Outputs(SYSTEM, [output], ManualClock())
    for number, room in enumerate((0, 0, 2, 0, 9), 1):
        output.room = room
        write(outputs, lambda number=number: run(number))
    assert output.written == [3, 2, 5, 4, 1]


def test_the_final_snapshot_is_retried(caplog):
    """A short failure at shutdown loses nothing, and pending snapshots are written too."""

    class Late(SnapshotKeeper):
        tries = 0

        def write(self, snapshot):
            self.tries += 1
            if self.tries <= 3:
                raise OSError("a moment")
            super().write(snapshot)

    output = Late()
    outputs = Outputs(SYSTEM, [output], ManualClock())
    write(outputs, lambda: run(1))
    outputs.begin_final(lambda: run(2), Deadline(5))()
    assert output.written == [2, 1]
    assert "snapshots lost" not in " ".join(messages(caplog))


def test_snapshots_that_are_lost_at_shutdown_are_logged(caplog):
    """After the last retry, the log reports how many snapshots are lost."""
    output = SnapshotKeeper(OSError("full"))
    outputs = Outputs(SYSTEM, [output], ManualClock())
    write(outputs, lambda: run(1))
    outputs.begin_final(lambda: run(2), Deadline(5))()
    assert output.written == []
    lost = messages(caplog)[-1]
    assert "snapshots lost" in lost
    assert "lost=2" in lost


def test_without_pending_snapshots_the_shutdown_does_not_wait(monkeypatch):
    """The pause between retries is skipped."""
    monkeypatch.setattr(exporter, "FINAL_PAUSE_SECONDS", 3_600)
    output = SnapshotKeeper()
    Outputs(SYSTEM, [output], ManualClock()).begin_final(lambda: run(1), Deadline(5))()
    assert output.written == [1]


def test_distributions_go_to_outputs_that_keep_them():
    """An output without `keeps_distributions` gets the snapshot alone."""
    plain, keeping = SnapshotKeeper(), DistributionKeeper()
    write(Outputs(SYSTEM, [plain, keeping], ManualClock()), lambda: run(7))
    assert plain.written == keeping.written == [7]
    assert keeping.kept["latency"].count == 1


def test_pending_snapshots_move_to_a_new_output_of_the_same_name(caplog):
    """Without such an output they are lost, which is logged."""
    first, second = SnapshotKeeper(OSError("full")), SnapshotKeeper()
    outputs = Outputs(SYSTEM, [], ManualClock())
    outputs.configure([Destination("output", first, ManualClock(), _Usage())])
    write(outputs, lambda: run(1))
    outputs.configure([Destination("output", second, ManualClock(), _Usage())])
    write(outputs, lambda: run(2))
    assert (first.written, second.written) == ([], [2, 1])
    second.error = OSError("full")
    write(outputs, lambda: run(3))
    outputs.configure([])
    assert "snapshots lost" in messages(caplog)[-1]


def test_outputs_move_to_another_system_once():
    """All outputs move, except those that the other system has already."""

    class Equal(SnapshotKeeper):
        def __eq__(self, other):
            return isinstance(other, Equal)

        __hash__ = None

    mine, theirs, other = Equal(), Equal(), SnapshotKeeper()
    source, target = Outputs(SYSTEM, [theirs, other], ManualClock()), Outputs(SYSTEM, [mine], ManualClock())
    source.move_to(target)
    write(target, lambda: run(1))
    write(source, lambda: run(2))
    assert (mine.written, theirs.written, other.written) == ([1], [], [1])


def test_a_forked_child_has_no_pending_snapshots():
    """Pending snapshots belong to the parent."""
    output = SnapshotKeeper(OSError("full"))
    outputs = Outputs(SYSTEM, [output], ManualClock())
    write(outputs, lambda: run(1))
    outputs.begin_in_child()
    output.error = None
    write(outputs, lambda: run(2))
    assert output.written == [2]


@pytest.mark.parametrize("wrong", [object(), "snapshots", type("Nameless", (), {"write": print})()])
def test_an_object_that_is_not_an_output_is_refused(wrong):
    """The error states that an output needs a name and a method."""
    with pytest.raises(InvalidInputError, match="needs a name and a method"):
        Outputs(SYSTEM, [wrong], ManualClock())


# -- a string where a list belongs -------------------------------------------------------------------------


def test_a_string_of_endpoints_is_an_error():
    """A string is not a list of its characters. The error hides the secrets of a URL."""
    with pytest.raises(InvalidInputError) as caught:
        asyncio.run(MetricsSystem().export_metrics_async("statsd://me:word@h"))  # type: ignore[arg-type]
    assert str(caught.value) == "endpoints=*** is a string: pass a list: [***]"


def test_a_string_of_outputs_is_an_error():
    """The error shows a list of outputs."""
    with pytest.raises(
        InvalidInputError, match=r"outputs='snapshots' is a string: pass a list of outputs, .*\["
    ):
        MetricsSystem(outputs="snapshots")  # type: ignore[arg-type]
