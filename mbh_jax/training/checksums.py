"""Checksums of arrays on the devices and of records, to tell a damaged checkpoint from a whole one.

The storage libraries notice missing and broken-off files, but not a changed bit in an array.
"""

import json
import zlib
from typing import Any

import jax
import jax.numpy as jnp

PyTree = Any


@jax.jit
def _checksum(leaves: list[jax.Array]) -> jax.Array:
    total = jnp.uint32(0)
    for leaf in leaves:
        unsigned = jnp.dtype(f"uint{8 * leaf.dtype.itemsize}")
        bits = jax.lax.bitcast_convert_type(leaf, unsigned).astype(jnp.uint32).ravel()
        # Odd factors lose no bit, and tell apart values that have changed places.
        factors = 2 * jax.lax.iota(jnp.uint32, bits.size) + 1
        total = total * jnp.uint32(31) + (bits * factors).sum(dtype=jnp.uint32)
    return total


def of_arrays(tree: PyTree) -> int:
    """A checksum of the bits of all arrays of a tree, which have at most 32 bits a value.

    It changes with any one value. It is computed on the devices that hold the arrays.
    """
    return int(_checksum(jax.tree.leaves(tree)))


def of_record(record: dict[str, Any]) -> int:
    """A checksum of a record, which is written as JSON."""
    return zlib.crc32(json.dumps(record, sort_keys=True).encode())
