"""The models: validation, plain data, and JSON without loss."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
import uuid
from datetime import UTC, date, datetime, time, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_framework.errors import InvalidInputError, MetricsError, SchemaVersionError, SnapshotError
from metrics_framework.snapshots import (
    Environment,
    LatencyMetrics,
    Metrics,
    PerformanceSnapshot,
    SnapshotMetadata,
    document_violations,
)

# -- strategies --------------------------------------------------------------------------------------------

NUMBERS = st.one_of(
    st.integers(min_value=0, max_value=10**300),
    st.floats(min_value=0, allow_infinity=False),
    st.sampled_from([0, 0.1, 5e-324, 1.7976931348623157e308]),
)
OPTIONAL = st.none() | NUMBERS
CUSTOM = st.dictionaries(st.text(min_size=1).map(lambda key: key.replace(".", "/")), NUMBERS, max_size=3)
LATENCIES = (
    st.tuples(OPTIONAL, OPTIONAL, OPTIONAL, OPTIONAL)
    .filter(lambda of: set(of) != {None})
    .map(lambda of: LatencyMetrics(*of))
)


@st.composite
def _metrics(draw: st.DrawFn) -> Metrics:
    """Draw metrics with at least one measurement."""
    given_fields = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "latency": LATENCIES,
                "throughput": NUMBERS,
                "memory_mb": NUMBERS,
                "cpu_percent": st.floats(0, 100) | st.integers(0, 100),
                "custom": CUSTOM,
            },
        ).filter(lambda fields: any(value != {} for value in fields.values()))
    )
    return Metrics(**given_fields)


OFFSETS = st.integers(-86399, 86399).map(lambda seconds: timezone(timedelta(seconds=seconds)))
MOMENTS = st.datetimes(
    datetime(1, 1, 2),  # noqa: DTZ001 - the time zone is drawn as well
    datetime(9999, 12, 30),  # noqa: DTZ001
    timezones=st.none() | OFFSETS,
)
METADATA = st.builds(
    SnapshotMetadata,
    run_id=st.text(),
    commit=st.none() | st.text(),
    branch=st.none() | st.text(),
    timestamp=MOMENTS,
    environment=st.sampled_from(Environment) | st.text(),
    tags=st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=3),
)
SNAPSHOTS = st.builds(PerformanceSnapshot, _metrics(), metadata=METADATA)
"""Any valid snapshot."""

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from([10**400, 1, 0.0])
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def _fields(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Draw an object with some of the fields, each with a likely value or any JSON."""
    return JSON | st.fixed_dictionaries({}, optional={key: likely | JSON for key, likely in fields.items()})


DOCUMENTS = _fields(
    schema_version=st.just(1),
    metadata=_fields(
        run_id=st.text(),
        commit=st.text(),
        branch=st.text(),
        timestamp=st.just("2026-01-01T10:00:00Z"),
        environment=st.text(),
        tags=st.dictionaries(st.text(), st.text() | JSON, max_size=3),
    ),
    metrics=_fields(
        latency=_fields(mean=NUMBERS, p50=NUMBERS, p95=NUMBERS, p99=NUMBERS),
        throughput=NUMBERS,
        memory_mb=NUMBERS,
        cpu_percent=st.just(50),
        custom=st.dictionaries(st.text(), NUMBERS | JSON, max_size=3),
    ),
)
"""Python's JSON values, NaN included, in and around the shape of a snapshot."""

NOT_MEASUREMENTS = [True, False, math.nan, math.inf, -math.inf, -1, -0.5, 10**400, -(10**400), "1", [], {}]


def _snapshot(**metadata: Any) -> PerformanceSnapshot:
    return PerformanceSnapshot(Metrics(throughput=1.0), metadata=SnapshotMetadata(**metadata))


# -- round trips -------------------------------------------------------------------------------------------


@given(SNAPSHOTS)
def test_a_snapshot_equals_its_plain_data(snapshot: PerformanceSnapshot) -> None:
    """`from_dict(to_dict())` is an equal snapshot, for any snapshot."""
    assert PerformanceSnapshot.from_dict(snapshot.to_dict()) == snapshot


@given(SNAPSHOTS)
def test_a_snapshot_survives_json(snapshot: PerformanceSnapshot) -> None:
    """JSON text loses nothing, and no value is outside JSON."""
    text = json.dumps(snapshot.to_dict(), allow_nan=False)
    assert PerformanceSnapshot.from_dict(json.loads(text)) == snapshot


