"""Sidecars: distributions are read back unchanged, and invalid files are rejected."""

from __future__ import annotations

import gzip
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics_framework.errors import DistributionsError, OutputError, SnapshotError
from metrics_framework.recording import Distribution
from metrics_framework.snapshots import (
    Metrics,
    PerformanceSnapshot,
    SnapshotMetadata,
    distributions,
    dump_snapshot,
    read_distributions,
)
from metrics_framework.snapshots.distributions import (
    DISTRIBUTIONS_TAG,
    FORMAT,
    content_name,
    dump_distributions,
    load_distributions,
    sidecar_path,
)

NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**70), 2**70)
VALUES = st.lists(NUMBERS, max_size=300)
MANY = [float(value) for value in range(1, 1_001)]


def document(plain: object, key: str = "latency") -> bytes:
    """Return a sidecar with one distribution."""
    return packed({"format": FORMAT, "version": 1, "distributions": {key: plain}})


def packed(whole: object) -> bytes:
    """Return any document, compressed like a sidecar."""
    return gzip.compress(json.dumps(whole).encode(), mtime=0)


def unpacked(content: bytes) -> dict:
    """Return the document of a sidecar, read with the standard library alone."""
    return json.loads(gzip.decompress(content))


# -- round trips -------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=3))
def test_distributions_are_read_back_unchanged(values):
    """Any distribution, exact or in buckets, is equal to the last bit."""
    given_ = {key: Distribution.of(some) for key, some in values.items()}
    content = dump_distributions(given_)
    read = load_distributions(content)
    assert list(read) == list(given_)
    assert [one.state for one in read.values()] == [one.state for one in given_.values()]
    assert dump_distributions(read) == content


@settings(max_examples=40)
@given(VALUES, VALUES, VALUES)
def test_a_distribution_that_was_read_merges_as_before(some, others, more):
    """This also holds for a distribution that was merged before it was written."""
    grown = Distribution.of(some).merge(Distribution.of(others))
    read = load_distributions(dump_distributions({"x": grown}))["x"]
    for one, other in (
        (read, grown),
        (read.merge(Distribution.of(more)), grown.merge(Distribution.of(more))),
    ):
        # The rounding error of an infinite sum is not a number.
        assert replace(one.state, sum=(one.sum, 0)) == replace(other.state, sum=(other.sum, 0))
        assert one.relative_error == other.relative_error
        if other.count:
            assert one.quantiles(0.01, 0.5, 0.95, 1.0) == other.quantiles(0.01, 0.5, 0.95, 1.0)
            assert (one.sum, one.mean) == (other.sum, other.mean)


def test_a_sum_beyond_the_floats_stays_infinite():
    """JSON has no infinity. The sign is that of the mean."""
    for sign in (1, -1):
        read = load_distributions(dump_distributions({"x": Distribution.of([sign * 1.5e308] * 200)}))["x"]
        assert read.sum == sign * math.inf
        assert read.mean == sign * 1.5e308


def test_a_coarser_resolution_is_kept():
    """Distributions with a wide range, whose buckets were merged, keep their scale."""
    wide = Distribution.of([10.0**exponent for exponent in range(-150, 150)])
    read = load_distributions(dump_distributions({"x": wide}))["x"]
    assert read.scale == wide.scale < 6
    assert read.relative_error == wide.relative_error > 0.01


# -- the format --------------------------------------------------------------------------------------------


def test_the_format_is_the_documented_one():
    """Other programs may read it: gzip, JSON, and the documented keys."""
    assert unpacked(dump_distributions({"latency": Distribution.of([1.5, 2.5, 4])})) == {
        "format": "metrics-framework distributions",
        "version": 1,
        "distributions": {
            "latency": {
                "count": 3,
                "min": 1.5,
                "max": 4,
                "mean": pytest.approx(8 / 3),
                "stddev": pytest.approx(1.0274023),
                "sum": [8.0, 0.0],
                "values": [1.5, 2.5, 4.0],
            }
        },
    }


def test_failures_are_kept():
    """A file has the key only if there are failures, and none without it."""
    for values in ([1.0, 2.0, 3.0], MANY):
        failed = replace(Distribution.of(values).state, failures=2)
        content = dump_distributions({"latency": Distribution.of_state(failed)})
        assert unpacked(content)["distributions"]["latency"]["failures"] == 2
        read = load_distributions(content)["latency"]
        assert read.failures == 2
        assert read.state == failed
    assert load_distributions(document(GOOD))["latency"].failures == 0


