"""The resource usage of the machine, this process and measured commands, read with psutil."""

from metrics_adapters.resources.command import CommandMonitor
from metrics_adapters.resources.monitor import PsutilMonitor

__all__ = ["CommandMonitor", "PsutilMonitor"]
