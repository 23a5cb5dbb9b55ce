"""Worker processes that share one set of numbers; see ``docs/multiprocess.md``."""
