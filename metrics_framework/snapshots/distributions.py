"""Sidecars: the distributions behind the statistics of a snapshot, in a file beside it.

v1 stores statistics only. The sidecar ``NAME.dist`` beside ``NAME.json`` stores their distributions. The
snapshot identifies its sidecar by a hash of the content, in the metadata tag `DISTRIBUTIONS_TAG`, so that the
sidecar of another run is never mistaken for it. Programs that do not know sidecars can ignore them.

A sidecar is JSON, compressed with gzip::

    {"format": "metrics-framework distributions", "version": 1,
     "distributions": {"latency": {...}, "custom.payload/size": {...}}}

A key is a key of the snapshot's measurements (`Metrics.flat`) without the statistic: the distribution behind
``custom.payload/size/p95`` is ``custom.payload/size``. Each distribution has ``count``, ``min``, ``max``,
``mean``, ``stddev`` and ``sum`` (the sum and the rounding error to add to it); ``stddev`` and ``sum`` are
``null`` if they exceed the largest float. ``failures`` is the number of values that ended in failure, 0 if
absent. Up to 128 values are listed, as ``values``. More of them are counted in base-2 exponential buckets, as
in OpenTelemetry: ``scale``, ``zeros``, and for each sign ``offset`` and ``counts``, where count ``i`` is the
number of magnitudes in ``(base**(offset+i), base**(offset+i+1)]`` with ``base = 2**(2**-scale)``. A quantile
is off by at most half a bucket: ``(base - 1) / 2`` of its value.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metrics_framework.errors import DistributionsError
from metrics_framework.recording import Distribution
from metrics_framework.recording.aggregates import ZERO, Sum, within_int64
from metrics_framework.recording.distribution import (
    EXACT_VALUES,
    MAX_INDEXES,
    NO_COUNTS,
    SCALE,
    Buckets,
    DistributionState,
    PackedCounts,
)
from metrics_framework.runtime.strict_json import json_encoder
from metrics_framework.snapshots.files import read_content, read_snapshot
from metrics_framework.snapshots.rules import quote
from metrics_framework.validation import is_finite_number

DISTRIBUTIONS_TAG = "distributions"
"""The metadata tag that identifies the sidecar of a snapshot: ``sha256:`` and the hash of its content."""

SIDECAR_SUFFIX = ".dist"
"""The suffix of a sidecar. Its snapshot has the same name with the suffix ``.json``."""

FORMAT = "metrics-framework distributions"
VERSION = 1

MAX_UNPACKED_BYTES = 256 * 2**20
"""Maximum size of an uncompressed sidecar: a small gzip file can expand to any size."""

_LOWEST_SCALE = -10
"""At this scale, one bucket spans more octaves than floats have."""

_MAX_COUNT = 2**64 - 1
"""The maximum count of a bucket."""

_encode = json_encoder(separators=(",", ":"))

_GZIP_WBITS = 16 + zlib.MAX_WBITS
"""Selects the gzip format in zlib."""


def sidecar_path(path: str | Path) -> Path:
    """Return the path of the sidecar of the snapshot at ``path``.

    Example:
        >>> sidecar_path("snapshots/run.json").name
        'run.dist'
    """
    return Path(path).with_suffix(SIDECAR_SUFFIX)


def read_distributions(path: str | Path) -> dict[str, Distribution]:
    """Read the distributions of a snapshot.

    Args:
        path: The file of the snapshot. Its sidecar is beside it.

    Returns:
        Key to distribution. Empty if the snapshot names no sidecar.

    Raises:
        OutputError: If a file cannot be read, for example if the sidecar was not copied with its snapshot.
        SnapshotError: If the snapshot is not valid.
        DistributionsError: If the sidecar belongs to another snapshot, or is not valid.
    """
    return read_distributions_of(path, read_snapshot(path).metadata.tags)


def read_distributions_of(path: str | Path, tags: Mapping[str, str]) -> dict[str, Distribution]:
    """Read the distributions of a snapshot that was already read; see `read_distributions`.

    Args:
        path: The file of the snapshot.
        tags: The tags of its metadata.
    """
    if DISTRIBUTIONS_TAG not in tags:
        return {}
    content = read_sidecar_content(path, tags)
    try:
        return load_distributions(content)
    except DistributionsError as error:
        raise DistributionsError(f"{str(sidecar_path(path))!r}: {error}") from error


def read_sidecar_content(path: str | Path, tags: Mapping[str, str]) -> bytes:
    """Return the content of the sidecar that a snapshot names.

    Args:
        path: The file of the snapshot.
        tags: The tags of its metadata, of which one names the sidecar.

    Raises:
        OutputError: If the sidecar cannot be read.
        DistributionsError: If it belongs to another snapshot.
    """
    sidecar, named = sidecar_path(path), tags[DISTRIBUTIONS_TAG]
    content = read_content(sidecar, max_bytes=MAX_UNPACKED_BYTES, pipe=False)
    if content_name(content) != named:
        raise DistributionsError(
            f"{str(sidecar)!r} is not the sidecar of {str(path)!r}: the snapshot names {quote(named)},"
            f" but this is {content_name(content)!r}"
        )
    return content


def read_sidecar(path: str | Path) -> dict[str, Distribution]:
    """Read a sidecar by its own path, without its snapshot.

    Raises:
        OutputError: If the file cannot be read.
        DistributionsError: If it is not valid.
    """
    return load_distributions(read_content(path, max_bytes=MAX_UNPACKED_BYTES, pipe=False))


def content_name(content: bytes) -> str:
    """Return the tag value that identifies a sidecar with this content."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def dump_distributions(distributions: Mapping[str, Distribution]) -> bytes:
    """Return distributions as the content of a sidecar. Equal distributions give equal content."""
    document = {
        "format": FORMAT,
        "version": VERSION,
        "distributions": {key: _to_plain(distribution.state) for key, distribution in distributions.items()},
    }
    text = _encode(document)
    packer = zlib.compressobj(wbits=_GZIP_WBITS)  # unlike the gzip module, it adds no timestamp
    return packer.compress(text.encode("ascii")) + packer.flush()


