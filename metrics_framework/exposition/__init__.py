"""Prometheus text and the other formats of exported values."""
