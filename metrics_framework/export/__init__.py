"""Outputs: where numbers are written at an interval, on demand and at the end."""
