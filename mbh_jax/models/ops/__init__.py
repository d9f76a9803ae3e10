"""What layers are compiled to on each platform."""
