"""The projection of an event: all fields, all errors, and equality with Stormlog."""

from __future__ import annotations

import dataclasses
import json
from collections import UserDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics_framework.errors import InvalidInputError
from metrics_framework.telemetry import (
    TELEMETRY_PROJECTION_SCHEMA_VERSION,
    ProjectedTelemetryRecord,
    project_telemetry_mapping,
    projected_record_to_dict,
    unique_projected_correlations,
    unique_projected_resources,
)
from tests.metrics_framework.telemetry.made import event
from tests.metrics_framework.telemetry.peers import Projector, projector

SAMPLE = Path(__file__).parent / "data" / "telemetry_sample.jsonl"


def test_every_field_of_an_event_has_its_place():
    """Source, measurements and relations are separate, under the names of the envelope."""
    phase = {"name": "forward", "path": ["train", "forward"], "scope_id": "s2", "parent_scope_id": "s1"}
    record = project_telemetry_mapping(event(metadata={"phase_scope": phase, "step": 3}))
    assert projected_record_to_dict(record) == {
        "schema_version": TELEMETRY_PROJECTION_SCHEMA_VERSION,
        "record_id": record.record_id,
        "timestamp_ns": 1_700_000_000_000_000_000,
        "observed_timestamp_ns": 1_700_000_000_000_000_000,
        "session_id": "session-1",
        "source_kind": "cuda",
        "event_type": "sample",
        "stage": "forward",
        "severity": "info",
        "severity_text": None,
        "body": "forward pass",
        "resource": {
            "source_kind": "cuda",
            "collector": "stormlog.cuda_tracker",
            "host": "node-1",
            "pid": 42,
            "device_id": 0,
            "job_id": "job",
            "rank": 1,
            "local_rank": 0,
            "world_size": 2,
        },
        "attributes": {
            "phase_scope": phase,
            "step": 3,
            "sampling.interval_ms": 100,
            "memory.allocator.allocated_bytes": 1024,
            "memory.allocator.reserved_bytes": 2048,
            "memory.allocator.active_bytes": None,
            "memory.allocator.inactive_bytes": None,
            "memory.allocator.change_bytes": -5,
            "memory.device.used_bytes": 4096,
            "memory.device.free_bytes": 4096,
            "memory.device.total_bytes": 8192,
        },
        "correlation": {
            "session_id": "session-1",
            "job_id": "job",
            "rank": 1,
            "local_rank": 0,
            "world_size": 2,
            "phase.scope_id": "s2",
            "phase.parent_scope_id": "s1",
        },
    }


def test_an_event_needs_only_session_time_and_type():
    """All other fields may be missing and are empty then."""
    record = project_telemetry_mapping({"session_id": "s", "timestamp_ns": -1, "event_type": "x"})
    assert (record.timestamp_ns, record.observed_timestamp_ns) == (-1, -1)
    assert (record.source_kind, record.stage, record.severity, record.body) == ("other", None, None, None)
    assert set(record.resource.values()) == {"other", None}


def test_the_time_of_observation_may_differ():
    """`observed_timestamp_ns` is stored beside the time of the event, even if it is zero."""
    record = project_telemetry_mapping(event(), observed_timestamp_ns=0)
    assert record.observed_timestamp_ns == 0
    assert record.timestamp_ns == event()["timestamp_ns"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"session_id": None}, "projected telemetry record requires session_id"),
        ({"session_id": " \n"}, "projected telemetry record requires session_id"),
        ({"timestamp_ns": 1.5}, "projected telemetry record requires integer timestamp_ns"),
        ({"timestamp_ns": True}, "projected telemetry record requires integer timestamp_ns"),
        ({"event_type": ""}, "projected telemetry record requires event_type"),
        ({"event_type": 7}, "projected telemetry record requires event_type"),
        ({"metadata": None}, "projected telemetry record metadata must be a mapping"),
        ({"metadata": []}, "projected telemetry record metadata must be a mapping"),
    ],
)
def test_an_event_without_identity_is_an_error(changes, message):
    """Each rule has its own message, and the error is a `ValueError`."""
    with pytest.raises(InvalidInputError) as caught:
        project_telemetry_mapping(event(**changes))
    assert str(caught.value) == message
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(("observed", "word"), [(True, "integer"), (1.0, "integer"), (-1, "non-negative")])
def test_an_invalid_time_of_observation_is_an_error(observed, word):
    """It must be an integer of 0 or more."""
    with pytest.raises(InvalidInputError, match=f"^projected telemetry record requires {word} observed"):
        project_telemetry_mapping(event(), observed_timestamp_ns=observed)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"metadata": {"backend": " ROCm "}}, "rocm"),
        ({"metadata": {"backend": "xpu"}}, "cuda"),
        ({"metadata": {"backend": 3}, "collector": "My.MPS.cuda"}, "cuda"),
        ({"collector": "tensorflow.cpu"}, "cpu"),
        ({"collector": None, "device_id": 0}, "gpu"),
        ({"collector": "", "device_id": True}, "gpu"),
        ({"collector": "jax", "device_id": -1}, "other"),
        ({"collector": 7, "device_id": "0"}, "other"),
    ],
)
def test_the_kind_of_a_source_is_found(changes, kind):
    """It comes from the metadata, the name of the collector, or the existence of a device."""
    assert project_telemetry_mapping(event(**changes)).source_kind == kind


