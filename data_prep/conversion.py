"""From cases to what the records hold, volume by volume. Imports no TensorFlow.

This is what worker processes do: read, compress and describe volumes. Writing is done elsewhere.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from data_prep import sources
from data_prep.dataset import pixels_sha256
from data_prep.sources import BadCase, Case, CaseFacts
from mbh_jax.data.compression import CompressedVolume, compress
from mbh_jax.errors import UserError
from mbh_jax.imageio.volume import LabelledVolume, affine_spacing_mm


class Piece(NamedTuple):
    """Cases of one split that are read together: a volume, or slices cut from one."""

    split: str
    facts: tuple[CaseFacts, ...]


class Converted(NamedTuple):
    """A volume as it is written, and its row in metadata.json."""

    volume: CompressedVolume
    row: dict[str, Any]


def examine(case: Case) -> CaseFacts | BadCase:
    """Reads a case whole, and says what is known of it or why it cannot be used."""
    try:
        return sources.read_facts(case)
    except UserError as error:
        return BadCase(case.volume_id, str(error))


def pieces_of(cases: Mapping[str, Sequence[CaseFacts]]) -> Iterator[Piece]:
    """All cases in stored order, those that lie in one file together."""
    for split, facts in cases.items():
        for _, piece in itertools.groupby(facts, lambda fact: sources.whole_volume(fact.case)):
            yield Piece(split, tuple(piece))


def convert(piece: Piece) -> list[Converted]:
    """Reads and compresses the volumes of a piece.

    Raises:
        UserError: naming the file that cannot be read.
    """
    converted = []
    for facts in piece.facts:
        labelled = sources.read_case(facts.case)
        row = volume_metadata(labelled, piece.split, facts.notes)
        converted.append(Converted(compress(labelled), row))
    return converted


def volume_metadata(labelled: LabelledVolume, split: str, notes: Sequence[str]) -> dict[str, Any]:
    """A volume's row in metadata.json, which `mbh_jax.data.index` reads."""
    volume = labelled.volume
    return {
        "volume_id": labelled.volume_id,
        "patient_id": labelled.patient_id,
        "split": split,
        "shape": list(volume.hu.shape),
        "spacing_mm": affine_spacing_mm(volume.affine).tolist(),
        "spacing_known": labelled.spacing_known,
        "affine": volume.affine.tolist(),
        "stored_axcodes": volume.stored_axcodes,
        "has_label": labelled.has_label,
        "case_label": labelled.case_label,
        "pixels_per_class": labelled.pixels_per_class.tolist(),
        "sha256": pixels_sha256(labelled),
        "notes": list(notes),
    }