def load_distributions(content: bytes) -> dict[str, Distribution]:
    """Read the content that `dump_distributions` returned.

    Raises:
        DistributionsError: If it is anything else. The message gives the place and the fault.
    """
    document = _unpacked(content)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise DistributionsError(f"format: must be {FORMAT!r}")
    version = document.get("version")
    if version != VERSION or version.__class__ is not int:
        raise DistributionsError(f"version: must be the integer {VERSION}, got {quote(version)}")
    distributions = document.get("distributions")
    if not isinstance(distributions, dict):
        raise DistributionsError(f"distributions: must be an object, got {quote(distributions)}")
    return {key: _DistributionParser(plain, key).distribution() for key, plain in distributions.items()}


def _unpacked(content: bytes) -> Any:
    unpacker = zlib.decompressobj(wbits=_GZIP_WBITS)
    try:
        text = unpacker.decompress(content, MAX_UNPACKED_BYTES)
    except zlib.error as error:
        raise DistributionsError(f"document: is not compressed by gzip: {error}") from error
    if unpacker.unconsumed_tail:
        raise DistributionsError(f"document: is larger than {MAX_UNPACKED_BYTES} bytes")
    if not unpacker.eof:
        raise DistributionsError("document: is truncated")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DistributionsError(f"document: is not JSON: {error}") from error


def _to_plain(state: DistributionState) -> dict[str, Any]:
    plain: dict[str, Any] = {"count": state.count}
    if not state.count:
        return plain
    total, compensation = state.sum
    plain |= {
        "min": state.min,
        "max": state.max,
        "mean": state.mean,
        "stddev": state.stddev if math.isfinite(state.stddev) else None,
        "sum": [total, compensation] if math.isfinite(total) else None,
    }
    if state.failures:
        plain["failures"] = state.failures
    if state.exact is not None:
        return {**plain, "values": state.exact}
    plain |= {"scale": state.buckets.scale, "zeros": state.buckets.zeros}
    for sign, cells in (("negative", state.buckets.negative), ("positive", state.buckets.positive)):
        if cells.packed:
            plain[sign] = {"offset": cells.low, "counts": cells.counts()}
    return plain


