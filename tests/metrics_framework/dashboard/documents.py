"""Documents of systems, checked against the schema."""

from __future__ import annotations

import json
from typing import Any

import jsonschema

from metrics_framework import MetricsSystem
from metrics_framework.dashboard import dashboard_schema
from metrics_framework.system import AnySystem

VALIDATOR = jsonschema.Draft202012Validator(dashboard_schema())


class Resources:
    """A monitor with constant readings."""

    def get_memory_usage(self) -> dict[str, float]:
        """Return a memory reading."""
        return {"percent": 97.0, "process_rss": 2.0, "process_peak_rss": 3.0, "total": 4.0}

    def get_cpu_usage(self) -> dict[str, float]:
        """Return a CPU reading."""
        return {"percent": 50.0, "process_percent": 180.0, "count": 2.0, "load_1m": 3.0}

    def get_disk_usage(self, path: str = "/") -> dict[str, float]:
        """Return a disk reading."""
        return {"percent": 80.0}

    def get_network_stats(self) -> dict[str, int]:
        """Return a network reading."""
        return {"bytes_sent": 5, "errors_in": 1, "drops_out": 7}

    def start_resource_monitoring(self, interval: float = 60.0) -> None:
        """Do nothing."""

    def stop_resource_monitoring(self) -> None:
        """Do nothing."""


def checked(document: dict[str, Any]) -> dict[str, Any]:
    """Return a document that is valid, survives JSON, and has unique panel ids."""
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    json.dumps(document, ensure_ascii=False).encode("utf-8")
    VALIDATOR.validate(document)
    ids = [panel["id"] for panel in document["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in document["panels"]:
        for series in panel["series"]:
            moments = [moment for moment, _ in series["points"]]
            assert moments == sorted(set(moments))
            assert len(series.get("values", ())) == (len(panel.get("columns", ())))
    return document


def panels(system: AnySystem | MetricsSystem, dashboard_type: str, **options: Any) -> dict[str, Any]:
    """Return the panels of a dashboard of a system by id."""
    document = checked(system.create_dashboard_data(dashboard_type, **options))
    return {panel["id"]: panel for panel in document["panels"]}


def shown(panel: dict[str, Any]) -> list[tuple[str, dict[str, str], Any]]:
    """Return the series of a panel as tuples."""
    return [(each["name"], each["tags"], each["value"]) for each in panel["series"]]
