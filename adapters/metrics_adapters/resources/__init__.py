"""What the machine, the process and a measured command use, read with psutil."""

from metrics_adapters.resources.command import CommandMonitor
from metrics_adapters.resources.monitor import PsutilMonitor

__all__ = ["CommandMonitor", "PsutilMonitor"]
