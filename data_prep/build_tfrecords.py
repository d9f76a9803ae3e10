"""Converts head CTs to the TFRecords that `mbh_jax` trains on.

    python -m data_prep.build_tfrecords --source label_192.zip --output data/bhsd --workers 8

The source is a zip, which is not unpacked, or a folder, in any layout of `data_prep.sources`. Every
volume is read and checked before anything is written; the dataset appears in the output folder only
once it is whole. The same source gives the same bytes, whatever `--workers` is and however often a
run was broken off before.
"""

from mbh_jax.errors import end_at_first_signal

if __name__ == "__main__":
    end_at_first_signal()  # Before the imports, which take a while.

import argparse
import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_prep import conversion, sources, splits, summary
from data_prep.sources import BadCase, CaseFacts, Source, pictures
from mbh_jax import files
from mbh_jax.data.index import DATASET_NAME
from mbh_jax.errors import UserError, one_line_errors, use_default_signals
from mbh_jax.files import local_path
from mbh_jax.runtime.workers import MapInOrder, worker_processes

_PARTIAL = ".incomplete-"
"""Start of the name of a folder in the output folder where a dataset is made."""


def build(
    source: Path,
    output: Path,
    *,
    layout: str | None = None,
    options: sources.Options | None = None,
    split: str | None = None,
    seed: int = 0,
    workers: int = 1,
    skip_bad: bool = False,
    overwrite: bool = False,
    beam_pipeline_options: str | None = None,
) -> Path:
    """Converts `source` and says what it wrote.

    Args:
        source: zip or folder.
        output: the dataset goes to `<output>/head_ct/<version>/`.
        layout: one of `data_prep.sources.LAYOUTS`; recognised from its files if None.
        options: how to read it.
        split: see `data_prep.splits`; by default as the source's own folders say, if they do, else
            `official` for BHSD's own volumes and `patient` for others.
        seed: of the split.
        workers: processes that read and compress.
        skip_bad: leave bad cases out and list them, instead of stopping at the first.
        overwrite: replace a dataset that is already there.
        beam_pipeline_options: write with Apache Beam, such as "runner=DirectRunner".

    Returns:
        The folder that holds the records.

    Raises:
        UserError: naming what is wrong; nothing half-written is left.
    """
    if workers < 1:
        raise UserError(f"--workers {workers}: give 1 or more")
    if seed < 0:
        raise UserError(f"--seed {seed}: give 0 or more")
    if str(output) != (name := sources.printable(str(output))):
        raise UserError(f"--output {name}: its name is not UTF-8: give another")
    rule = splits.parse(split) if split else None
    target = output / DATASET_NAME
    if target.exists() and not overwrite:
        raise UserError(f"{target}: exists: give --overwrite to replace it, or another --output")
    beam_options = _beam_options(beam_pipeline_options) if beam_pipeline_options else None

    found = sources.open_source(source, layout, options)
    with _workspace(output) as workspace, worker_processes(workers) as map_in_order:
        facts, bad_cases = _examine(found, skip_bad, map_in_order)
        for note in summary.notes(found, facts):
            print(note)
        rule = rule or splits.default_rule([fact.case for fact in facts])
        cases = splits.split_cases(facts, rule, seed)
        chosen = split or f"{rule.metadata['method']} (by default)"
        print(f"split: {chosen}, seed {seed}")
        if rule.metadata["method"] == "given":
            for name in splits.missing_splits([fact.case for fact in facts]):
                print(
                    f"the source has no labelled volumes for {name}: "
                    f"{splits.GIVEN_FRACTION:.0%} of its training patients are taken"
                )
        if warning := splits.leak_warning(cases):
            print(warning)
        metadata = {
            "source": {"name": found.name, "layout": found.layout},
            "split": {**rule.metadata, "seed": seed},
            "skipped": [
                {"volume_id": bad.volume_id, "reason": bad.reason.replace(f"{source}/", "")}
                for bad in bad_cases
            ],
        }
        version = _write(metadata, cases, workspace, beam_options, map_in_order)
        files.replace_folder(workspace / "new" / DATASET_NAME, target, workspace / "old")
    print(summary.table(cases))
    for bad in bad_cases:
        print(f"skipped {bad.volume_id}: {bad.reason}")
    print(f"written to {target / version}")
    return target / version


def _examine(
    source: Source, skip_bad: bool, map_in_order: MapInOrder
) -> tuple[list[CaseFacts], list[BadCase]]:
    """Reads every case; raises the first bad one's reason unless they are to be skipped."""
    facts: list[CaseFacts] = []
    bad_cases = list(source.bad_cases)
    with _progress("checked", len(source.cases)) as progress:
        for result in map_in_order(conversion.examine, source.cases):
            if bad_cases and not skip_bad:
                break
            if isinstance(result, BadCase):
                bad_cases.append(result)
            else:
                facts.append(result)
            progress.update()
    if bad_cases and not skip_bad:
        raise UserError(bad_cases[0].reason)
    if not facts:
        raise UserError(f"no case of {source.name} can be used: {bad_cases[0].reason}")
    return facts, bad_cases


