"""The options of `python -m mbh_jax.predict`."""

import argparse
from collections.abc import Sequence

from etils import epath

from mbh_jax import files
from mbh_jax.errors import UserError
from mbh_jax.inference.shards import Shard
from mbh_jax.reporting.scan_sheet import DISCLAIMER
from mbh_jax.training import pretrained


def parse_arguments(arguments: Sequence[str] | None, description: str) -> argparse.Namespace:
    """What a command line says; ends the process with exit code 2 if it is wrong.

    Args:
        arguments: without the name of the program; None: those of this process.
        description: of the program, for `--help`.
    """
    parser = argparse.ArgumentParser(
        prog="python -m mbh_jax.predict",
        description=description,
        epilog=DISCLAIMER,
    )
    parser.add_argument(
        "--model",
        action="append",
        type=_model_path,
        help="workdir of a run, a bundle, or phantom, the weights of the package; given "
        "several times, their probabilities are averaged",
    )
    parser.add_argument(
        "--input",
        type=files.local_path,
        help="a scan (NIfTI, MetaImage, NRRD or DICOM), or a folder with scans at any depth; or a "
        "picture (PNG, JPEG or TIFF), or a folder with pictures and no scans",
    )
    parser.add_argument(
        "--output", type=files.local_path, required=True, help="folder of the results"
    )
    parser.add_argument(
        "--series",
        metavar="TEXT",
        help="of DICOM series, predict only those whose description holds TEXT",
    )
    parser.add_argument(
        "--flip_rows",
        action="store_true",
        help="pictures are upside down (anterior below), as those made from MBH-Seg25 are",
    )
    parser.add_argument("--checkpoint", choices=["best", "last"], default="best")
    parser.add_argument(
        "--tta",
        choices=["none", "mirror"],
        default="none",
        help="test-time augmentation: average with the mirrored slices (default: none)",
    )
    parser.add_argument(
        "--resolution",
        choices=["resize", "tiles"],
        default="resize",
        help="how slices larger than the network's image size are predicted (default: resize)",
    )
    parser.add_argument(
        "--min_lesion_ml",
        type=float,
        default=0.0,
        metavar="ML",
        help="remove lesions of a class that are smaller than this (default: keep all)",
    )
    parser.add_argument(
        "--save_probabilities",
        action="store_true",
        help="also write the probabilities of all classes, as <scan>.npz",
    )
    parser.add_argument(
        "--batch_size", type=int, help="slices at a time (default: 4 on each device)"
    )
    parser.add_argument(
        "--shard",
        type=Shard.parse,
        metavar="I/N",
        help="predict only the I-th of N parts of the scans, from 1/N to N/N",
    )
    parser.add_argument(
        "--merge",
        action="store_true",
        help="predict nothing: write volumes.csv over all finished scans in --output, and with "
        "--input name those that are missing",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="predict scans again whose results are there"
    )
    parser.add_argument(
        "--html",
        action="store_true",
        help="also write a page for each scan, not for pictures, that shows its mask",
    )
    chosen = parser.parse_args(arguments)
    if chosen.merge and (chosen.model or chosen.shard):
        parser.error("--merge predicts nothing: leave out --model and --shard")
    if not chosen.merge and not (chosen.model and chosen.input):
        parser.error("give --model and --input, or --merge")
    return chosen


def _model_path(text: str) -> epath.Path:
    try:
        return pretrained.source_path(text, "--model")
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
