"""What a user can choose about how a source is read."""

from collections.abc import Mapping
from dataclasses import dataclass

from mbh_jax.imageio.png import Rgb


@dataclass(frozen=True)
class Options:
    """Each is a flag of `build_tfrecords`.

    Attributes:
        annotator: of MBH-Seg25: "majority", "all", or one annotator's number.
        rgb_map: label of each colour of PNG masks.
        flip_rows: whether PNG pictures are upside down.
        series: of DICOM, take only series whose description holds this text.
        patients: whose each volume is, see `data_prep.sources.patients`.
    """

    annotator: str = "majority"
    rgb_map: Mapping[Rgb, int] | None = None
    flip_rows: bool = False
    series: str | None = None
    patients: str | None = None