@pytest.mark.parametrize(
    ("phase", "stage"),
    [
        ({"name": " forward ", "path": ["other"]}, " forward "),
        ({"name": " ", "path": ["train", "eval"]}, "eval"),
        ({"path": ["train", ""]}, None),
        ({"path": ("train",)}, None),
        ({"path": []}, None),
        ("forward", None),
    ],
)
def test_the_stage_is_the_innermost_phase(phase, stage):
    """It is the name of the phase, or else the end of its path."""
    assert project_telemetry_mapping(event(metadata={"phase_scope": phase})).stage == stage


@pytest.mark.parametrize(
    ("event_type", "severity"),
    [
        (" CRITICAL ", "critical"),
        ("error", "error"),
        ("collector_degraded", "warning"),
        ("collector_recovered", "info"),
        ("phase_enter", "info"),
        ("allocation", None),
        ("deallocation", None),
        ("peak", None),
    ],
)
def test_severity_follows_from_the_type(event_type, severity):
    """Event types without a defined severity have none."""
    record = project_telemetry_mapping(event(event_type=event_type))
    assert (record.severity, record.event_type) == (severity, event_type)


def test_the_severity_in_an_event_wins():
    """Metadata may contain it, also as text."""
    record = project_telemetry_mapping(event(metadata={"severity": " Fatal ", "severity_text": 50}))
    assert (record.severity, record.severity_text) == ("fatal", "50")


def test_a_record_cannot_be_changed():
    """Its fields, mappings and lists are immutable, even if the event changes."""
    given = event(metadata={"nested": {"list": [1, {"a": 2}]}})
    record = project_telemetry_mapping(given)
    given["metadata"]["nested"]["list"].append(3)
    assert record.attributes["nested"] == MappingProxyType({"list": (1, MappingProxyType({"a": 2}))})
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.stage = "x"
    with pytest.raises(TypeError):
        record.attributes["nested"]["list"] = ()
    assert projected_record_to_dict(record)["attributes"]["nested"] == {"list": [1, {"a": 2}]}


def test_a_record_as_plain_data_is_json():
    """Its plain data can be converted to JSON."""
    for record in sample():
        plain = projected_record_to_dict(record)
        assert json.loads(json.dumps(plain)) == plain


def test_resources_and_correlations_are_listed_once():
    """They are in order of first appearance, for any order of their keys."""
    records = [
        project_telemetry_mapping(event(rank=rank, metadata={"at": at}, timestamp_ns=at))
        for at, rank in enumerate([1, 0, 1, 0])
    ]
    assert [one["rank"] for one in unique_projected_resources(records)] == [1, 0]
    assert [one["rank"] for one in unique_projected_correlations(records)] == [1, 0]
    assert unique_projected_resources([]) == []
    apart = dataclasses.replace(records[0], resource={"b": 1, "a": (2,)})
    same = dataclasses.replace(records[0], resource=MappingProxyType({"a": [2], "b": 1}))
    assert unique_projected_resources([apart, same]) == [{"b": 1, "a": [2]}]


def test_equal_events_have_equal_ids():
    """The id does not depend on the order of keys or the type of mapping."""
    ids = {
        project_telemetry_mapping(one).record_id
        for one in (
            event(),
            dict(reversed(event().items())),
            UserDict(event()),
            MappingProxyType(event(metadata=MappingProxyType({}))),
        )
    }
    assert len(ids) == 1
    assert project_telemetry_mapping(event(unknown_key=1)).record_id not in ids
    assert ids.pop().startswith("telemetry-")


ODD = [
    (event(**{"\ud83d\ude00": 1, "\uffff": 2}), event(**{"😀": 1, "\uffff": 2})),
    (event(**{"\ud83d\ude00": 1, "😀": 2}), event(**{"😀": 2})),
    (event(a=[{10: 1, 9: 2}]), event(a=[{"10": 1, "9": 2}])),
    (event(a={10: 1, "b": (2,)}), event(a={"10": 1, "b": [2]})),
    (event(a=b"x"), event(a="b'x'")),
]
"""Events that are no JSON, and what JSON makes of them."""


@pytest.mark.parametrize(("odd", "plain"), ODD)
def test_values_outside_json_have_the_id_of_their_json_form(odd, plain):
    """Keys that are not strings, lone surrogates and tuples count as JSON parsing returns them."""
    assert project_telemetry_mapping(odd).record_id == project_telemetry_mapping(plain).record_id


