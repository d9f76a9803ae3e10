"""Writes a converted dataset as PNG slices and coloured masks, as the TensorFlow FlexUNet reads.

    python -m data_prep.export_png --dataset data/bhsd --output data/png [--slices all]

makes `train`, `valid` and `test`, each with `images/<volume id>_slice_<number>.png` (grey, HU
clamped to 0..255) and `masks/` of the same names in the class colours. Slices are turned as that
project's are, 90 degrees counter-clockwise from BHSD's stored arrays, which is the orientation of
our records: anterior up, the patient's right on the left. Masks are exact; of the images, HU below
0 and above 255 are lost, as there. Volumes without voxel labels are left out.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from data_prep import dataset
from mbh_jax import files
from mbh_jax.data.index import SPLIT_NAMES, SliceIndex
from mbh_jax.errors import one_line_errors
from mbh_jax.reporting.overlays import colourise

FOLDERS = dict(zip(SPLIT_NAMES, ("train", "valid", "test"), strict=True))
"""Folder of each split."""


def export(
    index: SliceIndex, output: Path, *, slices: Literal["all", "blood"], overwrite: bool = False
) -> dict[str, int]:
    """Writes the folders of all splits to `output`, whole or not at all.

    Args:
        index: the dataset.
        output: folder to make.
        slices: all, or those with blood.
        overwrite: replace an export that is there.

    Returns:
        The number of slices of each split.

    Raises:
        UserError: if the folder is there or a record is damaged.
    """
    written = dict.fromkeys(SPLIT_NAMES, 0)
    with files.whole_folder(output, FOLDERS.values(), overwrite=overwrite) as folder:
        for split in SPLIT_NAMES:
            for kind in ("images", "masks"):
                (folder / FOLDERS[split] / kind).mkdir(parents=True)
        numbers = [number for number, info in enumerate(index.volumes) if info.has_label]
        for number, labelled in dataset.read_volumes(index, "volumes", numbers):
            info = index.volumes[number]
            for slice_index, (hu, label) in enumerate(
                zip(labelled.hu, labelled.label, strict=True)
            ):
                if slices == "blood" and not label.any():
                    continue
                name = f"{labelled.volume_id}_slice_{slice_index:03d}.png"
                place = folder / FOLDERS[info.split]
                Image.fromarray(grey(hu)).save(place / "images" / name)
                Image.fromarray(colourise(label)).save(place / "masks" / name)
                written[info.split] += 1
    return written


def grey(hu: np.ndarray) -> np.ndarray:
    """HU clamped to 0..255, uint8, of the same shape."""
    return np.clip(hu, 0, 255).astype(np.uint8)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.export_png", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--dataset", required=True, help="such as data/bhsd")
    parser.add_argument("--output", type=Path, required=True, help="such as data/png")
    parser.add_argument(
        "--slices", choices=["blood", "all"], default="blood", help="which slices (default: blood)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an export there")
    options = parser.parse_args(arguments)
    with one_line_errors():
        index = SliceIndex.load(options.dataset)
        written = export(index, options.output, slices=options.slices, overwrite=options.overwrite)
        counts = ", ".join(f"{number} {FOLDERS[split]}" for split, number in written.items())
        print(f"{sum(written.values())} slices ({counts}) written to {options.output}")
        left_out = sum(not info.has_label for info in index.volumes)
        if left_out:
            print(f"{left_out} volumes without voxel labels were left out")


if __name__ == "__main__":
    main()
