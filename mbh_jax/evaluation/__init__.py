"""Scores of predictions: overlap, distances, lesions, millilitres, and how certain they are."""
