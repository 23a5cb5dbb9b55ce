"""Where exports go: what an output refuses is owed to it, bounded, and said where it is lost."""

from __future__ import annotations

import asyncio
import os

import pytest

from metrics_framework.clock import ManualClock
from metrics_framework.errors import InvalidInputError, OutputError
from metrics_framework.export import exporter
from metrics_framework.export.destination import OWED, Destination
from metrics_framework.export.exporter import Outputs
from metrics_framework.export.outputs import FullSnapshot
from metrics_framework.log import Isolation
from metrics_framework.recording import Distribution
from metrics_framework.snapshots import Metrics, PerformanceSnapshot
from metrics_framework.system import MetricsSystem

SYSTEM = MetricsSystem()


class Output:
    """An output that keeps what it is given, or fails."""

    name = "output"

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.written: list[float] = []

    def write(self, snapshot: PerformanceSnapshot) -> None:
        """Keep the snapshot's number, or fail."""
        if self.error is not None:
            raise self.error
        self.written.append(snapshot.metrics.throughput)


class Keeping(Output):
    """An output that keeps distributions as well."""

    keeps_distributions = True

    def write(self, snapshot, distributions=None):
        """Keep both."""
        super().write(snapshot)
        self.kept = distributions


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    """Try the final snapshot again at once."""
    monkeypatch.setattr(exporter, "LAST_PAUSE", 0)


@pytest.fixture
def isolation() -> Isolation:
    """Return what logs failures."""
    return Isolation()


def run(number: float) -> FullSnapshot:
    """Return a run that can be told from others."""
    return FullSnapshot(
        PerformanceSnapshot(Metrics(throughput=number)), {"latency": Distribution.of([number])}
    )


def said(caplog) -> list[str]:
    """Return the log."""
    return [record.getMessage() for record in caplog.records]


def test_what_was_refused_comes_with_the_next_that_is_taken(isolation, caplog):
    """The next snapshot comes first, then what is owed; the log says that it failed and recovered."""
    caplog.set_level("INFO")
    output = Output(OutputError("the disk is full"))
    outputs = Outputs(SYSTEM, [output], ManualClock())
    for number in (1, 2, 3):
        outputs.write(lambda number=number: run(number), isolation, patiently=True)
        assert "full" in outputs.failures["output"]
    output.error = None
    outputs.write(lambda: run(4), isolation, patiently=True)
    assert outputs.failures == {}
    assert output.written == [4, 3, 2, 1]
    outputs.write(lambda: run(5), isolation, patiently=True)
    assert output.written == [4, 3, 2, 1, 5]
    first, second = said(caplog)
    assert "snapshot not written" in first
    assert "the disk is full" in first
    assert "'snapshots written late'" in second
    assert "written=3 lost=0" in second


def test_what_is_owed_is_bounded(isolation, caplog):
    """However long a disk is full, the newest ten are owed, and the log says how many are lost."""
    output = Output(OSError("full"))
    outputs = Outputs(SYSTEM, [output], ManualClock())
    for number in range(1, OWED + 6):
        outputs.write(lambda number=number: run(number), isolation, patiently=True)
    output.error = None
    outputs.write(lambda: run(100), isolation, patiently=True)
    assert output.written == [100, *range(OWED + 5, 5, -1)]
    assert f"written={OWED} lost=5" in said(caplog)[-1]


def test_what_would_be_refused_again_is_not_owed(isolation):
    """An `OSError` says that it may be tried again; a bug does not."""
    output = Output(RuntimeError("a bug"))
    outputs = Outputs(SYSTEM, [output], ManualClock())
    outputs.write(lambda: run(1), isolation, patiently=True)
    output.error = None
    outputs.write(lambda: run(2), isolation, patiently=True)
    assert output.written == [2]


def test_who_asks_is_answered_and_owed_nothing(isolation):
    """A snapshot on demand that fails is the caller's to try again; one that is taken brings what is owed."""
    output = Output(OSError("full"))
    outputs = Outputs(SYSTEM, [output], ManualClock())
    outputs.write(lambda: run(1), isolation, patiently=True)
    asked = asyncio.run(outputs.export(["output"], lambda: run(2), {}, 5.0))
    assert asked == {"output": False}
    output.error = None
    assert asyncio.run(outputs.export(["output"], lambda: run(3), {}, 5.0)) == {"output": True}
    assert output.written == [3, 1]


