"""Records on disk, the input pipeline, and what happens to a batch on the device."""