class _DistributionParser:
    """Validates and reads one distribution of a document.

    Args:
        plain: The plain data.
        key: Its key in the document.
    """

    def __init__(self, plain: object, key: str) -> None:
        self._path = f"distributions[{quote(key)}]"
        if not isinstance(plain, dict):
            raise self._error("", f"must be an object, got {quote(plain)}")
        self._plain: dict[str, Any] = plain

    def distribution(self) -> Distribution:
        count = self._integer("count")
        if not count:
            return Distribution()
        low, high = within_int64(self._number("min")), within_int64(self._number("max"))
        mean = float(self._number("mean"))
        if low > high:
            raise self._error(".min", f"is above max: {low!r} and {high!r}")
        stddev = math.inf if self._plain.get("stddev", 0) is None else float(self._number("stddev"))
        if stddev < 0:
            raise self._error(".stddev", f"must be 0 or more, got {stddev!r}")
        exact = self._values(low, high) if "values" in self._plain else None
        buckets = Distribution().state.buckets if exact is not None else self._buckets()
        total = len(exact) if exact is not None else _bucket_total(buckets)
        if total != count:
            raise self._error(".count", f"is {count}, but there are {total} values")
        failures = self._integer("failures") if "failures" in self._plain else 0
        if failures > count:
            raise self._error(".failures", f"is {failures}, but there are {count} values")
        return Distribution.of_state(
            DistributionState(count, low, high, self._sum(mean), mean, stddev, exact, buckets, failures)
        )

    def _values(self, low: float, high: float) -> tuple[float, ...]:
        values = self._plain["values"]
        if not isinstance(values, list) or len(values) > EXACT_VALUES:
            raise self._error(".values", f"must be a list of at most {EXACT_VALUES} numbers")
        # Integers beyond 2**53 are floats here, but unchanged in min and max.
        if not all(is_finite_number(value) and float(low) <= value <= float(high) for value in values):
            raise self._error(".values", "must be finite numbers from min to max")
        return tuple(map(float, values))

    def _buckets(self) -> Buckets:
        scale: Any = self._plain.get("scale")
        if scale.__class__ is not int or not _LOWEST_SCALE <= scale <= SCALE:
            raise self._error(
                ".scale", f"must be an integer from {_LOWEST_SCALE} to {SCALE}, got {quote(scale)}"
            )
        return Buckets(scale, self._cells("negative"), self._integer("zeros"), self._cells("positive"))

    def _cells(self, sign: str) -> PackedCounts:
        plain = self._plain.get(sign)
        if plain is None:
            return NO_COUNTS
        if not isinstance(plain, dict):
            raise self._error(f".{sign}", f"must be an object, got {quote(plain)}")
        offset: Any = plain.get("offset")
        counts: Any = plain.get("counts")
        if offset.__class__ is not int or not -(2**20) < offset < 2**20:
            raise self._error(f".{sign}.offset", f"must be the index of a bucket, got {quote(offset)}")
        if (
            not isinstance(counts, list)
            or not 0 < len(counts) <= MAX_INDEXES
            or not all(count.__class__ is int and 0 <= count <= _MAX_COUNT for count in counts)
            or not counts[0]
            or not counts[-1]
        ):
            raise self._error(
                f".{sign}.counts",
                f"must be 1 to {MAX_INDEXES} integers of 0 or more, of which neither the first nor the last"
                " is 0",
            )
        return PackedCounts.pack(offset, counts)

    def _sum(self, mean: float) -> Sum:
        parts = self._plain.get("sum")
        if parts is None:
            return Sum(math.copysign(math.inf, mean))
        if not isinstance(parts, list) or len(parts) != 2 or not all(map(is_finite_number, parts)):
            raise self._error(".sum", f"must be a list of two numbers or null, got {quote(parts)}")
        total = Sum(parts[0], float(parts[1]))
        return ZERO.merge(total) if isinstance(parts[0], int) else total  # an integer may be beyond int64

    def _number(self, key: str) -> int | float:
        value: Any = self._plain.get(key)
        if not is_finite_number(value):
            raise self._error(f".{key}", f"must be a finite number, got {quote(value)}")
        number: int | float = value
        return number

    def _integer(self, key: str) -> int:
        value: Any = self._plain.get(key)
        if value.__class__ is not int or not 0 <= value <= _MAX_COUNT:
            raise self._error(f".{key}", f"must be an integer of 0 or more, got {quote(value)}")
        integer: int = value
        return integer

    def _error(self, place: str, problem: str) -> DistributionsError:
        return DistributionsError(f"{self._path}{place}: {problem}")


def _bucket_total(buckets: Buckets) -> int:
    return buckets.zeros + sum(buckets.negative.counts()) + sum(buckets.positive.counts())
