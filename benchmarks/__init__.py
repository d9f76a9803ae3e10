"""Measurements of speed and size; results are in RESULTS.md."""