@given(SNAPSHOTS)
def test_a_model_is_valid(snapshot: PerformanceSnapshot) -> None:
    """Its document has no violations."""
    assert document_violations(snapshot.to_dict()) == []


@given(SNAPSHOTS)
def test_a_snapshot_survives_pickle(snapshot: PerformanceSnapshot) -> None:
    """Snapshots are sent between processes."""
    assert pickle.loads(pickle.dumps(snapshot)) == snapshot


@given(DOCUMENTS)
def test_any_json_is_a_snapshot_or_a_snapshot_error(document: Any) -> None:
    """`from_dict` reads any JSON, or raises its documented errors with all violations."""
    violations = document_violations(document)
    if violations:
        with pytest.raises(SnapshotError) as caught:
            PerformanceSnapshot.from_dict(document)
        assert caught.value.violations == tuple(violations)
        assert str(caught.value) == "\n".join(violations)
        assert type(caught.value) is (
            SchemaVersionError if violations[0].startswith("schema_version:") else SnapshotError
        )
    else:
        snapshot = PerformanceSnapshot.from_dict(document)
        assert PerformanceSnapshot.from_dict(snapshot.to_dict()) == snapshot


def test_the_example_of_the_specification_is_written_unchanged() -> None:
    """The models keep all of it."""
    document = {
        "schema_version": 1,
        "metadata": {
            "run_id": "550e8400-e29b-41d4-a716-446655440000",
            "commit": "abc123def456",
            "branch": "feature/my-change",
            "timestamp": "2026-01-01T10:00:00+00:00",
            "environment": "ci",
            "tags": {"pr": "42", "runner": "ubuntu-22"},
        },
        "metrics": {
            "latency": {"mean": 120.5, "p50": 110.0, "p95": 180.0, "p99": 240.0},
            "throughput": 950.2,
            "memory_mb": 512.0,
            "cpu_percent": 73.4,
            "custom": {"tokens_per_second": 1250.0, "db_query_ms": 8.5},
        },
    }
    assert json.dumps(PerformanceSnapshot.from_dict(document).to_dict()) == json.dumps(document)


def test_a_snapshot_is_independent_of_its_document() -> None:
    """Changing the document that was read or written does not change the snapshot."""
    document: dict[str, Any] = {"metadata": {"tags": {"pr": "1"}}, "metrics": {"custom": {"hits": 1}}}
    snapshot = PerformanceSnapshot.from_dict(document)
    for changed in (document, snapshot.to_dict()):
        changed["metadata"]["tags"]["pr"] = "2"
        changed["metrics"]["custom"]["hits"] = 2
    assert snapshot.metadata.tags == {"pr": "1"}
    assert snapshot.metrics.custom == {"hits": 1}


# -- defaults and conversion in from_dict ------------------------------------------------------------------


def test_missing_metadata_get_their_defaults() -> None:
    """A new UUID4, the current time, environment `ci`, and nothing else."""
    before = datetime.now(UTC)
    metadata = PerformanceSnapshot.from_dict({"metrics": {"throughput": 1}}).metadata
    assert before <= metadata.timestamp <= datetime.now(UTC)
    assert metadata.timestamp.utcoffset() == timedelta(0)
    assert uuid.UUID(metadata.run_id).version == 4
    assert (metadata.commit, metadata.branch, metadata.environment, metadata.tags) == (
        None,
        None,
        Environment.CI,
        {},
    )


def test_every_run_gets_its_own_id() -> None:
    """Two runs without an id get different ids."""
    assert SnapshotMetadata().run_id != SnapshotMetadata().run_id


@pytest.mark.parametrize("value", ["ci", "local", "staging", "custom"])
def test_the_four_environments_are_known(value: str) -> None:
    """Each environment of the specification is read unchanged."""
    document = {"metadata": {"environment": value}, "metrics": {"throughput": 1}}
    environment = PerformanceSnapshot.from_dict(document).metadata.environment
    assert environment is Environment(value)
    assert environment.value == value