def test_integers_beyond_int64_are_read_as_floats():
    """A file may have larger integers than the engine records."""
    whole = 2**70 + 12_345
    plain = {"count": 1, "min": whole, "max": whole, "mean": float(whole), "stddev": 0.0, "sum": [whole, 0.0]}
    read = load_distributions(document({**plain, "values": [float(whole)]}))["latency"]
    assert (read.min, read.max, read.sum) == (float(whole),) * 3


@pytest.mark.slow
def test_buckets_are_where_the_documentation_says():
    """Count ``i`` is that of the values in ``(base**(offset+i), base**(offset+i+1)]``, for each sign."""
    values = [0.0] * 3 + MANY + [-value for value in MANY[:200]]
    plain = unpacked(dump_distributions({"x": Distribution.of(values)}))["distributions"]["x"]
    assert (plain["count"], plain["zeros"], plain["scale"]) == (1_203, 3, 6)
    base = 2 ** (2 ** -plain["scale"])
    for sign, some in (("positive", MANY), ("negative", MANY[:200])):
        offset, counts = plain[sign]["offset"], plain[sign]["counts"]
        for index, count in enumerate(counts, offset):
            edge = 1 + 1e-12  # the edges are rounded
            assert (
                sum(base**index * edge < value <= base ** (index + 1) / edge for value in some)
                <= count
                <= sum(base**index / edge <= value <= base ** (index + 1) * edge for value in some)
            )
        assert sum(counts) == len(some)


def test_a_sidecar_is_small():
    """A million values need only a few kilobytes."""
    distribution = Distribution()
    for _ in range(1_000):
        distribution = distribution.merge(Distribution.of(MANY))
    assert distribution.count == 1_000_000
    assert len(dump_distributions({"x": distribution})) < 4_000


def test_equal_distributions_are_equal_files():
    """A file has no time and no name, so that its hash depends on the content alone."""
    one, other = ({"x": Distribution.of(MANY)} for _ in range(2))
    assert dump_distributions(one) == dump_distributions(other)


# -- invalid files -----------------------------------------------------------------------------------------

GOOD = {"count": 2, "min": 1, "max": 2, "mean": 1.5, "stddev": 0.5, "sum": [3, 0.0], "values": [1, 2]}
COUNTED = {**GOOD, "count": 200, "scale": 6, "zeros": 0, "positive": {"offset": -1, "counts": [100, 0, 100]}}
del COUNTED["values"]


def test_the_examples_are_valid():
    """Otherwise the tests below would prove nothing."""
    assert load_distributions(document(GOOD))["latency"].sum == 3
    assert load_distributions(document(COUNTED))["latency"].count == 200


@pytest.mark.parametrize(
    ("plain", "problem"),
    [
        ([], r"distributions\['latency'\]: must be an object"),
        ({}, r"distributions\['latency'\]\.count: must be an integer of 0 or more, got None"),
        ({**GOOD, "count": True}, r"\.count: must be an integer"),
        ({**GOOD, "count": 3}, r"\.count: is 3, but there are 2 values"),
        ({**COUNTED, "count": 201}, r"\.count: is 201, but there are 200 values"),
        ({**GOOD, "min": 3}, r"\.min: is above max"),
        ({**GOOD, "max": "2"}, r"\.max: must be a finite number, got '2'"),
        ({**GOOD, "max": 10**400}, r"\.max: must be a finite number"),
        ({**GOOD, "mean": math.nan}, r"\.mean: must be a finite number"),
        ({**GOOD, "stddev": -1}, r"\.stddev: must be 0 or more"),
        ({**GOOD, "stddev": "0"}, r"\.stddev: must be a finite number"),
        ({**GOOD, "failures": 3}, r"\.failures: is 3, but there are 2 values"),
        ({**GOOD, "failures": 0.5}, r"\.failures: must be an integer of 0 or more"),
        ({**GOOD, "sum": 3}, r"\.sum: must be a list of two numbers or null"),
        ({**GOOD, "values": [1, 3]}, r"\.values: must be finite numbers from min to max"),
        ({**GOOD, "values": [1] * 129, "count": 129}, r"\.values: must be a list of at most 128"),
        ({**COUNTED, "scale": 7}, r"\.scale: must be an integer from -10 to 6, got 7"),
        ({**COUNTED, "zeros": -1}, r"\.zeros: must be an integer of 0 or more"),
        ({**COUNTED, "positive": [1]}, r"\.positive: must be an object"),
        ({**COUNTED, "positive": {"counts": [200]}}, r"\.positive\.offset: must be the index of a bucket"),
        ({**COUNTED, "positive": {"offset": 0, "counts": [200, 0]}}, r"\.positive\.counts: must be 1 to"),
        ({**COUNTED, "positive": {"offset": 0, "counts": []}}, r"\.positive\.counts: must be 1 to"),
        ({**COUNTED, "negative": {"offset": 0, "counts": [1.5]}}, r"\.negative\.counts: must be 1 to"),
        ({**COUNTED, "negative": {"offset": 0, "counts": [2**64]}}, r"\.negative\.counts: must be 1 to"),
    ],
)
def test_an_invalid_distribution_is_an_error_with_its_place(plain, problem):
    """For each broken rule, nothing is read, and the message names the place."""
    with pytest.raises(DistributionsError, match=problem):
        load_distributions(document(plain))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is truncated"),
        (b"{}", "not compressed by gzip"),
        (document(GOOD)[:-9], "is truncated"),
        (gzip.compress(b"{", mtime=0), "not JSON"),
        (gzip.compress(b"[" * 100_000, mtime=0), "not JSON"),
        (packed([]), "format: must be"),
        (packed({"format": "other"}), "format: must be"),
        (packed({"format": FORMAT, "version": 2}), "version: must be the integer 1, got 2"),
        (packed({"format": FORMAT, "version": True}), "version: must be the integer 1"),
        (packed({"format": FORMAT, "version": 1}), "distributions: must be an object"),
    ],
)
def test_a_file_that_is_not_a_sidecar_is_an_error(content, problem):
    """Truncated files, other formats and other versions have different messages."""
    with pytest.raises(DistributionsError, match=problem):
        load_distributions(content)


