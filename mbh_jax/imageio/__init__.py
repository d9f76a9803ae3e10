"""Volumes and masks in files: orientation, geometry, readers and writers."""