@pytest.mark.parametrize("value", ["prod", "CI", "", None, 0, True, 1.5, [], ["ci"], {}, {"ci": 1}])
def test_any_other_environment_is_custom(value: object) -> None:
    """This holds for any value of any type."""
    document = {"metadata": {"environment": value}, "metrics": {"throughput": 1}}
    assert PerformanceSnapshot.from_dict(document).metadata.environment is Environment.CUSTOM
    assert _snapshot(environment=value).metadata.environment is Environment.CUSTOM


@pytest.mark.parametrize(
    "text", ["2026-01-01T10:00:00Z", "2026-01-01T10:00:00", "2026-01-01T12:00:00+02:00", "2026-01-01 10:00"]
)
def test_timestamps_are_kept_in_utc(text: str) -> None:
    """`Z` is UTC, no offset is UTC, and any other offset is converted."""
    document = {"metadata": {"timestamp": text}, "metrics": {"throughput": 1}}
    snapshot = PerformanceSnapshot.from_dict(document)
    assert snapshot.to_dict()["metadata"]["timestamp"] == "2026-01-01T10:00:00+00:00"


def test_unknown_fields_are_ignored() -> None:
    """A later minor version may add fields. They are not kept."""
    plain = {"schema_version": 1, "metadata": {"run_id": "1"}, "metrics": {"latency": {"p95": 1}}}
    with_more: dict[str, Any] = {
        "schema_version": 1,
        "metadata": {"run_id": "1", "host": "a", "timestamp": "2026-01-01"},
        "metrics": {"latency": {"p95": 1, "p90": -1}, "disk_mb": "x"},
        "note": None,
    }
    read = PerformanceSnapshot.from_dict(with_more)
    assert read.metrics == PerformanceSnapshot.from_dict(plain).metrics
    assert set(read.to_dict()) == {"schema_version", "metadata", "metrics"}
    assert "host" not in read.to_dict()["metadata"]


@pytest.mark.parametrize("version", [True, False, 1.0, "1", None, 0, 2, -1, [1], {}])
def test_any_other_version_is_a_schema_version_error(version: object) -> None:
    """Only the integer 1 is version 1, in documents and in models; the error is a `ValueError`."""
    with pytest.raises(SchemaVersionError, match="schema_version: must be the integer 1") as caught:
        PerformanceSnapshot.from_dict({"schema_version": version, "metrics": {"throughput": 1}})
    assert isinstance(caught.value, ValueError)
    with pytest.raises(SchemaVersionError, match="schema_version: must be the integer 1"):
        PerformanceSnapshot(Metrics(throughput=1), schema_version=version)


def test_no_version_is_version_1() -> None:
    """A document without a version is read as version 1."""
    assert PerformanceSnapshot.from_dict({"metrics": {"throughput": 1}}).to_dict()["schema_version"] == 1


# -- flat --------------------------------------------------------------------------------------------------


def test_flat_names_every_measurement_in_the_specifications_order() -> None:
    """The flat keys are those of the specification, in its order, with floats as values."""
    metrics = Metrics(
        custom={"z": 8, "a": 9},
        cpu_percent=7,
        memory_mb=6,
        throughput=5,
        latency=LatencyMetrics(p99=4, p95=3, p50=2, mean=1),
    )
    flat = metrics.flat()
    assert list(flat.items()) == [
        ("latency.mean", 1.0),
        ("latency.p50", 2.0),
        ("latency.p95", 3.0),
        ("latency.p99", 4.0),
        ("throughput", 5.0),
        ("memory_mb", 6.0),
        ("cpu_percent", 7.0),
        ("custom.z", 8.0),
        ("custom.a", 9.0),
    ]
    assert {type(value) for value in flat.values()} == {float}


def test_flat_leaves_out_what_is_absent_and_keeps_zeros() -> None:
    """Absent measurements have no key, zeros have one."""
    assert Metrics(latency=LatencyMetrics(p50=0), cpu_percent=0).flat() == {
        "latency.p50": 0.0,
        "cpu_percent": 0.0,
    }


@given(_metrics())
def test_flat_has_a_key_for_each_measurement_of_the_document(metrics: Metrics) -> None:
    """Flat keys are the paths of the document below `metrics`."""
    paths = {}
    for key, value in PerformanceSnapshot(metrics).to_dict()["metrics"].items():
        inner = value.items() if isinstance(value, dict) else ()
        paths.update({f"{key}.{name}": number for name, number in inner} or {key: value})
    assert metrics.flat() == {path: float(number) for path, number in paths.items()}


