"""Number formats, tables and escaping."""

from __future__ import annotations

import io
import re
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_framework.batch.progress import make_progress
from metrics_framework.cli.measure import Benchmark, CommandMeasurement, measure, print_measurement
from metrics_framework.cli.output import escape_control, print_failure, sparkline
from metrics_framework.cli.snapshots import print_snapshot
from metrics_framework.clock import SYSTEM_CLOCK
from metrics_framework.snapshots import (
    Environment,
    LatencyMetrics,
    Metrics,
    PerformanceSnapshot,
    SnapshotMetadata,
)
from metrics_framework.snapshots.formatting import format_duration, format_number
from metrics_framework.system import MetricsSystem

MILLISECONDS = {"µs": 1e-3, "ms": 1.0, "s": 1e3}


@pytest.fixture(autouse=True)
def plain_streams(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Work in an empty folder, independent of the terminal that the tests run in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


def rows(text: str) -> dict[str, str]:
    """Return the rows of a printed table, with any kind of lines."""
    cells = [
        [cell.strip() for cell in re.split(r"[│|]|\s{2,}", line) if cell.strip()]
        for line in text.splitlines()
    ]
    return {row[0]: row[1] for row in cells if len(row) == 2}


def test_a_measurement_has_a_row_for_every_figure(capsys: pytest.CaptureFixture[str]) -> None:
    """Times, throughput, memory, CPU and failures are in the table, equal to those of the snapshot."""
    measurement = measure(Benchmark(["sleep", "0.02"], "nap"), runs=3, warmup=0)
    snapshot = measurement.system.snapshot()
    summary = measurement.system.aggregator.get_metric_summary("nap")
    print_measurement(measurement, snapshot)
    output, errors = capsys.readouterr()
    latency, metrics = snapshot.metrics.latency, snapshot.metrics
    assert latency is not None
    assert None not in (latency.mean, latency.p50, latency.p95, latency.p99)
    table = rows(output)
    cpu = next(key for key in table if key.startswith("CPU"))
    assert re.fullmatch(r"CPU, of \d+ cores", cpu)
    assert {key: table[key] for key in table if key != "run by run"} == {
        "mean": format_duration(latency.mean or 0),
        "p50": format_duration(latency.p50 or 0),
        "p95": format_duration(latency.p95 or 0),
        "p99": format_duration(latency.p99 or 0),
        "min": format_duration(summary["min"]),
        "max": format_duration(summary["max"]),
        "throughput": f"{format_number(metrics.throughput or 0)} runs/s",
        "peak memory": f"{format_number(metrics.memory_mb or 0)} MB",
        cpu: f"{format_number(metrics.cpu_percent or 0)} %",
        "failures": "0",
    }
    assert re.fullmatch("[▁▂▃▄▅▆▇█]{3}", table["run by run"])
    assert output.splitlines()[0].strip() == "nap, 3 runs"
    assert errors == ""
    assert "\x1b" not in output


def test_every_statistic_is_in_its_own_row(capsys: pytest.CaptureFixture[str]) -> None:
    """For runs of 1 to 100 milliseconds, each row shows the statistic of its label."""
    times = [float(number) for number in range(1, 101)]
    measurement = CommandMeasurement("op", MetricsSystem(), milliseconds=times)
    for milliseconds in times:
        measurement.system.collector.record_timer("op", milliseconds)
        measurement.system.tracker.record_success("op")
    print_measurement(measurement, measurement.system.snapshot())
    table = rows(capsys.readouterr().out)
    assert [table[key] for key in ("mean", "p50", "p95", "p99", "min", "max")] == [
        *("50.5 ms", "50 ms", "95 ms", "99 ms", "1 ms", "100 ms")
    ]
    assert len(table["run by run"]) == 40


def test_failures_are_listed_by_type(capsys: pytest.CaptureFixture[str]) -> None:
    """Below the number of failures, each type of failure has a row."""
    script = "echo >> runs; case $(wc -l < runs) in 1) exit 7;; 2) kill -KILL $$;; 3) exit 7;; esac"
    measurement = measure(Benchmark(["sh", "-c", script], "flaky"), runs=4, warmup=0)
    capsys.readouterr()
    print_measurement(measurement, measurement.system.snapshot())
    table = rows(capsys.readouterr().out)
    assert (table["failures"], table["exit code 7"], table["signal SIGKILL"]) == ("3", "2", "1")


def test_a_single_run_is_singular(capsys: pytest.CaptureFixture[str]) -> None:
    """The title says "1 run", and there is no row of bars."""
    measurement = measure(Benchmark(["true"], "once"), runs=1, warmup=0)
    print_measurement(measurement, measurement.system.snapshot())
    output = capsys.readouterr().out
    assert output.splitlines()[0].strip() == "once, 1 run"
    assert "run by run" not in rows(output)


def snapshot(**tags: str) -> PerformanceSnapshot:
    """Return a snapshot with every field."""
    return PerformanceSnapshot(
        Metrics(
            latency=LatencyMetrics(mean=1.5, p50=0.25, p95=1234.5, p99=90_000),
            throughput=950.2,
            memory_mb=512.4,
            cpu_percent=42.0,
            custom={"http/requests[endpoint:/status]": 1_234_567, "größe": 0.5},
        ),
        metadata=SnapshotMetadata(
            run_id="run-7",
            commit="0" * 40,
            branch="main",
            timestamp=datetime(2026, 1, 1, 10, tzinfo=UTC),
            environment=Environment.STAGING,
            tags=tags,
        ),
    )


def test_a_snapshot_has_a_row_for_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    """Metadata, tags and every measurement are shown, measurements with their units."""
    print_snapshot(snapshot(runner="local", zone="b"))
    assert rows(capsys.readouterr().out) == {
        "run": "run-7",
        "time": "2026-01-01T10:00:00+00:00",
        "commit": "0" * 40,
        "branch": "main",
        "environment": "staging",
        "tag runner": "local",
        "tag zone": "b",
        "latency.mean": "1.50 ms",
        "latency.p50": "250 µs",
        "latency.p95": "1.23 s",
        "latency.p99": "90 s",
        "throughput": "950/s",
        "memory_mb": "512 MB",
        "cpu_percent": "42 %",
        "custom.http/requests[endpoint:/status]": "1,234,567",
        "custom.größe": "0.500",
    }


def test_a_snapshot_without_a_repository_shows_none(capsys: pytest.CaptureFixture[str]) -> None:
    """Unknown values are shown as "none", and missing measurements have no row."""
    metadata = SnapshotMetadata(environment=Environment.LOCAL)
    print_snapshot(PerformanceSnapshot(Metrics(throughput=0.001), metadata=metadata))
    table = rows(capsys.readouterr().out)
    assert (table["commit"], table["branch"]) == ("none", "none")
    assert [key for key in table if "." in key or key in ("throughput", "memory_mb", "cpu_percent")] == [
        "throughput"
    ]
    assert table["throughput"] == "0.00100/s"


@pytest.mark.parametrize("text", ["a[b]", "[red]x[/red]", "[/]", ":smile:", "größe ✓ 测量 👩‍💻", "a\\[b]"])
def test_names_are_not_markup(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Brackets and other characters in names and tags are printed unchanged."""
    print_snapshot(snapshot(**{text: text}))
    output = capsys.readouterr().out
    assert re.search(rf"tag {re.escape(text)}\s.*{re.escape(text)}\s", output)
    measurement = measure(Benchmark(["true"], text), runs=1, warmup=0)
    print_measurement(measurement, measurement.system.snapshot())
    assert capsys.readouterr().out.splitlines()[0].strip() == f"{text}, 1 run"


def test_control_characters_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    """Escape codes, newlines and bytes that are not UTF-8 are escaped, in names and values."""
    print_snapshot(snapshot(**{"k\x1b]0;title\x07": "\x1b[2Jv\r\n\udcff\x9b"}))
    output = capsys.readouterr().out
    assert rows(output)[r"tag k\x1b]0;title\x07"] == r"\x1b[2Jv\r\n\udcff\x9b"
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]", output)


def test_a_long_value_is_wrapped(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """On a narrow terminal long names and values continue on the next line; nothing is cut off."""
    monkeypatch.setenv("COLUMNS", "40")
    value = "".join(f"{number:03}" for number in range(100))
    print_snapshot(snapshot(key=value))
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 40 for line in lines)
    start = next(index for index, line in enumerate(lines) if "tag key" in line)
    folded = "".join(re.findall(r"\d{6,}", "\n".join(lines[start:])))
    assert folded.startswith(value)


@pytest.mark.skipif(sys.stdout is None, reason="needs a standard output")
def test_failures_are_red(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """If colours are on, failures are red."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    measurement = measure(Benchmark(["false"], "broken"), runs=1, warmup=0)
    capsys.readouterr()
    print_measurement(measurement, measurement.system.snapshot())
    failures = next(line for line in capsys.readouterr().out.splitlines() if "failures" in line)
    assert "\x1b[1;31m" in failures


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "0 µs"),
        (0.0001234, "0.123 µs"),
        (0.01234, "12.3 µs"),
        (0.9994, "999 µs"),
        (0.9996, "1 ms"),
        (1, "1 ms"),
        (1.5, "1.50 ms"),
        (12.34, "12.3 ms"),
        (99.96, "100 ms"),
        (999.4, "999 ms"),
        (999.7, "1 s"),
        (1234.5, "1.23 s"),
        (90_000, "90 s"),
        (3_600_000, "3,600 s"),
    ],
)
def test_a_duration_has_a_suitable_unit(milliseconds: float, text: str) -> None:
    """Durations have three significant digits, in microseconds, milliseconds or seconds."""
    assert format_duration(milliseconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (3, "3"),
        (3.0, "3"),
        (0.98765, "0.988"),
        (0.5, "0.500"),
        (0.0123, "0.0123"),
        (0.99996, "1"),
        (9.996, "10"),
        (12.34, "12.3"),
        (99.94, "99.9"),
        (99.96, "100"),
        (123.4, "123"),
        (1234.5678, "1,235"),
        (1234567.0, "1,234,567"),
    ],
)
def test_a_number_has_three_significant_digits(number: float, text: str) -> None:
    """Numbers have three significant digits, integers all of them, with thousands separators."""
    assert format_number(number) == text


