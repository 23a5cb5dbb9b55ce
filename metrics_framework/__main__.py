"""``python -m metrics_framework`` is the command line."""

from metrics_framework.cli import main

main()
