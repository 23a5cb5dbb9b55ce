"""The facade's configuration: which keys there are, and what their values may be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from metrics_framework.errors import ConfigurationError, nearest

EXPORT_ENDPOINTS = ("snapshot_writer",)
"""The adapters that can be named as endpoints."""


@dataclass(frozen=True)
class Settings:
    """A configuration that was checked as a whole, before any of it is applied.

    Attributes:
        collection_interval: Seconds between two resource readings; ``None`` for none in the background.
        retention: How far back a time window may reach; ``None`` to leave it as it is.
        export_endpoints: Adapters that take the final snapshot.
    """

    collection_interval: float | None
    retention: timedelta | None
    export_endpoints: list[str]

    @classmethod
    def parse(cls, config: Mapping[str, Any]) -> Settings:
        """Check a configuration.

        Raises:
            ConfigurationError: If a key is unknown or a value is not allowed.
        """
        known = ("collection_interval", "retention_days", "export_endpoints")
        for key in config:
            if key not in known:
                raise ConfigurationError(f"unknown configuration key {key!r}.{nearest(str(key), known)}")
        endpoints = config.get("export_endpoints", [])
        if not isinstance(endpoints, list) or not all(isinstance(name, str) for name in endpoints):
            raise ConfigurationError(f"export_endpoints={endpoints!r} is not a list of names")
        for name in endpoints:
            if name not in EXPORT_ENDPOINTS:
                raise ConfigurationError(
                    f"export_endpoints: no adapter provides {name!r}.{nearest(name, EXPORT_ENDPOINTS)}"
                )
        days = _positive(config, "retention_days")
        return cls(
            _positive(config, "collection_interval"),
            timedelta(days=days) if days is not None else None,
            endpoints,
        )


def _positive(config: Mapping[str, Any], key: str) -> float | None:
    value = config.get(key)
    if value is None:
        return None
    # An upper bound that no one needs keeps `timedelta` from overflowing.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e8:
        raise ConfigurationError(f"{key}={value!r} is not a positive number")
    return value
