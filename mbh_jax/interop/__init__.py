"""Networks of other projects read into ours, and ours written for other programs."""