# -- validation --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", NOT_MEASUREMENTS, ids=str)
@pytest.mark.parametrize("field", ["mean", "p50", "p95", "p99"])
def test_latency_rejects_invalid_numbers(field: str, wrong: Any) -> None:
    """Each field is a finite number of 0 or more; the error names the field."""
    with pytest.raises(SnapshotError) as caught:
        LatencyMetrics(**{"p95": 1.0, field: wrong})
    (violation,) = caught.value.violations
    assert violation.startswith(f"latency.{field}: must be a finite number of 0 or more, got ")


def test_latency_needs_a_field() -> None:
    """A latency without any field is rejected."""
    with pytest.raises(SnapshotError, match=r"^latency: must hold at least one of mean, p50, p95, p99$"):
        LatencyMetrics()


@pytest.mark.parametrize("wrong", [*NOT_MEASUREMENTS, 100.1], ids=str)
@pytest.mark.parametrize("field", ["throughput", "memory_mb", "cpu_percent"])
def test_metrics_reject_invalid_numbers(field: str, wrong: Any) -> None:
    """They are finite numbers of 0 or more, and the CPU at most 100."""
    if wrong == 100.1 and field != "cpu_percent":
        assert Metrics(**{field: wrong}).flat() == {field: 100.1}
        return
    with pytest.raises(SnapshotError) as caught:
        Metrics(**{field: wrong})
    (violation,) = caught.value.violations
    assert violation.startswith(f"metrics.{field}: must be a ")


@pytest.mark.parametrize(
    "custom", [{"": 1}, {"a.b": 1}, {1: 1}, {"a": None}, {"a": True}, {"a": -1}, {"a": math.nan}]
)
def test_metrics_reject_invalid_custom_metrics(custom: Any) -> None:
    """Keys are non-empty strings without a dot, values finite numbers of 0 or more."""
    with pytest.raises(SnapshotError, match=r"^metrics\.custom\["):
        Metrics(custom=custom)


@pytest.mark.parametrize("custom", [None, [], 1, "a", [("a", 1)]])
def test_metrics_reject_custom_metrics_that_are_not_a_mapping(custom: Any) -> None:
    """The error names the field."""
    with pytest.raises(SnapshotError, match=r"metrics\.custom: must be an object of numbers"):
        Metrics(throughput=1, custom=custom)


@pytest.mark.parametrize("latency", [{}, {"p95": 1.0}, 1.0, False, "fast"])
def test_metrics_reject_a_latency_of_another_type(latency: Any) -> None:
    """Only a `LatencyMetrics` has been validated."""
    with pytest.raises(SnapshotError, match=r"^metrics\.latency: must be LatencyMetrics, got "):
        Metrics(latency=latency, throughput=1)


@pytest.mark.parametrize("fields", [{}, {"custom": {}}, {"latency": None, "cpu_percent": None}])
def test_metrics_need_a_measurement(fields: dict[str, Any]) -> None:
    """Metrics without any measurement are rejected."""
    with pytest.raises(SnapshotError, match=r"^metrics: must hold at least one of latency, throughput, "):
        Metrics(**fields)


def test_every_violation_of_a_model_is_listed() -> None:
    """The error lists all violations."""
    with pytest.raises(SnapshotError) as caught:
        Metrics(throughput=-1, memory_mb=math.inf, cpu_percent=101, custom={"a.b": 0})
    assert [line.partition(":")[0] for line in caught.value.violations] == [
        "metrics.throughput",
        "metrics.memory_mb",
        "metrics.cpu_percent",
        "metrics.custom['a.b']",
    ]


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("run_id", None),
        ("run_id", 1),
        ("commit", 1),
        ("branch", b"main"),
        ("timestamp", None),
        ("timestamp", "2026-01-01T10:00:00Z"),
        ("timestamp", 1767261600),
        ("timestamp", date(2026, 1, 1)),
        ("timestamp", time(10)),
        ("timestamp", time(10, tzinfo=UTC)),
        ("timestamp", datetime.max.replace(tzinfo=timezone(timedelta(hours=-1)))),
        ("tags", None),
        ("tags", ["a"]),
        ("tags", {"a": 1}),
        ("tags", {1: "a"}),
        ("tags", {str(number): "" for number in range(51)}),
    ],
    ids=repr,
)
def test_metadata_reject_invalid_values(field: str, wrong: Any) -> None:
    """The error names the field."""
    with pytest.raises(SnapshotError) as caught:
        SnapshotMetadata(**{field: wrong})
    (violation,) = caught.value.violations
    assert violation.startswith(f"metadata.{field}")


