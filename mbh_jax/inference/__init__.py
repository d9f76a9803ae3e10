"""Trained networks on scans: masks, millilitres, pictures."""
