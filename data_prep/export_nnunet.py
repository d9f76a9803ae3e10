"""Writes a converted dataset as nnU-Net's raw data, with our split as its fold 0.

    python -m data_prep.export_nnunet --dataset data/bhsd --output nnUNet_raw

makes `nnUNet_raw/Dataset501_HeadCT` with `imagesTr`, `labelsTr` (training and validation),
`imagesTs`, `labelsTs` (test), `dataset.json`, and beside them

- `splits_final.json`: nnU-Net looks for it in `nnUNet_preprocessed/Dataset501_HeadCT`, where it
  belongs once `nnUNetv2_plan_and_preprocess` has made that folder;
- `split.json`: for `build_tfrecords --split`, so that a conversion back gives the same splits;
- `patients.csv`: whose each volume is, which `build_tfrecords` reads by itself.

Volumes have the orientation, geometry and Hounsfield units that they were converted with. Volumes
without voxel labels go to `imagesTs`.
"""

from mbh_jax.errors import end_at_first_signal

if __name__ == "__main__":
    end_at_first_signal()  # Before the imports, which take a while.

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_prep import dataset
from data_prep.sources import patients
from mbh_jax import files
from mbh_jax.data.index import SPLIT_NAMES, SliceIndex
from mbh_jax.data.schema import VolumeInfo
from mbh_jax.errors import UserError, one_line_errors, use_default_signals
from mbh_jax.files import local_path
from mbh_jax.imageio.nifti import write_label, write_volume
from mbh_jax.labels import CLASS_NAMES

_CONTENT = (
    *("imagesTr", "labelsTr", "imagesTs", "labelsTs"),
    *("dataset.json", "splits_final.json", "split.json", patients.PATIENTS_FILE),
)


def export(
    index: SliceIndex, output: Path, *, number: int, name: str, overwrite: bool = False
) -> Path:
    """Writes `<output>/Dataset<number>_<name>`, whole or not at all.

    Args:
        index: the dataset.
        output: nnU-Net's raw folder.
        number: 1 to 999, nnU-Net's id of the dataset.
        name: letters, digits, - and _.
        overwrite: replace an export that is there.

    Returns:
        The folder.

    Raises:
        UserError: if the number or name cannot be used, the folder is there or a record is damaged.
    """
    if not 1 <= number <= 999:
        raise UserError(f"--number {number}: give 1 to 999")
    if not name.replace("-", "").replace("_", "").isalnum():
        raise UserError(f"--name {name!r}: give letters, digits, - and _ only")
    target = output / f"Dataset{number:03d}_{name}"
    with files.whole_folder(target, _CONTENT, overwrite=overwrite) as folder:
        for volume_number, labelled in dataset.read_volumes(index, "volumes"):
            info = index.volumes[volume_number]
            side = "Tr" if _is_training(info) else "Ts"
            volume = labelled.volume
            image_path = folder / f"images{side}" / f"{info.volume_id}_0000.nii.gz"
            write_volume(image_path, volume)
            if info.has_label:
                label_path = folder / f"labels{side}" / f"{info.volume_id}.nii.gz"
                write_label(label_path, labelled.label, volume)
        files.write_json(folder / "dataset.json", dataset_json(index, name))
        files.write_json(folder / "splits_final.json", splits_final(index))
        files.write_json(folder / "split.json", split_listing(index))
        files.write_csv(
            folder / patients.PATIENTS_FILE, patients.COLUMNS, patients.list_rows(index.volumes)
        )
    return target


def dataset_json(index: SliceIndex, name: str) -> dict[str, Any]:
    """The content of nnU-Net's dataset.json."""
    return {
        "name": name,
        "description": "Head CT with labels of five kinds of haemorrhage",
        "channel_names": {"0": "CT"},
        "labels": {class_name: value for value, class_name in enumerate(CLASS_NAMES)},
        "numTraining": sum(map(_is_training, index.volumes)),
        "file_ending": ".nii.gz",
    }


def splits_final(index: SliceIndex) -> list[dict[str, list[str]]]:
    """nnU-Net's cross-validation: one fold, of our training and validation volumes."""
    listing = split_listing(index)
    labelled = {info.volume_id for info in index.volumes if info.has_label}
    return [
        {
            ours: [volume_id for volume_id in listing[split] if volume_id in labelled]
            for ours, split in (("train", "train"), ("val", "validation"))
        }
    ]


def split_listing(index: SliceIndex) -> dict[str, list[str]]:
    """The volume ids of each split, as `--split` of `build_tfrecords` reads them."""
    return {
        split: [info.volume_id for info in index.volumes if info.split == split]
        for split in SPLIT_NAMES
    }


def _is_training(info: VolumeInfo) -> bool:
    return info.split != "test" and info.has_label


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.export_nnunet", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--dataset", required=True, help="such as data/bhsd")
    parser.add_argument("--output", type=local_path, required=True, help="nnU-Net's raw folder")
    parser.add_argument("--number", type=int, default=501, help="of the dataset (default: 501)")
    parser.add_argument("--name", default="HeadCT", help="of the dataset (default: HeadCT)")
    parser.add_argument("--overwrite", action="store_true", help="replace an export there")
    options = parser.parse_args(arguments)
    with one_line_errors():
        use_default_signals()
        index = SliceIndex.load(options.dataset)
        folder = export(
            index,
            options.output,
            number=options.number,
            name=options.name,
            overwrite=options.overwrite,
        )
        num_training = sum(map(_is_training, index.volumes))
        print(
            f"{num_training} volumes for training and validation and "
            f"{len(index.volumes) - num_training} for test written to {folder}"
        )
        unknown = [info.volume_id for info in index.volumes if not info.spacing_known]
        if unknown:
            print(
                f"warning: the spacing of {len(unknown)} volumes is not known, such as "
                f"{unknown[0]}: nnU-Net takes what their files say"
            )


if __name__ == "__main__":
    main()
