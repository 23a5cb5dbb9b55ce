"""Batches as CSV, beside what the module csv writes."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metrics_framework.batch import BatchMetrics


def by_csv(batch: BatchMetrics) -> bytes:
    """Return the output of the csv module for a batch."""
    files = batch.get_file_metrics()
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, files[0])
    writer.writeheader()
    writer.writerows(files)
    return text.getvalue().encode()


def exported(batch: BatchMetrics, folder: Path) -> bytes:
    """Return the export of a batch."""
    batch.export_csv(folder / "batch.csv")
    return (folder / "batch.csv").read_bytes()


@pytest.mark.parametrize("in_memory", [10_000, 10])
def test_a_value_that_needs_quotes_is_quoted(in_memory: int, tmp_path: Path) -> None:
    """Only its own line is quoted; the other lines do not change."""
    batch = BatchMetrics(in_memory=in_memory)
    for text in (",", '"', "\r", "\n", "\r\n", '""', "a,b\n", "\x00", "\u2028", "", "ü"):
        for number in range(600):
            batch.record_file(f"file{number}.wfm", duration=number / 7, samples=number)
        batch.record_error(f"a{text}b.wfm", "ValueError", text, 0.5)
    batch.record_skip("last.wfm")
    assert exported(batch, tmp_path) == by_csv(batch)


ODD = st.text(alphabet='ab,"\r\n', max_size=4)
NUMBERS = st.integers(-3, 10**20) | st.floats() | st.booleans()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=st.lists(st.tuples(ODD, ODD | st.none() | st.just(0), NUMBERS, st.none() | NUMBERS), min_size=1))
def test_csv_equals_that_of_the_csv_module(files: list[tuple[str, Any, Any, Any]], tmp_path: Path) -> None:
    """For any strings and numbers, the lines are those of the csv module."""
    batch = BatchMetrics()
    for name, message, samples, memory_peak in files:
        batch.record_file(
            name, duration=0.25, samples=samples, error_message=message, memory_peak=memory_peak
        )
    assert exported(batch, tmp_path) == by_csv(batch)
