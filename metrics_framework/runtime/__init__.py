"""Threads, event loops, fork, exit and files. Nothing here knows of metrics."""
