"""The resource usage of the machine or container, this process and measured commands, read with psutil."""

from metrics_adapters.resources.cgroups import ControlGroups
from metrics_adapters.resources.command import CommandMonitor
from metrics_adapters.resources.monitor import PsutilMonitor

__all__ = ["CommandMonitor", "ControlGroups", "PsutilMonitor"]
