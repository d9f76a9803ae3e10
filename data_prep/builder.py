"""The tensorflow-datasets builder that writes head CTs as records."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from data_prep import sources
from data_prep.sources import CaseFacts
from mbh_jax import volume_io
from mbh_jax.data import records
from mbh_jax.data.index import METADATA_FORMAT, SPLIT_NAMES
from mbh_jax.errors import UserError
from mbh_jax.labels import CLASS_NAMES

_KEY_SPACE = 2**128
"""Keys are spread over the space that TFDS sorts records in, so that its buckets stay small."""


@dataclass(frozen=True)
class Plan:
    """What to write.

    Attributes:
        source: where the cases come from.
        split_method: how the splits were made, kept in the metadata.
        cases: each split's cases, in stored order.
        on_volume: called after each volume.
    """

    source: sources.Source
    split_method: Mapping[str, Any]
    cases: Mapping[str, Sequence[CaseFacts]]
    on_volume: Callable[[], object]


class CanonicalExampleWriter(tfds.core.ExampleWriter):
    """Writes records whose bytes depend on nothing but their contents.

    Protocol buffers serialise a map in an order that changes from process to process unless asked
    not to, and TFDS does not ask.
    """

    def write(self, path: Any, examples: Any) -> Any:
        """Writes (key, serialised example) pairs to `path`."""
        return super().write(path, ((key, _canonical(serialised)) for key, serialised in examples))


class HeadCt(tfds.core.GeneratorBasedBuilder):
    """Slices of head CTs with labels of five kinds of haemorrhage; see `mbh_jax.data.records`."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012 (TFDS reads a plain dict)

    def __init__(self, *, plan: Plan | None = None, **kwargs: Any) -> None:
        """`plan` is needed to write a dataset and not to read one."""
        self._plan = plan
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Slices of head CTs (HU) with labels of five kinds of haemorrhage.",
            features=records.features(),
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,
        )

    def _example_writer(self) -> CanonicalExampleWriter:
        return CanonicalExampleWriter(file_format=self.info.file_format)

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict]]]:
        if self._plan is None:
            raise UserError("head_ct is made by python -m data_prep.build_tfrecords")
        self.info.metadata.update(
            format=METADATA_FORMAT,
            classes=list(CLASS_NAMES),
            source={"name": self._plan.source.name, "layout": self._plan.source.layout},
            split=dict(self._plan.split_method),
            volumes=[],
        )
        return {split: self._generate_examples(split) for split in SPLIT_NAMES}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        assert self._plan is not None
        cases = self._plan.cases[split]
        num_slices = sum(facts.shape[0] for facts in cases)
        position = 0
        for facts in cases:
            labelled = sources.read_case(facts.case)
            for record in records.slices_of(labelled):
                yield position * (_KEY_SPACE // num_slices), record
                position += 1
            self.info.metadata["volumes"].append(volume_metadata(labelled, split, facts.notes))
            self._plan.on_volume()


def volume_metadata(
    labelled: volume_io.LabelledVolume, split: str, notes: Sequence[str]
) -> dict[str, Any]:
    """A volume's row in metadata.json, which `mbh_jax.data.index` reads."""
    volume = labelled.volume
    pixels = np.ascontiguousarray(volume.hu, "<i2").tobytes() + labelled.label.tobytes()
    return {
        "volume_id": labelled.volume_id,
        "patient_id": labelled.patient_id,
        "split": split,
        "shape": list(volume.hu.shape),
        "spacing_mm": volume_io.spacing_mm(volume.affine).tolist(),
        "affine": volume.affine.tolist(),
        "stored_axcodes": volume.stored_axcodes,
        "pixels_per_class": volume_io.pixels_per_class(labelled.label).tolist(),
        "sha256": hashlib.sha256(pixels).hexdigest(),
        "notes": list(notes),
    }


def _canonical(serialised: bytes) -> bytes:
    return tf.train.Example.FromString(serialised).SerializeToString(deterministic=True)
