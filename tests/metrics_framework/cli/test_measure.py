"""Measuring a command through the facade: the records and the progress."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from metrics_framework.cli.measure import (
    Benchmark,
    CommandMeasurement,
    describe_exit,
    measure,
    noise_warning,
    parse_parameter,
    plan_benchmarks,
)
from metrics_framework.errors import InvalidInputError
from metrics_framework.snapshots.provenance import machine_tags
from tests.servers.programs import find, missing

MB = 1_000_000


def sh(script: str) -> list[str]:
    """Return the command that runs a shell script."""
    return ["sh", "-c", script]


def run_benchmark(command: list[str], *, name: str, runs: int, warmup: int) -> CommandMeasurement:
    """Measure a command."""
    return measure(Benchmark(command, name), runs=runs, warmup=warmup)


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
    measurement = run_benchmark(["sleep", "0.05"], name="nap", runs=3, warmup=0)
    system = measurement.system
    summary = system.aggregator.get_metric_summary("nap")
    assert (measurement.name, measurement.runs, measurement.failures) == ("nap", 3, 0)
    assert not measurement.interrupted
    assert summary["count"] == 3
    assert 50 <= summary["min"] <= summary["avg"] <= summary["max"] < 5_000
    assert system.tracker.get_success_rate("nap") == 1.0
    assert system.tracker.get_failure_breakdown("nap") == {}
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_durations_are_kept_in_order() -> None:
    """The list holds the duration of each run in milliseconds."""
    script = "echo >> runs; if [ $(wc -l < runs) = 2 ]; then sleep 0.3; fi"
    measurement = run_benchmark(sh(script), name="uneven", runs=3, warmup=0)
    first, slow, last = measurement.milliseconds
    assert slow > 300 > max(first, last)
    summary = measurement.system.aggregator.get_metric_summary("uneven")
    assert summary["sum"] == pytest.approx(first + slow + last)


def test_warm_up_runs_happen_and_are_not_recorded() -> None:
    """The command runs once more for each warm-up, which is neither recorded nor counted as a failure."""
    measurement = run_benchmark(sh("echo >> runs; [ $(wc -l < runs) -gt 2 ]"), name="warm", runs=3, warmup=2)
    assert len(Path("runs").read_text().splitlines()) == 5
    assert (measurement.runs, measurement.failures) == (3, 0)
    assert measurement.system.aggregator.get_metric_summary("warm")["count"] == 3
    assert measurement.system.tracker.get_success_rate("warm") == 1.0


def test_a_failed_warm_up_is_reported(capfd: pytest.CaptureFixture[str]) -> None:
    """The exit code and the error output are shown."""
    run_benchmark(
        sh("echo >> runs; [ $(wc -l < runs) -gt 1 ] || { echo cold >&2; exit 4; }"),
        name="w",
        runs=1,
        warmup=1,
    )
    errors = capfd.readouterr().err
    assert "warm-up failed: exit code 4" in errors
    assert "cold" in errors


@pytest.mark.slow
def test_memory_of_the_warm_up_is_excluded() -> None:
    """Peak memory of a first run does not count if that run is the warm-up."""
    code = "import os\nif not os.path.exists('warm'): open('warm', 'w').close(); x = b'x' * 100_000_000"
    command = [sys.executable, "-I", "-S", "-c", code]
    cold = run_benchmark(command, name="cold", runs=2, warmup=0).system.resource_monitor.get_memory_usage()
    Path("warm").unlink()
    warm = run_benchmark(command, name="warm", runs=1, warmup=1).system.resource_monitor.get_memory_usage()
    assert warm["process_peak_rss"] < 60 * MB < 100 * MB < cold["process_peak_rss"]


@pytest.mark.slow
def test_failures_are_counted_by_exit_code_and_signal(capfd: pytest.CaptureFixture[str]) -> None:
    """Each failure is shown at once with the end of the error output."""
    script = """
        echo >> runs; echo "this is run $(wc -l < runs)" >&2
        case $(wc -l < runs) in 1) exit 3;; 2) kill -KILL $$;; 3) exit 3;; 4) kill -SEGV $$;; esac
    """
    measurement = run_benchmark(sh(script), name="flaky", runs=5, warmup=0)
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


@pytest.mark.slow
def test_the_snapshot_describes_the_command() -> None:
    """Latency, memory and CPU are those of the command, and a tag names the operation."""
    code = "import time; x = b'x' * 60_000_000\nwhile time.process_time() < 0.2: pass"
    measurement = run_benchmark([sys.executable, "-I", "-S", "-c", code], name="job", runs=1, warmup=0)
    snapshot = measurement.system.snapshot()
    summary = measurement.system.aggregator.get_metric_summary("job")
    metrics = snapshot.metrics
    assert snapshot.metadata.tags == {"latency_metric": "job", **machine_tags()}
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
            run_benchmark(["no-such-program"], name="no", runs=1, warmup=warmup)


# -- what is measured ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_preparation_runs_before_each_run() -> None:
    """It runs in a shell, also before warm-up runs, and is not measured."""
    benchmark = Benchmark(sh("wc -l < prepared >> seen"), "op", prepare="sleep 0.4; echo >> prepared")
    measurement = measure(benchmark, runs=2, warmup=1)
    assert Path("seen").read_text().split() == ["1", "2", "3"]
    assert min(measurement.milliseconds) < 400
    with pytest.raises(InvalidInputError, match="--prepare 'echo why >&2; exit 3' failed: exit code 3: why"):
        measure(Benchmark(["true"], "op", prepare="echo why >&2; exit 3"), runs=1, warmup=0)


def test_a_preparation_may_start_a_server() -> None:
    """A background process of the preparation, which keeps its streams open, does not delay the run."""
    begin = time.monotonic()
    measure(Benchmark(["true"], "op", prepare="sleep 30 & echo $! >> servers"), runs=2, warmup=0)
    servers = [int(pid) for pid in Path("servers").read_text().split()]
    for pid in servers:
        os.kill(pid, signal.SIGKILL)
    assert len(servers) == 2
    assert time.monotonic() - begin < 20


def test_exit_codes_can_be_ignored(capfd: pytest.CaptureFixture[str]) -> None:
    """A non-zero exit code is a success that is counted, and not shown. A signal stays a failure."""
    script = "echo >> runs; [ $(wc -l < runs) -lt 3 ] || kill -SEGV $$; exit 4"
    measurement = measure(Benchmark(sh(script), "op", ignores_failure=True), runs=3, warmup=0)
    assert (measurement.failures, measurement.ignored) == (1, {"exit code 4": 2})
    assert measurement.system.tracker.get_failure_breakdown("op") == {"signal SIGSEGV": 1}
    assert [line.strip() for line in capfd.readouterr().err.splitlines()] == ["run 3 failed: signal SIGSEGV"]


@pytest.mark.parametrize(("target", "kind"), [("pipe", "fifo"), ("null", "character special file")])
def test_output_is_discarded_by_a_pipe_or_the_null_device(target: str, kind: str) -> None:
    """The command sees the kind of its standard output."""
    script = "[ -p /dev/stdout ] && echo fifo > kind || echo character special file > kind"
    measure(Benchmark(sh(script), "op", output_to=target), runs=1, warmup=0)
    assert Path("kind").read_text().strip() == kind


def test_output_can_be_shown_or_written(capfd: pytest.CaptureFixture[str]) -> None:
    """A file has the output of the last run. A file that cannot be written is an error."""
    measure(Benchmark(["echo", "shown"], "op", output_to="inherit"), runs=2, warmup=0)
    assert capfd.readouterr().out == "shown\nshown\n"
    measure(Benchmark(["echo", "kept"], "op", output_to="file"), runs=2, warmup=0)
    assert Path("file").read_text() == "kept\n"
    with pytest.raises(InvalidInputError, match=r"cannot write 'no/file': .*; pass another"):
        measure(Benchmark(["true"], "op", output_to="no/file"), runs=1, warmup=0)


def test_every_combination_is_a_benchmark() -> None:
    """Parameters are replaced in the command, its name and the preparation, all at once."""
    planned = plan_benchmarks(
        [["make", "-j", "{n}", "{n}{who}{x}"]],
        ["{who}"],
        {"n": ["1", "{who}"], "who": ["a"]},
        prepare="rm {n}",
    )
    assert [(one.command, one.name, one.prepare, one.parameters) for one in planned] == [
        (["make", "-j", "1", "1a{x}"], "a", "rm 1", {"n": "1", "who": "a"}),
        (["make", "-j", "{who}", "{who}a{x}"], "a", "rm {who}", {"n": "{who}", "who": "a"}),
    ]


def test_several_benchmarks_are_named_by_their_command_lines() -> None:
    """A single one has the name of the program, because its arguments are often long."""
    assert [one.name for one in plan_benchmarks([["/bin/ls", "a b"]], [], {})] == ["ls"]
    two = plan_benchmarks([["/bin/ls", "a b"], ["true"]], [], {})
    assert [one.name for one in two] == ["/bin/ls 'a b'", "true"]


def test_a_list_of_values_may_contain_commas() -> None:
    """A backslash keeps a comma in its value."""
    assert parse_parameter(r"a,b c,,d\,e") == ["a", "b c", "", "d,e"]


# -- noise ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("milliseconds", "warning"),
    [
        ([20.0, 10.1, 9.9, 10.2, 10.0, 10.1], "the first run took 20 ms, the median 10.1 ms"),
        ([10.0, 10.1, 9.9, 10.2, 20.0, 10.1], "1 of 6 runs are outliers"),
        ([10.0, 10.0, 10.0, 10.0, 10.0, 10.0, 10.0, 100.0, 100.0], "2 of 9 runs are outliers"),
        ([10.0, 11.0, 9.0, 12.0, 13.0, 10.5], None),
        ([20.0, 10.0, 10.0, 10.0], None),
        ([], None),
    ],
)
def test_noise_is_judged_as_by_hyperfine(milliseconds: list[float], warning: str | None) -> None:
    """A first run, or any run, beyond ten standard deviations of the others is a warning."""
    found = noise_warning(milliseconds, warmup=False, prepare=False)
    assert (found or "").startswith(warning or "\0" * (found is not None))


def test_a_warning_advises_what_was_not_tried() -> None:
    """It names the options that are not in use."""
    slow_start = [20.0, 10.1, 9.9, 10.2, 10.0, 10.1]
    advice = noise_warning(slow_start, warmup=True, prepare=False)
    assert advice is not None
    assert "more --warmup runs, or clear the caches with --prepare" in advice
    assert (noise_warning([*slow_start[1:], 20.0], warmup=True, prepare=True) or "").endswith("quiet machine")


@pytest.mark.heavy
def test_means_agree_with_hyperfine(tmp_path: Path) -> None:
    """Five real commands take as long as by hyperfine without a shell, within the noise of the machine."""
    command_runs = pytest.importorskip("benchmarks.command_runs")
    hyperfine = find("hyperfine")
    if hyperfine is None:
        pytest.skip(missing("hyperfine"))
    for name, one in command_runs.compare(hyperfine, tmp_path, rounds=5, runs=4).items():
        noise = (one.error(one.hyperfine) ** 2 + one.error(one.ours) ** 2) ** 0.5
        assert abs(one.mean(one.ours) - one.mean(one.hyperfine)) <= 4 * noise + 2, name


@pytest.mark.heavy
def test_the_benchmark_compares_the_same_command() -> None:
    """The bare launcher and ``metrics-framework run`` both report the times of the command."""
    command_runs = pytest.importorskip("benchmarks.command_runs")
    with command_runs._launcher() as launch, command_runs._CommandLine(["sleep", "0.1"], 2) as command_line:
        times = []
        for _ in range(2):
            command_line.await_turn()
            times.append(launch(["sleep", "0.1"]))
            command_line.take_turn()
    times += command_line.seconds
    assert len(times) == 4
    assert all(0.1 <= seconds < 5 for seconds in times)
