"""What a batch holds: the one constructor for every way slices are read.

A batch is a flat dict of arrays, B being this host's share of the global batch:
    image (B, H, W, S) int16 HU, label (B, H, W) uint8, weight (B,) float32 1 real and 0 padding,
    example (B,) int32 row of the index (-1 padding), volume (B,) int32, slice_index (B,) int32.
S is the number of slices that a network sees at once (`mbh_jax.data.neighbours`), usually 1; the
middle one is the slice itself, whose label it is.
In training it has also
    draw (B,) int32, by which the randomness of an example is keyed (`mbh_jax.data.order`).
"""

from collections.abc import Iterator, Sequence

import numpy as np

from mbh_jax.data import neighbours
from mbh_jax.data.index import SliceIndex
from mbh_jax.data.neighbours import Neighbours

Batch = dict[str, np.ndarray]


def make_batch(
    index: SliceIndex, examples: np.ndarray, image: np.ndarray, label: np.ndarray
) -> Batch:
    """A batch of slices that have been read.

    Args:
        index: the dataset.
        examples: (B,) int32, rows of the index; the last ones may be -1, padding.
        image, label: (n, H, W, S) and (n, H, W), the pixels of the n real examples.
    """
    padding = ((0, len(examples) - len(label)), (0, 0), (0, 0))
    is_real = examples >= 0
    return {
        **without_pixels(examples),
        "image": np.pad(image, (*padding, (0, 0))) if padding[0][1] else image,
        "label": np.pad(label, padding) if padding[0][1] else label,
        "volume": np.where(is_real, index.volume[examples], -1).astype(np.int32),
        "slice_index": np.where(is_real, index.slice_index[examples], -1).astype(np.int32),
    }


def without_pixels(examples: np.ndarray) -> Batch:
    """`example` and `weight` of a batch whose pixels are on the devices already."""
    return {"example": examples, "weight": (examples >= 0).astype(np.float32)}


def slice_batches(hu: np.ndarray, batch_size: int, beside: Sequence[Neighbours]) -> Iterator[Batch]:
    """The slices of scans as batches for prediction, which hold `image` and `weight` only.

    Args:
        hu: (slices, rows, columns) integer Hounsfield units.
        batch_size: slices in a batch; the last one is padded.
        beside: which slices are the channels of `image`; of several, one after the other.
    """
    for start in range(0, len(hu), batch_size):
        part = slice(start, start + batch_size)
        image = np.concatenate(
            [neighbours.gather(hu[one.row[part]], one.shift[part]) for one in beside], axis=-1
        ).astype(np.int16)
        weight = (np.arange(batch_size) < len(image)).astype(np.float32)
        padded = np.pad(image, ((0, batch_size - len(image)), (0, 0), (0, 0), (0, 0)))
        yield {"image": padded, "weight": weight}
