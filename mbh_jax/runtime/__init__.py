"""Devices, processes, signals and the compiler: what a step runs on."""
