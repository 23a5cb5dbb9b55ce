"""Adapters by name: built-in ones from a table, others from entry points."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import pytest

import metrics_adapters.in_memory as in_memory
from metrics_adapters.resources import PsutilMonitor
from metrics_adapters.snapshot_writer import SnapshotWriter
from metrics_framework.errors import UnknownAdapterError
from metrics_framework.plugins import BUILT_IN, ENTRY_POINT_GROUP, load_adapter


@pytest.fixture
def third_party(tmp_path, monkeypatch):
    """Install a distribution that provides the adapter `acme`, as pip does."""
    (tmp_path / "acme_metrics.py").write_text("class AcmeCollector:\n    pass\n")
    information = tmp_path / "acme_metrics-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-metrics\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(
        f"[{ENTRY_POINT_GROUP}]\n"
        "acme = acme_metrics:AcmeCollector\n"
        "in_memory.collector = acme_metrics:AcmeCollector\n"
        "[another.group]\nother = acme_metrics:AcmeCollector\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("acme_metrics", None)


@pytest.mark.smoke
@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_adapter_is_public(name):
    """Each row of the table leads to a public class or function of `metrics_adapters`."""
    adapter = load_adapter(name)
    package, _, attribute = BUILT_IN[name].partition(":")
    assert callable(adapter)
    assert adapter is getattr(sys.modules[package], attribute)
    assert attribute in sys.modules[package].__all__


@pytest.mark.parametrize(
    ("name", "adapter"),
    [
        ("in_memory.collector", in_memory.InMemoryCollector),
        ("in_memory.timer", in_memory.InMemoryTimer),
        ("in_memory.tracker", in_memory.InMemoryTracker),
        ("in_memory.aggregator", in_memory.InMemoryAggregator),
        ("resources", PsutilMonitor),
        ("snapshot_writer", SnapshotWriter),
    ],
)
def test_names_lead_to_their_adapters(name, adapter):
    """The names of configurations return these adapters."""
    assert load_adapter(name) is adapter


def test_built_in_adapters_are_found_without_scanning(monkeypatch):
    """The table needs no metadata of installed packages, which a frozen application does not have."""

    def refuse(**_: object) -> None:
        raise AssertionError("scanned")

    monkeypatch.setattr(importlib.metadata, "entry_points", refuse)
    assert load_adapter("in_memory.collector") is in_memory.InMemoryCollector


def test_a_third_party_plugs_in_by_an_entry_point(third_party):
    """A name that is not in the table is provided by the installed package that declares it."""
    assert load_adapter("acme").__module__ == "acme_metrics"


def test_a_third_party_does_not_replace_a_built_in_adapter(third_party):
    """A built-in name has the same meaning whatever is installed."""
    assert load_adapter("in_memory.collector") is in_memory.InMemoryCollector


def test_entry_points_of_other_groups_are_ignored(third_party):
    """Only the library's own group is searched."""
    with pytest.raises(UnknownAdapterError):
        load_adapter("other")


@pytest.mark.parametrize(
    ("name", "meant"), [("in_memory.colector", "in_memory.collector"), ("acmee", "acme")]
)
def test_an_unknown_name_is_answered_with_the_nearest(third_party, name, meant):
    """The error quotes the name and suggests built-in and installed adapters."""
    with pytest.raises(UnknownAdapterError) as caught:
        load_adapter(name)
    assert repr(name) in str(caught.value)
    assert f"Did you mean {meant!r}" in str(caught.value)


@pytest.mark.slow
def test_the_table_imports_adapters_on_demand():
    """Getting one adapter imports only that one."""
    code = (
        "import sys\n"
        "from metrics_framework.plugins import load_adapter\n"
        "assert 'metrics_adapters' not in sys.modules\n"
        "load_adapter('snapshot_writer')\n"
        "assert 'metrics_adapters.in_memory' not in sys.modules\n"
        "assert 'psutil' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