def test_events_of_both_schemas_are_projected():
    """A real file of schema 4 and an event of schema 3 are projected."""
    records = sample()
    assert len(records) == 101
    assert {record.source_kind for record in records} == {"cpu"}
    assert {record.event_type for record in records} == {"start", "sample", "allocation", "peak", "stop"}
    assert project_telemetry_mapping(event()).source_kind == "cuda"


def sample() -> list[ProjectedTelemetryRecord]:
    """Return the records of the sample file."""
    return [project_telemetry_mapping(json.loads(line)) for line in SAMPLE.read_text().splitlines()]


# -- beside Stormlog -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stormlog() -> Iterator[Projector]:
    """Return Stormlog's own projection, in a separate process."""
    with projector() as running:
        yield running


def ours(record: Mapping[str, Any], observed: Any = None) -> dict[str, str]:
    """Return the same as `Projector.ask`, from our projection."""
    try:
        projected = project_telemetry_mapping(record, observed_timestamp_ns=observed)
    except Exception as error:  # noqa: BLE001 - which one it is, is the answer
        kind = "ValueError" if isinstance(error, InvalidInputError) else type(error).__name__
        return {"error": kind, "message": str(error)}
    return {"repr": repr(projected), "plain": repr(projected_record_to_dict(projected))}


@pytest.mark.heavy
def test_a_real_file_is_projected_as_stormlog_does(stormlog):
    """Each record of the sample has equal fields, types and id."""
    for line in SAMPLE.read_text().splitlines():
        assert ours(json.loads(line)) == stormlog.ask({"json": json.loads(line)})


@pytest.mark.heavy
@pytest.mark.parametrize("odd", [odd for odd, _ in ODD])
def test_values_outside_json_are_projected_as_stormlog_does(stormlog, odd):
    """This includes events that JSON changes."""
    assert ours(odd) == stormlog.ask({"literal": ascii(odd)})


text = st.text(max_size=6) | st.sampled_from(
    [
        "cuda",
        "My.CPU",
        "warning",
        " Error ",
        "😀",
        "\ud83d",
        "\ude00",
        "\ud83d\ude00",
        "\uffff",
        "\\ud83d",
        "",
    ]
)
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | st.none()
json_values = st.recursive(
    text | numbers | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
)
phases = st.fixed_dictionaries(
    {},
    optional={
        "name": text | numbers,
        "path": st.lists(text | numbers, max_size=2) | text,
        "scope_id": json_values,
        "parent_scope_id": json_values,
        "sequence": numbers,
    },
)


def metadata(values: st.SearchStrategy[Any], keys: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return possible metadata of events: mostly mappings with known keys."""
    known = st.fixed_dictionaries(
        {},
        optional={
            "backend": text | numbers,
            "severity": text | numbers,
            "severity_text": values,
            "phase_scope": phases | values,
            "sampling.interval_ms": values,
        },
    )
    others = st.dictionaries(keys, values, max_size=3)
    return st.builds(lambda one, two: {**one, **two}, known, others) | values


def events(values: st.SearchStrategy[Any], keys: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return events, many of which are valid."""
    required = st.fixed_dictionaries(
        {
            "session_id": st.just("s") | text | numbers,
            "timestamp_ns": st.integers() | numbers,
            "event_type": st.sampled_from(["sample", "peak", " Critical"]) | text | numbers,
        }
    )
    optional = st.fixed_dictionaries(
        {},
        optional={
            "metadata": metadata(values, keys),
            "context": values,
            "collector": text | values,
            "device_id": st.integers(-1, 2) | values,
            "rank": values,
            "host": values,
            "allocator_allocated_bytes": values,
            "device_total_bytes": values,
        },
    )
    others = st.dictionaries(keys, values, max_size=3)
    return st.builds(lambda one, two, three: {**three, **two, **one}, required, optional, others)


@pytest.mark.heavy
@settings(max_examples=500)
@given(
    record=events(json_values, text),
    observed=st.none() | st.none() | st.integers() | st.booleans() | st.floats(0, 1),
)
def test_any_event_from_json_is_projected_as_stormlog_does(stormlog, record, observed):
    """Random events, valid or not, give the same record or the same error."""
    case = {"json": record, "observed": observed}
    # Both parse the same text, because JSON joins surrogate pairs.
    read = json.loads(json.dumps(case))
    assert ours(read["json"], read["observed"]) == stormlog.ask(case)


literals = st.recursive(
    text | numbers,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.binary(max_size=3)
        | st.dictionaries(text | st.integers(0, 12) | st.booleans() | st.none(), inner, max_size=4)
    ),
)


@pytest.mark.heavy
@settings(max_examples=500)
@given(record=events(literals, text | st.integers(0, 12) | st.booleans() | st.none()))
def test_any_mapping_is_projected_as_stormlog_does(stormlog, record):
    """This includes keys that are not strings, tuples, bytes and lone surrogates."""
    assert ours(record) == stormlog.ask({"literal": ascii(record)})
