"""Telemetry events of memory trackers and GPUs: a common envelope, reading, following, recording, writing."""

from metrics_framework.telemetry.events import EventSource, ResourceEvents, TelemetryIdentity, TelemetryLog
from metrics_framework.telemetry.following import TelemetryFollower
from metrics_framework.telemetry.gauges import TELEMETRY_GAUGES, TelemetryGauge, TelemetryRecorder
from metrics_framework.telemetry.projection import (
    TELEMETRY_PROJECTION_SCHEMA_VERSION,
    ProjectedTelemetryRecord,
    project_telemetry_mapping,
    projected_record_to_dict,
    unique_projected_correlations,
    unique_projected_resources,
)
from metrics_framework.telemetry.reading import (
    Flaw,
    TelemetryManifest,
    TelemetrySession,
    read_projected_telemetry,
    read_telemetry,
    read_telemetry_manifest,
    telemetry_files,
)

__all__ = [
    "TELEMETRY_GAUGES",
    "TELEMETRY_PROJECTION_SCHEMA_VERSION",
    "EventSource",
    "Flaw",
    "ProjectedTelemetryRecord",
    "ResourceEvents",
    "TelemetryFollower",
    "TelemetryGauge",
    "TelemetryIdentity",
    "TelemetryLog",
    "TelemetryManifest",
    "TelemetryRecorder",
    "TelemetrySession",
    "project_telemetry_mapping",
    "projected_record_to_dict",
    "read_projected_telemetry",
    "read_telemetry",
    "read_telemetry_manifest",
    "telemetry_files",
    "unique_projected_correlations",
    "unique_projected_resources",
]