@given(st.floats(1e-6, 1e12))
def test_a_rounded_number_is_near_the_number(number: float) -> None:
    """Any number is shown with an error of at most 0.5 % and at most three digits."""
    text = format_number(number)
    assert float(text.replace(",", "")) == pytest.approx(number, rel=0.005)
    if number < 999:
        digits = text.partition("e")[0].replace(".", "").lstrip("0")
        assert len(digits) <= 3


@given(st.floats(1e-6, 1e12))
def test_a_duration_can_be_read_back(milliseconds: float) -> None:
    """Number and unit together are within 0.5 % of the duration."""
    number, unit = format_duration(milliseconds).split(" ")
    assert float(number.replace(",", "")) * MILLISECONDS[unit] == pytest.approx(milliseconds, rel=0.005)
    if unit != "s":
        assert re.fullmatch(r"[\d.]{1,7}(e-\d+)?", number)


@pytest.mark.parametrize(
    ("values", "bars"),
    [
        ([], ""),
        ([0.0, 0.0], "▁▁"),
        ([5.0], "█"),
        ([7.0, 7.0, 7.0], "███"),
        ([1, 2, 4, 8], "▁▂▄█"),
        ([0, 8], "▁█"),
        ([1e-9, 1.0], "▁█"),
    ],
)
def test_a_sparkline_has_a_bar_per_value(values: list[float], bars: str) -> None:
    """The height of each bar is the value's share of the largest."""
    assert sparkline(values) == bars


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=300), st.integers(1, 50))
def test_a_sparkline_fits_and_keeps_the_outlier(values: list[float], width: int) -> None:
    """It is at most ``width`` wide, and the largest value is a full bar at its position."""
    bars = sparkline(values, width)
    assert len(bars) == min(len(values), width)
    if max(values) > 0:
        assert bars[values.index(max(values)) * len(bars) // len(values) :].count("█") >= 1


def test_a_sparkline_of_many_values_shows_the_largest() -> None:
    """With more values than bars, every bar is the largest of several values, in order of time."""
    values = [1.0] * 100
    values[3], values[57], values[99] = 8.0, 4.0, 6.0
    bars = sparkline(values, 10)
    assert bars == "█▁▁▁▁▄▁▁▁▆"


def test_a_failure_shows_the_end_of_its_error_output() -> None:
    """The headline is followed by the last lines, indented and with control characters escaped."""
    pipe = io.StringIO()
    progress = make_progress("build", 1, SYSTEM_CLOCK, pipe)
    print_failure(progress, "run 1 failed", "".join(f"line {number}\x1b\n" for number in range(1, 31)), 10)
    print_failure(progress, "run 2 failed", "", 10)
    assert pipe.getvalue().splitlines() == [
        "run 1 failed",
        *(f"  line {number}\\x1b" for number in range(21, 31)),
        "run 2 failed",
    ]


def test_characters_that_hide_or_reorder_text_are_escaped() -> None:
    """Text of any language and emoji stay as they are."""
    assert escape_control("a\x1b[2J\u202eexe.gnp\u2069\u200b\ufeff\u2028") == (
        r"a\x1b[2J\u202eexe.gnp\u2069\u200b\ufeff\u2028"
    )
    for text in ("größe 界", "שלום", "👩\u200d💻"):
        assert escape_control(text) == text
