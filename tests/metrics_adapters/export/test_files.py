"""The endpoints that write files and folders."""

from __future__ import annotations

import csv
import json

import pytest

from metrics_adapters.null import NullCollector
from metrics_framework import MetricsSystem, OutputError
from metrics_framework.export.endpoints import make_endpoint


@pytest.fixture
def system():
    """Return a system with two series."""
    made = MetricsSystem()
    made.collector.increment("orders", {"kind": 'a,"b"\n\ud800'})
    made.collector.record_gauge("level", 2.5)
    return made


def export(system, url):
    """Export to a URL."""
    make_endpoint(url)[1].export(system)


def test_json_and_csv_replace_the_file(system, tmp_path):
    """The file contains the last export only, and no temporary file remains."""
    for _ in range(2):
        export(system, f"file://{tmp_path}/all.json")
        export(system, f"file://{tmp_path}/all.csv")
    assert len(json.loads((tmp_path / "all.json").read_text())["metrics"]) == 2
    with (tmp_path / "all.csv").open(newline="") as file:
        assert [row["name"] for row in csv.DictReader(file)] == ["orders", "level"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.csv", "all.json"]


def test_jsonl_appends_to_the_file(system, tmp_path):
    """Each export appends a line for each series, also after an incomplete line."""
    path = tmp_path / "all.log"
    export(system, f"file://{path}?format=jsonl")
    with path.open("a") as file:
        file.write('{"name": "to')
    export(system, f"file://{path}?format=jsonl")
    lines = path.read_text().splitlines()
    assert [json.loads(line)["name"] for line in (*lines[:2], *lines[3:])] == ["orders", "level"] * 2


def test_relative_paths_are_those_of_the_working_directory(system, tmp_path, monkeypatch):
    """A path without a leading slash is relative, like the defaults of `prometheus` and `snapshot_writer`."""
    monkeypatch.chdir(tmp_path)
    export(system, "file:all.json")
    export(system, "prometheus")
    make_endpoint("snapshot_writer")[1].write(system.snapshot())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.json", "metrics.prom", "snapshots"]
    assert "orders_total{" in (tmp_path / "metrics.prom").read_text()


@pytest.mark.parametrize("name", ["all.json", "all.jsonl", "all.csv"])
def test_a_failed_write_is_an_output_error(system, tmp_path, name):
    """The message names the file and the reason."""
    with pytest.raises(OutputError, match=f"{name}.*No such file"):
        export(system, f"file://{tmp_path}/nowhere/{name}")


def test_third_party_adapters_are_exported(system, tmp_path):
    """Without a store, the textfile contains the metrics of the aggregator."""
    foreign = MetricsSystem(collector=NullCollector(), aggregator=system.aggregator)
    export(foreign, f"textfile://{tmp_path}/all.prom")
    assert "level 2.5" in (tmp_path / "all.prom").read_text()
