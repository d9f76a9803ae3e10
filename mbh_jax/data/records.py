"""The one description of a record: one CT slice with its labels, lossless.

Records are `tf.train.Example`s in TFRecord files of a tensorflow-datasets dataset; this module
gives their features, makes them from volumes and puts volumes together again. Arrays are in the
program's orientation (see `mbh_jax.imageio.volume`). `image` and `label` are zlib streams (see
`mbh_jax.data.compression`).
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from mbh_jax.data.compression import CompressedVolume
from mbh_jax.data.schema import LabelledVolume
from mbh_jax.labels import NUM_CLASSES


def features() -> tfds.features.FeaturesDict:
    """What a record holds.

    `image` int16 HU and `label` uint8, both (rows, columns); `spacing_mm` and the columns of
    `affine` (voxel to RAS+ mm) in the order column, row, slice; `slice_index` from inferior to
    superior, 0 to `num_slices` - 1; `stored_axcodes` the orientation of the source file. Where
    `has_label` is false, `label` and `pixels_per_class` are zeros and `case_label` says what is
    known of the volume; where `spacing_known` is false, millimetres are not to be believed.
    """
    tensor = tfds.features.Tensor
    return tfds.features.FeaturesDict(
        {
            "image": tensor(shape=(None, None), dtype=np.int16, encoding="zlib"),
            "label": tensor(shape=(None, None), dtype=np.uint8, encoding="zlib"),
            "volume_id": tfds.features.Text(),
            "patient_id": tfds.features.Text(),
            "slice_index": tensor(shape=(), dtype=np.int32),
            "num_slices": tensor(shape=(), dtype=np.int32),
            "spacing_mm": tensor(shape=(3,), dtype=np.float64, encoding="bytes"),
            "affine": tensor(shape=(4, 4), dtype=np.float64, encoding="bytes"),
            "stored_axcodes": tfds.features.Text(),
            "pixels_per_class": tensor(shape=(NUM_CLASSES,), dtype=np.int64),
            "has_label": tensor(shape=(), dtype=np.bool_),
            "case_label": tfds.features.Text(),
            "spacing_known": tensor(shape=(), dtype=np.bool_),
        }
    )


def decode_pixels(serialised: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """What training reads of a serialised record: image (H, W) int16 HU and label (H, W) uint8.

    TensorFlow operations only, for tf.data. As TFDS decodes `features`, which does more per record
    and warns of its own internals each time it is traced.
    """
    dtypes = {"image": tf.int16, "label": tf.uint8}
    parts = {}
    for name in dtypes:
        parts[f"{name}/value"] = tf.io.FixedLenFeature((), tf.string)
        parts[f"{name}/shape"] = tf.io.FixedLenFeature((2,), tf.int64)
    record = tf.io.parse_single_example(serialised, parts)
    image, label = (
        tf.reshape(
            tf.io.decode_raw(tf.io.decode_compressed(record[f"{name}/value"], "ZLIB"), dtype),
            record[f"{name}/shape"],
        )
        for name, dtype in dtypes.items()
    )
    return image, label


def examples_of(volume: CompressedVolume) -> Iterator[bytes]:
    """Yields the serialised records of a volume, from inferior to superior.

    They hold what tensorflow-datasets would make of `features`, compressed less hard, which takes
    a quarter of the time for equal size. Their bytes depend on nothing but their contents: protocol
    buffers serialise a map in an order that changes from process to process unless asked not to.
    """
    _, rows, columns = volume.shape
    of_volume = {
        "volume_id": _bytes(volume.volume_id.encode()),
        "patient_id": _bytes(volume.patient_id.encode()),
        "num_slices": _ints(volume.num_slices),
        "spacing_mm": _bytes(volume.spacing_mm.astype("<f8").tobytes()),
        "affine": _bytes(volume.affine.astype("<f8").tobytes()),
        "stored_axcodes": _bytes(volume.stored_axcodes.encode()),
        "has_label": _ints(volume.has_label),
        "case_label": _bytes(volume.case_label.encode()),
        "spacing_known": _ints(volume.spacing_known),
        "image/shape": _ints(rows, columns),
        "label/shape": _ints(rows, columns),
    }
    for slice_index in range(volume.num_slices):
        of_slice = {
            "image/value": _bytes(volume.images[slice_index]),
            "label/value": _bytes(volume.labels[slice_index]),
            "slice_index": _ints(slice_index),
            "pixels_per_class": _ints(*volume.pixels_per_class[slice_index]),
        }
        example = tf.train.Example(features=tf.train.Features(feature=of_volume | of_slice))
        yield example.SerializeToString(deterministic=True)


def volume_of(slices: Iterable[Mapping[str, Any]]) -> LabelledVolume:
    """Puts a volume together again from all its decoded records, in any order.

    Args:
        slices: records as `tfds.as_numpy` yields them.

    Raises:
        ValueError: if records are missing, repeated, or of several volumes.
    """
    ordered = sorted(slices, key=lambda record: int(record["slice_index"]))
    if not ordered:
        raise ValueError("no records")
    first = ordered[0]
    indices = [int(record["slice_index"]) for record in ordered]
    if indices != list(range(int(first["num_slices"]))):
        raise ValueError(f"slices {indices} are not those of {int(first['num_slices'])} slices")
    if len({_text(record["volume_id"]) for record in ordered}) != 1:
        raise ValueError("records of several volumes")
    hu = np.stack([record["image"] for record in ordered])
    return LabelledVolume(
        volume_id=_text(first["volume_id"]),
        patient_id=_text(first["patient_id"]),
        shape=hu.shape,
        affine=np.asarray(first["affine"]),
        stored_axcodes=_text(first["stored_axcodes"]),
        has_label=bool(first["has_label"]),
        case_label=_text(first["case_label"]),
        spacing_known=bool(first["spacing_known"]),
        hu=hu,
        label=np.stack([record["label"] for record in ordered]),
    )


def _bytes(value: bytes) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def _ints(*values: int) -> tf.train.Feature:
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[int(value) for value in values]))


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
