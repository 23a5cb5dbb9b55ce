"""Threads, event loops, fork, exit, files and JSON. Nothing here knows of metrics."""
