"""Converts labelled head CTs to the TFRecords that `mbh_jax` trains on.

    python -m data_prep.build_tfrecords --source label_192.zip --output data/bhsd

The source is BHSD's zip, which is not unpacked, or its folder. All headers and labels are checked
before anything is written; the dataset appears in the output folder only once it is whole.
"""

import argparse
import contextlib
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data_prep import sources, splits
from mbh_jax.data.index import DATASET_NAME
from mbh_jax.errors import UserError, one_line_errors
from mbh_jax.labels import CLASS_NAMES, FOREGROUND

_PARTIAL = ".incomplete"
"""Folder in the output folder where a dataset is made; what a killed run left is removed."""


def build(
    source: Path,
    output: Path,
    *,
    split: str | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """Converts `source` and says what it wrote.

    Args:
        source: zip or folder with BHSD's layout.
        output: the dataset goes to `<output>/head_ct/<version>/`.
        split: see `data_prep.splits`; by default `official` for BHSD's own volumes and `patient`
            for others.
        seed: of the split.
        overwrite: replace a dataset that is already there.

    Returns:
        The folder that holds the records.

    Raises:
        UserError: naming what is wrong; nothing half-written is left.
    """
    rule = splits.parse(split) if split else None
    target = output / DATASET_NAME
    if target.exists() and not overwrite:
        raise UserError(f"{target}: exists: give --overwrite to replace it, or another --output")

    found = sources.open_source(source)
    with _progress("headers", len(found.cases)) as progress:
        for case in found.cases:
            sources.read_headers(case)
            progress.update()
    facts = []
    with _progress("labels", len(found.cases)) as progress:
        for case in found.cases:
            facts.append(sources.read_facts(case))
            progress.update()
    for fact in facts:
        for note in fact.notes:
            print(f"{fact.case.volume_id}: {note}")

    rule = rule or splits.default_rule([fact.case.volume_id for fact in facts])
    cases = splits.split_cases(facts, rule, seed)
    split_method = {**rule.metadata, "seed": seed}
    chosen = split or f"{rule.metadata['method']} (chosen by the volume names)"
    print(f"split: {chosen}, seed {seed}")
    if rule.warning:
        print(rule.warning)

    written = _write(found, split_method, cases, output)
    print(table(cases))
    print(f"written to {written}")
    return written


def _progress(what: str, num_volumes: int) -> tqdm:
    return tqdm(desc=what, total=num_volumes, unit="volume", leave=False, disable=None)


def _write(
    source: sources.Source,
    split_method: Mapping[str, object],
    cases: Mapping[str, Sequence[sources.CaseFacts]],
    output: Path,
) -> Path:
    """Makes the dataset beside its place and moves it there once it is whole."""
    # Here and not above, so that bad input is told without waiting for TensorFlow.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    import tensorflow as tf
    import tensorflow_datasets as tfds

    from data_prep import builder

    tfds.disable_progress_bar()
    partial = output / _PARTIAL
    new_folders = [folder for folder in (output, *output.parents) if not folder.exists()]
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        with _progress("records", sum(map(len, cases.values()))) as progress:
            head_ct = builder.HeadCt(
                plan=builder.Plan(source, split_method, cases, on_volume=progress.update),
                data_dir=partial / "new",
            )
            with contextlib.redirect_stdout(None):  # TFDS names its temporary folder there.
                head_ct.download_and_prepare(
                    download_config=tfds.download.DownloadConfig(try_download_gcs=False)
                )
        target = output / DATASET_NAME
        _replace(target, partial / "new" / DATASET_NAME, partial / "old")
        return target / str(head_ct.version)
    except OSError as error:
        raise UserError(f"{output}: cannot be written ({error.strerror or error})") from None
    except tf.errors.OpError as error:
        raise UserError(f"{output}: cannot be written ({error.message})") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        for folder in new_folders:
            if folder.exists() and not any(folder.iterdir()):
                folder.rmdir()


def _replace(target: Path, new: Path, old: Path) -> None:
    """Moves `new` to `target`, and what was there to `old`, or back if that fails."""
    if target.exists():
        target.rename(old)
    try:
        new.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise


def table(cases: Mapping[str, Sequence[sources.CaseFacts]]) -> str:
    """Patients, volumes and slices of each split, and slices/volumes with each kind of blood."""
    blood_names = [CLASS_NAMES[label] for label in FOREGROUND]
    rows = [["split", "patients", "volumes", "slices", "with blood", *blood_names]]
    for split, facts in cases.items():
        present = [fact.pixels_per_class[:, list(FOREGROUND)] > 0 for fact in facts]
        slices_with = np.sum([slices.sum(axis=0) for slices in present], axis=0)
        volumes_with = np.sum([slices.any(axis=0) for slices in present], axis=0)
        totals = (
            len({fact.case.patient_id for fact in facts}),
            len(facts),
            sum(fact.shape[0] for fact in facts),
            sum(int(slices.any(axis=1).sum()) for slices in present),
        )
        classes = [f"{s}/{v}" for s, v in zip(slices_with, volumes_with, strict=True)]
        rows.append([split, *map(str, totals), *classes])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    return "\n".join([*lines, "(under a class: slices/volumes that hold it)"])


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.build_tfrecords", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--source", type=Path, required=True, help="label_192.zip or its folder")
    parser.add_argument("--output", type=Path, required=True, help="such as data/bhsd")
    parser.add_argument(
        "--split",
        help=f"{splits.SYNTAX} (default: official for BHSD's own volumes, else patient)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the split (default: 0)")
    parser.add_argument("--overwrite", action="store_true", help="replace a dataset there")
    with one_line_errors():
        build(**vars(parser.parse_args(arguments)))


if __name__ == "__main__":
    main()