def _progress(what: str, num_volumes: int) -> tqdm:
    return tqdm(desc=what, total=num_volumes, unit="volume", leave=False, disable=None)


@contextlib.contextmanager
def _workspace(output: Path) -> Iterator[Path]:
    """A folder in `output` to work in; what killed runs left there is removed first."""
    new_folders = [folder for folder in (output, *output.parents) if not folder.exists()]
    try:
        try:
            output.mkdir(parents=True, exist_ok=True)
            for left in output.glob(f"{_PARTIAL}*"):
                shutil.rmtree(left, ignore_errors=True)
            # A new name each time: a worker of a killed run may still be running.
            workspace = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=output))
        except OSError as error:
            raise _not_written(output, error.strerror or str(error)) from None
        try:
            yield workspace
        finally:
            shutil.rmtree(workspace, ignore_errors=True)
    finally:
        for folder in new_folders:
            if folder.exists() and not any(folder.iterdir()):
                folder.rmdir()


def _not_written(output: Path, reason: str) -> UserError:
    return UserError(f"{output}: cannot be written ({reason}): make room, or give another --output")


def _beam_options(flags: str) -> Any:
    """Beam's options from "key=value,key=value", as TFDS's own command takes them."""
    try:
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError:
        raise UserError(
            "--beam_pipeline_options: Apache Beam is not installed: pip install 'mbh_jax[beam]'"
        ) from None
    return PipelineOptions(flags=[f"--{flag}" for flag in flags.split(",")])


def _write(
    metadata: Mapping[str, Any],
    cases: Mapping[str, Sequence[CaseFacts]],
    workspace: Path,
    beam_options: Any,
    map_in_order: MapInOrder,
) -> str:
    """Makes the dataset in `<workspace>/new` and gives its version."""
    # Here and not above, so that bad input is reported without waiting for TensorFlow.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    import tensorflow as tf
    import tensorflow_datasets as tfds

    from data_prep import builder

    tfds.disable_progress_bar()
    try:
        with _progress("written", sum(map(len, cases.values()))) as progress:
            head_ct = builder.HeadCt(
                plan=builder.Plan(metadata, cases, map_in_order, on_volume=progress.update),
                data_dir=workspace / "new",
            )
            with contextlib.redirect_stdout(None):  # TFDS names its temporary folder there.
                head_ct.download_and_prepare(
                    download_config=tfds.download.DownloadConfig(
                        try_download_gcs=False, beam_options=beam_options
                    )
                )
        return str(head_ct.version)
    except OSError as error:
        raise _not_written(workspace.parent, error.strerror or str(error)) from None
    except tf.errors.OpError as error:
        raise _not_written(workspace.parent, error.message) from None


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.build_tfrecords", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--source", type=local_path, required=True, help="label_192.zip, or a folder"
    )
    parser.add_argument("--output", type=local_path, required=True, help="such as data/bhsd")
    parser.add_argument(
        "--layout",
        choices=sources.LAYOUTS,
        help="of the source (default: recognised)",
    )
    parser.add_argument(
        "--annotator",
        default="majority",
        help="of MBH-Seg25: majority, all (each a volume), or one's number (default: majority)",
    )
    parser.add_argument(
        "--rgb_map", help="colours of PNG masks, such as '{(0,0,0): 0, (255,0,0): 1}'"
    )
    parser.add_argument(
        "--flip_rows", action="store_true", help="PNG pictures are upside down: turn them"
    )
    parser.add_argument(
        "--series", help="of DICOM: take only series whose description holds this text"
    )
    parser.add_argument(
        "--patients",
        help="whose each volume is: a CSV with volume_id and patient_id, or a regular expression "
        "whose first group is the patient, such as '(p[0-9]+)_.*' (default: by patterns of names)",
    )
    parser.add_argument(
        "--split",
        help=f"{splits.SYNTAX} (default: as the source's folders say, if they do, official for "
        "BHSD's own volumes, else patient)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the split (default: 0)")
    parser.add_argument("--workers", type=int, default=1, help="processes (default: 1)")
    parser.add_argument(
        "--skip_bad", action="store_true", help="leave bad cases out, and list them at the end"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a dataset there")
    parser.add_argument(
        "--beam_pipeline_options",
        help="write with Apache Beam, such as runner=DirectRunner,direct_num_workers=4",
    )
    with one_line_errors():
        use_default_signals()
        chosen = vars(parser.parse_args(arguments))
        rgb_map = chosen.pop("rgb_map")
        options = sources.Options(
            annotator=chosen.pop("annotator"),
            series=chosen.pop("series"),
            patients=chosen.pop("patients"),
            rgb_map=pictures.parse_rgb_map(rgb_map) if rgb_map else None,
            flip_rows=chosen.pop("flip_rows"),
        )
        build(options=options, **chosen)


if __name__ == "__main__":
    main()
