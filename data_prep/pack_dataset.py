"""Decodes a converted dataset once, for training without TensorFlow.

    python -m data_prep.pack_dataset --data_dir data/bhsd

writes the cache that `--config.data.resident=True` trains from into `packed/` beside the records
(`mbh_jax.data.packed` has its layout). It takes 3 bytes a pixel. A cache that is up to date is left
alone, one of other data is replaced.
"""

from mbh_jax.errors import end_at_first_signal

if __name__ == "__main__":
    end_at_first_signal()  # Before the imports, which take a while.

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from tqdm import tqdm

from mbh_jax import files
from mbh_jax.data.index import SliceIndex
from mbh_jax.data.packed import (
    DTYPES,
    PACKED_INFO,
    InPlaneShape,
    PackedSlices,
    packed_dir,
    packed_examples,
    packed_file,
    packed_info,
)
from mbh_jax.errors import UserError, one_line_errors, use_default_signals

_BATCH = 32
"""Slices decoded at a time."""


def pack(index: SliceIndex) -> Path:
    """Writes the packed cache of a dataset, whole or not at all.

    Returns:
        The folder that holds it.

    Raises:
        UserError: a record is damaged, no slice has voxel labels, or the folder holds what is not
            of a cache.
    """
    of_shapes = packed_examples(index)
    if not of_shapes:
        raise UserError(f"{index.directory}: no slices with voxel labels")
    target = packed_dir(index)
    expected = {PACKED_INFO, *(path.name for path in target.glob("*.npy"))}
    with (
        files.whole_folder(target, expected, overwrite=True) as folder,
        tqdm(
            desc="packed",
            total=sum(map(len, of_shapes.values())),
            unit="slice",
            leave=False,
            disable=None,
        ) as progress,
    ):
        for shape, examples in of_shapes.items():
            _write_slices(index, examples, shape, folder, progress)
        (folder / PACKED_INFO).write_text(json.dumps(packed_info(index)))
    return target


def _write_slices(
    index: SliceIndex, examples: np.ndarray, shape: InPlaneShape, folder: Path, progress: tqdm
) -> None:
    """Writes the files of the slices of one size."""
    # Here and not above, so that a wrong path is reported without waiting for TensorFlow.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    from mbh_jax.data import pipeline

    paths = {kind: folder / packed_file(kind, shape) for kind in DTYPES}
    with paths["image"].open("wb") as images, paths["label"].open("wb") as labels:
        files = {"image": images, "label": labels}
        for kind, file in files.items():
            _write_header(file, DTYPES[kind], (len(examples), *shape))
        for batch in pipeline.batches(index, examples, global_batch=_BATCH):
            is_real = batch["example"] >= 0
            for kind, file in files.items():
                file.write(np.ascontiguousarray(batch[kind][is_real], DTYPES[kind]).tobytes())
            progress.update(int(is_real.sum()))


def _write_header(file: BinaryIO, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    """Begins a .npy file, so that its array need not be in memory."""
    described = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": shape,
    }
    np.lib.format.write_array_header_1_0(file, described)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.pack_dataset", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--data_dir", required=True, help="such as data/bhsd")
    options = parser.parse_args(arguments)
    with one_line_errors():
        use_default_signals()
        if "://" in options.data_dir:
            raise UserError(f"--data_dir={options.data_dir}: copy the dataset to a local disk")
        index = SliceIndex.load(options.data_dir)
        try:
            PackedSlices(index)
        except UserError:
            folder = pack(index)
        else:
            print(f"{packed_dir(index)} is up to date")
            return
        size = sum(path.stat().st_size for path in folder.iterdir())
        slices = sum(map(len, packed_examples(index).values()))
        print(f"{slices} slices, {size / 2**30:.1f} GiB, written to {folder}")


if __name__ == "__main__":
    main()
