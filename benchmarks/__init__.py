"""Benchmarks beside other libraries, in one run, as ratios. ``make bench`` runs them all."""
