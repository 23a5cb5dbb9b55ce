"""Measuring a command through the facade: the records and the progress."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from metrics_framework.cli.measure import describe_exit, measure
from metrics_framework.errors import InvalidInputError

MB = 1_000_000


def sh(script: str) -> list[str]:
    """Return the command that runs a shell script."""
    return ["sh", "-c", script]


@pytest.fixture(autouse=True)
def plain_streams(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Work in an empty folder, independent of the terminal that the tests run in."""
    monkeypatch.chdir(tmp_path)
    for name in ("FORCE_COLOR", "NO_COLOR", "COLUMNS", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (1, "exit code 1"),
        (255, "exit code 255"),
        (-2, "signal SIGINT"),
        (-9, "signal SIGKILL"),
        (-11, "signal SIGSEGV"),
        (-63, "signal 63"),
    ],
)
def test_an_exit_is_described_in_words(code: int, text: str) -> None:
    """An exit code is named as such, and a signal by its name, or its number if it has no name."""
    assert describe_exit(code) == text


def test_every_run_is_recorded(capfd: pytest.CaptureFixture[str]) -> None:
    """Each run is one record of the timer and one success; quick runs that succeed print nothing."""
    measurement = measure(["sleep", "0.05"], name="nap", runs=3, warmup=0)
    system = measurement.system
    summary = system.aggregator.get_metric_summary("nap")
    assert (measurement.name, measurement.runs, measurement.failures) == ("nap", 3, 0)
    assert not measurement.interrupted
    assert summary["count"] == 3
    assert 50 <= summary["min"] <= summary["avg"] <= summary["max"] < 5_000
    assert system.tracker.get_success_rate("nap") == 1.0
    assert system.tracker.get_failure_breakdown("nap") == {}
    assert capfd.readouterr() == ("", "")


def test_durations_are_kept_in_order() -> None:
    """The list holds the duration of each run in milliseconds."""
    script = "echo >> runs; if [ $(wc -l < runs) = 2 ]; then sleep 0.3; fi"
    measurement = measure(sh(script), name="uneven", runs=3, warmup=0)
    first, slow, last = measurement.milliseconds
    assert slow > 300 > max(first, last)
    summary = measurement.system.aggregator.get_metric_summary("uneven")
    assert summary["sum"] == pytest.approx(first + slow + last)


def test_warm_up_runs_happen_and_are_not_recorded() -> None:
    """The command runs once more for each warm-up, which is neither recorded nor counted as a failure."""
    measurement = measure(sh("echo >> runs; [ $(wc -l < runs) -gt 2 ]"), name="warm", runs=3, warmup=2)
    assert len(Path("runs").read_text().splitlines()) == 5
    assert (measurement.runs, measurement.failures) == (3, 0)
    assert measurement.system.aggregator.get_metric_summary("warm")["count"] == 3
    assert measurement.system.tracker.get_success_rate("warm") == 1.0


def test_a_failed_warm_up_is_reported(capfd: pytest.CaptureFixture[str]) -> None:
    """The exit code and the error output are shown."""
    measure(
        sh("echo >> runs; [ $(wc -l < runs) -gt 1 ] || { echo cold >&2; exit 4; }"),
        name="w",
        runs=1,
        warmup=1,
    )
    errors = capfd.readouterr().err
    assert "warm-up failed: exit code 4" in errors
    assert "cold" in errors


def test_memory_of_the_warm_up_is_excluded() -> None:
    """Peak memory of a first run does not count if that run is the warm-up."""
    code = "import os\nif not os.path.exists('warm'): open('warm', 'w').close(); x = b'x' * 100_000_000"
    command = [sys.executable, "-I", "-S", "-c", code]
    cold = measure(command, name="cold", runs=2, warmup=0).system.resource_monitor.get_memory_usage()
    Path("warm").unlink()
    warm = measure(command, name="warm", runs=1, warmup=1).system.resource_monitor.get_memory_usage()
    assert warm["process_peak_rss"] < 60 * MB < 100 * MB < cold["process_peak_rss"]


def test_failures_are_counted_by_exit_code_and_signal(capfd: pytest.CaptureFixture[str]) -> None:
    """Each failure is shown at once with the end of the error output."""
    script = """
        echo >> runs; echo "this is run $(wc -l < runs)" >&2
        case $(wc -l < runs) in 1) exit 3;; 2) kill -KILL $$;; 3) exit 3;; 4) kill -SEGV $$;; esac
    """
    measurement = measure(sh(script), name="flaky", runs=5, warmup=0)
    assert (measurement.runs, measurement.failures) == (5, 4)
    assert measurement.system.tracker.get_failure_breakdown("flaky") == {
        "exit code 3": 2,
        "signal SIGKILL": 1,
        "signal SIGSEGV": 1,
    }
    assert measurement.system.tracker.get_success_rate("flaky") == pytest.approx(0.2)
    assert measurement.system.aggregator.get_metric_summary("flaky")["count"] == 5
    output, errors = capfd.readouterr()
    assert output == ""
    assert [line.split() for line in errors.splitlines()] == [
        line.split()
        for line in (
            "run 1 failed: exit code 3",
            "this is run 1",
            "run 2 failed: signal SIGKILL",
            "this is run 2",
            "run 3 failed: exit code 3",
            "this is run 3",
            "run 4 failed: signal SIGSEGV",
            "this is run 4",
        )
    ]


def test_the_snapshot_describes_the_command() -> None:
    """Latency, memory and CPU are those of the command, and a tag names the operation."""
    code = "import time; x = b'x' * 60_000_000\nwhile time.process_time() < 0.2: pass"
    measurement = measure([sys.executable, "-I", "-S", "-c", code], name="job", runs=1, warmup=0)
    snapshot = measurement.system.snapshot()
    summary = measurement.system.aggregator.get_metric_summary("job")
    metrics = snapshot.metrics
    assert snapshot.metadata.tags == {"latency_metric": "job"}
    assert metrics.latency is not None
    assert metrics.latency.mean == pytest.approx(summary["avg"])
    assert metrics.memory_mb is not None
    assert 60 < metrics.memory_mb < 100
    assert metrics.cpu_percent is not None
    assert 0 < metrics.cpu_percent <= 100
    assert list(metrics.custom.values()) == [1.0]


def test_a_command_that_cannot_start_is_an_error() -> None:
    """The error names the command, in the warm-up and in the first run."""
    for warmup in (0, 1):
        with pytest.raises(InvalidInputError, match="cannot run 'no-such-program'"):
            measure(["no-such-program"], name="no", runs=1, warmup=warmup)
