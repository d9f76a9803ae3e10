"""Training and evaluation of multi-class brain-haemorrhage segmentation in CT, in JAX."""

__version__ = "0.1.0"
