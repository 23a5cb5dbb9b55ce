"""Telemetry events of memory trackers and GPUs: projected into one envelope, read, followed and recorded."""

from metrics_framework.telemetry.projection import (
    TELEMETRY_PROJECTION_SCHEMA_VERSION,
    ProjectedTelemetryRecord,
    project_telemetry_mapping,
    projected_record_to_dict,
    unique_projected_correlations,
    unique_projected_resources,
)

__all__ = [
    "TELEMETRY_PROJECTION_SCHEMA_VERSION",
    "ProjectedTelemetryRecord",
    "project_telemetry_mapping",
    "projected_record_to_dict",
    "unique_projected_correlations",
    "unique_projected_resources",
]
