"""Writes a converted dataset as PNG slices and coloured masks, as the TensorFlow FlexUNet reads.

    python -m data_prep.export_png --dataset data/bhsd --output data/png [--slices all]
        [--rgb_map '{(0,0,0): 0, (255,0,0): 1, ...}']

makes `train`, `valid` and `test`, each with `images/<volume id>_slice_<number>.png` (grey, HU
clamped to 0..255) and `masks/` of the same names in the class colours, or in those of `--rgb_map`,
and `patients.csv`, which says whose each volume is. Slices are turned as that project's are, 90
degrees counter-clockwise from BHSD's stored arrays, which is the orientation of our records:
anterior up, the patient's right on the left. Masks are exact; of the images, HU below 0 and above
255 are lost, as there. Volumes without voxel labels are left out.
"""

from mbh_jax.errors import end_at_first_signal

if __name__ == "__main__":
    end_at_first_signal()  # Before the imports, which take a while.

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from data_prep import dataset
from data_prep.sources import patients, pictures
from mbh_jax import files
from mbh_jax.data.index import SPLIT_NAMES, SliceIndex
from mbh_jax.errors import UserError, one_line_errors, use_default_signals
from mbh_jax.files import local_path
from mbh_jax.imageio.png import CLASS_RGB, Rgb
from mbh_jax.labels import NUM_CLASSES

FOLDERS = dict(zip(SPLIT_NAMES, ("train", "valid", "test"), strict=True))
"""Folder of each split."""


def export(
    index: SliceIndex,
    output: Path,
    *,
    slices: Literal["all", "blood"],
    rgb_map: Mapping[Rgb, int] = CLASS_RGB,
    overwrite: bool = False,
) -> dict[str, int]:
    """Writes the folders of all splits to `output`, whole or not at all.

    Args:
        index: the dataset.
        output: folder to make.
        slices: all, or those with blood.
        rgb_map: the label of each colour; of several colours of a label the first is written.
        overwrite: replace an export that is there.

    Returns:
        The number of slices of each split.

    Raises:
        UserError: if `rgb_map` lacks a label, the folder is there or a record is damaged.
    """
    written = dict.fromkeys(SPLIT_NAMES, 0)
    colours = _colours(rgb_map)
    content = (*FOLDERS.values(), patients.PATIENTS_FILE)
    with files.whole_folder(output, content, overwrite=overwrite) as folder:
        for split in SPLIT_NAMES:
            for kind in ("images", "masks"):
                (folder / FOLDERS[split] / kind).mkdir(parents=True)
        files.write_csv(
            folder / patients.PATIENTS_FILE,
            patients.COLUMNS,
            patients.list_rows(info for info in index.volumes if info.has_label),
        )
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
                Image.fromarray(colours[label]).save(place / "masks" / name)
                written[info.split] += 1
    return written


def _colours(rgb_map: Mapping[Rgb, int]) -> np.ndarray:
    """(classes, 3) uint8: the colour of each label."""
    colour_of = {label: rgb for rgb, label in reversed(list(rgb_map.items()))}
    if missing := [label for label in range(NUM_CLASSES) if label not in colour_of]:
        raise UserError(f"--rgb_map: no colour for label {missing[0]}: add it")
    return np.array([colour_of[label] for label in range(NUM_CLASSES)], np.uint8)


def grey(hu: np.ndarray) -> np.ndarray:
    """HU clamped to 0..255, uint8, of the same shape."""
    return np.clip(hu, 0, 255).astype(np.uint8)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.export_png", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--dataset", required=True, help="such as data/bhsd")
    parser.add_argument("--output", type=local_path, required=True, help="such as data/png")
    parser.add_argument(
        "--slices", choices=["blood", "all"], default="blood", help="which slices (default: blood)"
    )
    parser.add_argument(
        "--rgb_map",
        help="colours of the masks, such as '{(0,0,0): 0, (255,0,0): 1, ...}' (default: ours)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an export there")
    options = parser.parse_args(arguments)
    with one_line_errors():
        use_default_signals()
        rgb_map = pictures.parse_rgb_map(options.rgb_map) if options.rgb_map else CLASS_RGB
        index = SliceIndex.load(options.dataset)
        written = export(
            index,
            options.output,
            slices=options.slices,
            rgb_map=rgb_map,
            overwrite=options.overwrite,
        )
        counts = ", ".join(f"{number} {FOLDERS[split]}" for split, number in written.items())
        print(f"{sum(written.values())} slices ({counts}) written to {options.output}")
        line = ",".join(f"({r},{g},{b}):{label}" for (r, g, b), label in rgb_map.items())
        print(f"colours, as the TensorFlow FlexUNet's configuration has them: rgb_map = {{{line}}}")
        left_out = sum(not info.has_label for info in index.volumes)
        if left_out:
            print(f"{left_out} volumes without voxel labels were left out")


if __name__ == "__main__":
    main()
