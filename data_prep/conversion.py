"""From cases to what the records hold, volume by volume. Imports no TensorFlow.

This is what worker processes do: read, compress and describe volumes. Writing is done elsewhere.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from data_prep import sources
from data_prep.sources import BadCase, Case, CaseFacts
from mbh_jax.data.compression import CompressedVolume, compress
from mbh_jax.data.schema import VolumeInfo
from mbh_jax.errors import UserError
from mbh_jax.imageio.png import PaletteError


class Piece(NamedTuple):
    """Cases of one split that are read together: a volume, or slices cut from one."""

    split: str
    facts: tuple[CaseFacts, ...]


class Converted(NamedTuple):
    """A volume as it is written, and what metadata.json says of it."""

    volume: CompressedVolume
    info: VolumeInfo


def examine(case: Case) -> CaseFacts | BadCase:
    """Reads a whole case, and says what is known of it or why it cannot be used.

    Raises:
        PaletteError: if its masks leave in doubt how all masks of the source are meant.
    """
    try:
        return sources.read_facts(case)
    except PaletteError:
        raise
    except UserError as error:
        return BadCase(case.volume_id, sources.printable(str(error)))


def pieces_of(cases: Mapping[str, Sequence[CaseFacts]]) -> Iterator[Piece]:
    """All cases in stored order; those that lie in one file together make one piece."""
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
        info = VolumeInfo.describe(labelled, piece.split, facts.notes)
        converted.append(Converted(compress(labelled), info))
    return converted
