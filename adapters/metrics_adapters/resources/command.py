"""to come"""


class CommandMonitor: ...