def test_a_file_cannot_fill_the_memory(monkeypatch):
    """A small file that expands beyond the limit is rejected before it does."""
    monkeypatch.setattr(distributions, "MAX_UNPACKED_BYTES", 10_000)
    with pytest.raises(DistributionsError, match="larger than 10000 bytes"):
        load_distributions(gzip.compress(b" " * 10**6, mtime=0))


@given(st.data())
def test_a_changed_byte_never_passes(data):
    """A sidecar with a changed byte is rejected, or has the same content."""
    content = bytearray(dump_distributions({"x": Distribution.of(MANY)}))
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    assert content_name(bytes(content)) != content_name(dump_distributions({"x": Distribution.of(MANY)}))
    try:
        read = load_distributions(bytes(content))
    except DistributionsError:
        return
    assert read["x"].state == Distribution.of(MANY).state  # some bytes of a gzip header have no meaning


# -- beside a snapshot -------------------------------------------------------------------------------------


def pair(folder: Path, content: bytes, tag: str | None = None) -> Path:
    """Write a snapshot and the sidecar that it names."""
    tags = {DISTRIBUTIONS_TAG: content_name(content) if tag is None else tag}
    snapshot = PerformanceSnapshot(Metrics(throughput=1), metadata=SnapshotMetadata(tags=tags))
    path = folder / "run.json"
    path.write_text(dump_snapshot(snapshot))
    sidecar_path(path).write_bytes(content)
    return path


def test_a_snapshot_leads_to_its_distributions(tmp_path):
    """They are read by the path of the snapshot, which may be a string."""
    path = pair(tmp_path, dump_distributions({"latency": Distribution.of(MANY)}))
    for name in (path, str(path)):
        assert read_distributions(name)["latency"].quantiles(0.95) == [pytest.approx(950, rel=0.01)]


def test_a_snapshot_without_a_sidecar_has_no_distributions(tmp_path):
    """A file with the name of a sidecar is not read if the snapshot names none."""
    path = pair(tmp_path, b"anything")
    path.write_text(dump_snapshot(PerformanceSnapshot(Metrics(throughput=1))))
    assert read_distributions(path) == {}


def test_a_sidecar_that_was_left_behind_is_an_output_error(tmp_path):
    """The error names the missing file."""
    path = pair(tmp_path, dump_distributions({}))
    sidecar_path(path).unlink()
    with pytest.raises(OutputError, match=r"cannot read .*run\.dist': No such file"):
        read_distributions(path)


def test_the_sidecar_of_another_run_is_rejected(tmp_path):
    """Even if it is valid and has the right name."""
    path = pair(tmp_path, dump_distributions({"latency": Distribution.of(MANY)}), tag="sha256:0")
    with pytest.raises(
        DistributionsError, match=r"is not the sidecar of .*run\.json': the snapshot names 'sha256:0'"
    ):
        read_distributions(path)


def test_an_invalid_sidecar_is_named(tmp_path):
    """If the hash matches and the content is not valid, the error names the file."""
    with pytest.raises(DistributionsError, match=r"run\.dist': document: is not compressed"):
        read_distributions(pair(tmp_path, b"hello, not a sidecar"))


def test_an_invalid_snapshot_is_a_snapshot_error(tmp_path):
    """Distributions are read only for a valid snapshot."""
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(SnapshotError):
        read_distributions(tmp_path / "run.json")