def test_a_disk_that_fills_up_again_loses_nothing(isolation):
    """Where what is owed is refused once more, it stays owed, in its place."""

    class Filling(Output):
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
        outputs.write(lambda number=number: run(number), isolation, patiently=True)
    assert output.written == [3, 2, 5, 4, 1]


def test_the_final_snapshot_is_tried_again(isolation, caplog):
    """A disk that refuses for a moment at the end costs nothing; what was owed before comes as well."""

    class Late(Output):
        tries = 0

        def write(self, snapshot):
            self.tries += 1
            if self.tries <= 3:
                raise OSError("a moment")
            super().write(snapshot)

    output = Late()
    outputs = Outputs(SYSTEM, [output], ManualClock())
    outputs.write(lambda: run(1), isolation, patiently=True)
    outputs.write_last(lambda: run(2), isolation)
    assert output.written == [2, 1]
    assert "snapshots lost" not in " ".join(said(caplog))


def test_what_is_lost_at_the_end_is_said(isolation, caplog):
    """After a few tries the final snapshot is given up, and the log says how many went with it."""
    output = Output(OSError("full"))
    outputs = Outputs(SYSTEM, [output], ManualClock())
    outputs.write(lambda: run(1), isolation, patiently=True)
    outputs.write_last(lambda: run(2), isolation)
    assert output.written == []
    lost = said(caplog)[-1]
    assert "snapshots lost" in lost
    assert "lost=2" in lost
    outputs.write_last(lambda: run(3), isolation)
    assert "lost=1" in said(caplog)[-1]


def test_an_output_that_works_ends_at_once(isolation, monkeypatch):
    """Nobody waits at the end where nothing is owed."""
    monkeypatch.setattr(exporter, "LAST_PAUSE", 3_600)
    output = Output()
    Outputs(SYSTEM, [output], ManualClock()).write_last(lambda: run(1), isolation)
    assert output.written == [1]


def test_distributions_go_to_those_that_keep_them(isolation):
    """An output that says so gets them; any other is written to as ever."""
    plain, keeping = Output(), Keeping()
    Outputs(SYSTEM, [plain, keeping], ManualClock()).write(lambda: run(7), isolation)
    assert plain.written == keeping.written == [7]
    assert keeping.kept["latency"].count == 1


def test_what_is_owed_outlives_a_configuration(isolation, caplog):
    """An output that is configured anew takes what the one before was owed; else it is lost, and said."""
    first, second = Output(OSError("full")), Output()
    outputs = Outputs(SYSTEM, [], ManualClock())
    outputs.configure([Destination("output", first)])
    outputs.write(lambda: run(1), isolation, patiently=True)
    outputs.configure([Destination("output", second)])
    outputs.write(lambda: run(2), isolation, patiently=True)
    assert (first.written, second.written) == ([], [2, 1])
    second.error = OSError("full")
    outputs.write(lambda: run(3), isolation, patiently=True)
    outputs.configure([])
    assert "snapshots lost" in said(caplog)[-1]


def test_outputs_move_to_another_system_once(isolation):
    """All of them go, an equal one is not written to twice, and nothing is left."""

    class Equal(Output):
        def __eq__(self, other):
            return isinstance(other, Equal)

        __hash__ = None

    mine, theirs, other = Equal(), Equal(), Output()
    source, target = Outputs(SYSTEM, [theirs, other], ManualClock()), Outputs(SYSTEM, [mine], ManualClock())
    source.move_to(target)
    target.write(lambda: run(1), isolation)
    source.write(lambda: run(2), isolation)
    assert (mine.written, theirs.written, other.written) == ([1], [], [1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_owes_nothing(isolation):
    """What is owed is the parent's to write."""
    output = Output(OSError("full"))
    outputs = Outputs(SYSTEM, [output], ManualClock())
    outputs.write(lambda: run(1), isolation, patiently=True)
    outputs.begin_in_child()
    output.error = None
    outputs.write(lambda: run(2), isolation, patiently=True)
    assert output.written == [2]


@pytest.mark.parametrize("wrong", [object(), "snapshots", type("Nameless", (), {"write": print})()])
def test_what_is_no_output_is_refused(wrong):
    """An output has a name and a method to write; the error says so."""
    with pytest.raises(InvalidInputError, match="needs a name and a method"):
        Outputs(SYSTEM, [wrong], ManualClock())
