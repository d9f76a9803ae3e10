"""The tensorflow-datasets builder that writes head CTs as records, here or under Apache Beam."""

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import tensorflow as tf
import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.core import dataset_builder

from data_prep import conversion
from data_prep.conversion import Converted, Piece
from data_prep.sources import CaseFacts
from mbh_jax.data import records
from mbh_jax.data.index import SPLIT_NAMES
from mbh_jax.data.schema import METADATA_FORMAT
from mbh_jax.errors import UserError
from mbh_jax.labels import CLASS_NAMES
from mbh_jax.runtime.workers import MapInOrder

SHARD_SLICES = 256
"""Slices in a file, about: 60 MB of 512 x 512, so that readers and Beam's workers have shares."""


@dataclass(frozen=True)
class Plan:
    """What to write.

    Attributes:
        metadata: what metadata.json says of the source and how it was split.
        cases: each split's cases, in stored order.
        map_in_order: converts volumes, see `mbh_jax.runtime.workers`; unused under Beam.
        on_volume: called after each volume is written; unused under Beam.
    """

    metadata: Mapping[str, Any]
    cases: Mapping[str, Sequence[CaseFacts]]
    map_in_order: MapInOrder
    on_volume: Callable[[], object]


class Shard(NamedTuple):
    """A file to write, and what it is to hold."""

    path: str
    pieces: tuple[Piece, ...]


class ShardReport(NamedTuple):
    """What a file holds: records, their bytes, and rows of metadata.json."""

    num_examples: int
    num_bytes: int
    rows: list[dict[str, Any]]


class HeadCt(dataset_builder.FileReaderBuilder):
    """Slices of head CTs with labels of five kinds of haemorrhage; see `mbh_jax.data.records`.

    Not a `GeneratorBasedBuilder`: that one sorts all records through a gigabyte of memory and
    encodes them in one process, where this one streams volumes to files in their order. Under Beam
    each file is made by one worker, of the same bytes.
    """

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

    def _download_and_prepare(self, dl_manager: Any, download_config: Any) -> None:
        del dl_manager
        plan = self._plan
        if plan is None:
            raise UserError("head_ct is made by python -m data_prep.build_tfrecords")
        shards = {
            split: self._shards(split, plan.cases[split])
            for split in SPLIT_NAMES
            if plan.cases[split]
        }
        in_order = [shard for split_shards in shards.values() for shard in split_shards]
        if download_config.beam_options or download_config.beam_runner:
            reports = _write_with_beam(in_order, download_config)
        else:
            reports = _write_here(in_order, plan)
        report_of = dict(zip((shard.path for shard in in_order), reports, strict=True))
        split_infos = []
        for split, split_shards in shards.items():
            of_split = [report_of[shard.path] for shard in split_shards]
            split_infos.append(
                tfds.core.SplitInfo(
                    name=split,
                    shard_lengths=[report.num_examples for report in of_split],
                    num_bytes=sum(report.num_bytes for report in of_split),
                    filename_template=self._get_filename_template(split),
                )
            )
        self.info.set_splits(tfds.core.SplitDict(split_infos))
        self.info.metadata.update(
            format=METADATA_FORMAT,
            classes=list(CLASS_NAMES),
            **plan.metadata,
            volumes=[row for report in reports for row in report.rows],
        )

    def _shards(self, split: str, facts: Sequence[CaseFacts]) -> list[Shard]:
        template = self._get_filename_template(split)
        parts = _cut(list(conversion.pieces_of({split: facts})))
        return [
            Shard(str(template.sharded_filepath(shard_index=n, num_shards=len(parts))), part)
            for n, part in enumerate(parts)
        ]


def _cut(pieces: Sequence[Piece]) -> list[tuple[Piece, ...]]:
    """Groups of pieces, in order, that reach `SHARD_SLICES` (the last one may not)."""
    groups: list[list[Piece]] = [[]]
    num_slices = 0
    for piece in pieces:
        if num_slices >= SHARD_SLICES:
            groups.append([])
            num_slices = 0
        groups[-1].append(piece)
        num_slices += sum(facts.shape[0] for facts in piece.facts)
    return [tuple(group) for group in groups]


def write_shard(path: str, volumes: Iterable[Converted]) -> ShardReport:
    """Writes a TFRecord file of all slices of `volumes`, in order.

    Raises:
        tensorflow.errors.OpError: if it cannot be written.
    """
    num_examples = num_bytes = 0
    rows = []
    with tf.io.TFRecordWriter(path) as writer:
        for volume, info in volumes:
            for example in records.examples_of(volume):
                writer.write(example)
                num_examples += 1
                num_bytes += len(example)
            rows.append(info.to_row())
    return ShardReport(num_examples, num_bytes, rows)


def _write_here(shards: Sequence[Shard], plan: Plan) -> list[ShardReport]:
    pieces = [piece for shard in shards for piece in shard.pieces]
    converted = plan.map_in_order(conversion.convert, pieces)

    def volumes_of(shard: Shard) -> Iterator[Converted]:
        for volumes in itertools.islice(converted, len(shard.pieces)):
            for volume in volumes:
                yield volume
                plan.on_volume()

    return [write_shard(shard.path, volumes_of(shard)) for shard in shards]


def _write_with_beam(shards: Sequence[Shard], download_config: Any) -> list[ShardReport]:
    import apache_beam as beam

    with beam.Pipeline(
        runner=download_config.beam_runner, options=download_config.beam_options
    ) as pipeline:
        _ = (
            pipeline
            | beam.Create(list(shards))
            | beam.Reshuffle()  # Else one worker gets them all.
            | beam.Map(_write_shard_under_beam)
        )
    reports = []
    for shard in shards:
        path = epath.Path(f"{shard.path}.report.json")
        reports.append(ShardReport(**json.loads(path.read_text())))
        path.unlink()
    return reports


def _write_shard_under_beam(shard: Shard) -> None:
    """Writes a file and, beside it, its report; a second attempt replaces both."""
    volumes = (volume for piece in shard.pieces for volume in conversion.convert(piece))
    report = write_shard(shard.path, volumes)
    epath.Path(f"{shard.path}.report.json").write_text(json.dumps(report._asdict()))
