"""What the commands exit with, beside 0 and 1."""

INTERRUPTED = 130
"""What a shell calls a program that Ctrl-C ended."""
