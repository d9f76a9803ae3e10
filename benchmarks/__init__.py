"""Measurements of speed and size; the results are in RESULTS.md."""
