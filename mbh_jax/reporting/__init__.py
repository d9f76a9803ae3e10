"""What a run shows and writes: progress, tables, curves, pictures."""