def test_every_violation_of_metadata_is_listed() -> None:
    """The error lists all violations."""
    with pytest.raises(SnapshotError) as caught:
        SnapshotMetadata(run_id=1, commit=2, timestamp="x", tags={"a": 3})  # type: ignore[arg-type]
    assert sorted(line.partition(":")[0] for line in caught.value.violations) == [
        "metadata.commit",
        "metadata.run_id",
        "metadata.tags['a']",
        "metadata.timestamp",
    ]


def test_metadata_convert_the_timestamp_to_utc() -> None:
    """A timestamp without a time zone is taken as UTC."""
    local = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    naive = datetime(2026, 1, 1, 10)  # noqa: DTZ001 - naive on purpose
    for moment in (local, naive):
        kept = SnapshotMetadata(timestamp=moment).timestamp
        assert kept.isoformat() == "2026-01-01T10:00:00+00:00"


def test_50_tags_are_allowed() -> None:
    """The maximum of the specification is accepted."""
    assert len(SnapshotMetadata(tags={str(number): "" for number in range(50)}).tags) == 50


@pytest.mark.parametrize("wrong", [None, {}, {"throughput": 1}, 1.0])
def test_a_snapshot_rejects_parts_of_another_type(wrong: Any) -> None:
    """It consists of `Metrics` and `SnapshotMetadata`, which are validated."""
    with pytest.raises(SnapshotError, match=r"^metrics: must be Metrics, got "):
        PerformanceSnapshot(wrong)
    with pytest.raises(SnapshotError, match=r"^metadata: must be SnapshotMetadata, got "):
        PerformanceSnapshot(Metrics(throughput=1), metadata=wrong)


@pytest.mark.parametrize(
    "model",
    [LatencyMetrics(p95=1), Metrics(throughput=1), SnapshotMetadata(), _snapshot()],
    ids=lambda model: type(model).__name__,
)
def test_models_cannot_be_changed(model: Any) -> None:
    """They are immutable, so they stay valid."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(model, dataclasses.fields(model)[0].name, -1)


# -- public names ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        (LatencyMetrics, ["mean", "p50", "p95", "p99"]),
        (Metrics, ["latency", "throughput", "memory_mb", "cpu_percent", "custom"]),
        (SnapshotMetadata, ["run_id", "commit", "branch", "timestamp", "environment", "tags"]),
        (PerformanceSnapshot, ["metrics", "schema_version", "metadata"]),
    ],
)
def test_fields_are_those_of_the_reference_models(model: Any, fields: list[str]) -> None:
    """Names and order are equal, so either can be passed by position."""
    assert [field.name for field in dataclasses.fields(model)] == fields


def test_environments_are_those_of_the_reference_models() -> None:
    """The four members are equal to their strings."""
    assert {member.name: member.value for member in Environment} == {
        "CI": "ci",
        "LOCAL": "local",
        "STAGING": "staging",
        "CUSTOM": "custom",
    }
    assert all(isinstance(member, str) and member == member.value for member in Environment)


def test_methods_are_those_of_the_reference_models() -> None:
    """The reference's public methods exist under the same names."""
    assert callable(Metrics.flat)
    assert callable(PerformanceSnapshot.to_dict)
    assert callable(PerformanceSnapshot.from_dict)


# -- errors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [SnapshotError, SchemaVersionError])
def test_errors_survive_pickle_with_their_violations(kind: type[SnapshotError]) -> None:
    """An error from another process still has all violations."""
    error = pickle.loads(pickle.dumps(kind(["a: is wrong", "b: is wrong"])))
    assert type(error) is kind
    assert error.violations == ("a: is wrong", "b: is wrong")
    assert str(error) == "a: is wrong\nb: is wrong"


def test_errors_have_their_base_classes() -> None:
    """A version error is a snapshot error, an invalid input, a `ValueError` and a `MetricsError`."""
    assert issubclass(SchemaVersionError, SnapshotError)
    assert issubclass(SnapshotError, InvalidInputError)
    assert issubclass(SnapshotError, ValueError)
    assert issubclass(SnapshotError, MetricsError)
