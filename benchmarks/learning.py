"""How well recipes find blood on scans that they were not trained on.

    python -m benchmarks.learning --source scans --output /tmp/learning --seconds 600 \\
        --variant "quickstart: quickstart data.image_size=256" \\
        --variant "pretrained: strong_small init_from=runs/pretrain" --folds 5 --seeds 0 1

Each variant is a recipe of `configs` with overrides. It is trained once for every fold and seed, on
all patients but those of the fold, and evaluated on these with its last checkpoint: nothing is
chosen on what is tested. The recipe `keras` is the TensorFlow project's in Keras
(`benchmarks.baselines.keras_original`); its only override is `size`, 512 without it.

`--steps` gives each variant that many steps; `--seconds` gives it as many as it takes in that time,
measured before, so that variants have equal wall-clock time and a result does not depend on what
else the machine does later. Keras's time is measured as it goes. A benchmark that is stopped goes
on where it was, and finished runs are not repeated.

It prints, for each variant and seed, the Dice of all held-out voxels together (pooled), and of the
cases that have a class (present); then the seconds of training until the pooled Dice of any blood
first came to a value and stayed there, averaged over folds.
"""

from mbh_jax.runtime import huge_pages

if __name__ == "__main__":
    huge_pages.use_huge_pages()  # As mbh_jax.main does, before the imports.

import argparse
import importlib
import json
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from benchmarks import common
from benchmarks.learning_tables import HELD_OUT, confusion_of, print_table, row_of
from mbh_jax.errors import UserError, one_line_errors

VALIDATIONS = 10
"""Epochs of a run, each of a tenth of its steps."""

CALIBRATION_STEPS = 12
"""Steps of each of the two epochs that measure the time of a step."""

KERAS = "keras"
"""The recipe that is no module of `configs`."""


class Variant(NamedTuple):
    """A recipe with overrides.

    Attributes:
        name: in the tables and of its folder.
        recipe: module of `configs`.
        overrides: value of each key, as text.
        init_from: what `--init_from` of mbh_jax.main takes, or None.
    """

    name: str
    recipe: str
    overrides: Mapping[str, str]
    init_from: str | None

    @classmethod
    def parse(cls, text: str) -> "Variant":
        """From "name: recipe key=value key=value".

        Raises:
            UserError: it is written otherwise.
        """
        name, colon, rest = text.partition(":")
        words = shlex.split(rest)
        if not colon or not words or not all("=" in word for word in words[1:]):
            raise UserError(f'--variant "{text}": give "name: recipe key=value key=value"')
        overrides = dict(word.split("=", 1) for word in words[1:])
        if words[0] == KERAS and overrides.keys() - {"size"}:
            raise UserError(f'--variant "{text}": {KERAS} takes nothing but size')
        init_from = overrides.pop("init_from", None)
        return cls(name.strip(), words[0], overrides, init_from)

    def config(self, data_dir: Path, seed: int, steps: int) -> ConfigDict:
        """Its configuration for one fold, with `steps` steps in `VALIDATIONS` epochs."""
        from mbh_jax import config as config_keys

        try:
            config = importlib.import_module(f"configs.{self.recipe}").get_config()
        except ModuleNotFoundError:
            raise UserError(f"--variant: configs/{self.recipe}.py is not there") from None
        values = dict(config_keys.flatten(config))
        for key, text in self.overrides.items():
            config_keys.check_key(key, values)
            try:
                values[key] = json.loads(text)
            except ValueError:
                values[key] = text
        values |= {
            "seed": seed,
            "data.dir": str(data_dir),
            "train.num_epochs": VALIDATIONS,
            "train.steps_per_epoch": max(1, steps // VALIDATIONS),
            "train.preview_slices": 0,
            "train.early_stopping_patience": 0,
            "eval.checkpoint": "last",
        }
        return config_keys.complete(_nested(values))


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        (nested.setdefault(section, {}) if section else nested)[name] = value
    return nested


def build_folds(source: Path, output: Path, num_folds: int) -> list[Path]:
    """A dataset for each fold of the source's patients, who are stratified by their classes.

    Those of the fold are in the splits validation and test, all others in train.
    """
    from data_prep import build_tfrecords
    from mbh_jax.data.index import SliceIndex

    folds: list[set[str]] = []
    for fold in range(num_folds):
        first = output / f"kfold_{fold}"
        if not first.is_dir():
            build_tfrecords.build(source, first, split=f"kfold:{num_folds}/{fold}")
        volumes = SliceIndex.load(first).volumes
        folds.append({volume.patient_id for volume in volumes if volume.split == "test"})
    patients = sorted(set().union(*folds))
    directories = []
    for fold, held_out in enumerate(folds):
        directory = output / f"fold_{fold}"
        if not directory.is_dir():
            tested = sorted(held_out)
            listing = {
                "train": [name for name in patients if name not in held_out],
                "validation": tested[:-1],
                "test": tested[-1:],
            }
            path = output / f"fold_{fold}.json"
            path.write_text(json.dumps(listing))
            build_tfrecords.build(source, directory, split=str(path))
        directories.append(directory)
    return directories


def train_and_evaluate(
    config: ConfigDict, workdir: Path, init_from: str | None, splits: Iterable[str]
) -> list[dict[str, Any]]:
    """Trains, or goes on, and evaluates; the run's history."""
    from etils import epath

    from mbh_jax.inference.split import evaluate
    from mbh_jax.runtime.preemption import StopRequest
    from mbh_jax.train import train
    from mbh_jax.training.pretrained import source_path

    source = None if init_from is None else source_path(init_from, "--init_from")
    with StopRequest() as stop:
        train(config, epath.Path(workdir), stop, init_from=source)
        for split in splits:
            evaluate(config, epath.Path(workdir), stop, split=split, checkpoint="last")
    return json.loads((workdir / "history.json").read_text())


def steps_in(seconds: float, variant: Variant, data_dir: Path, folder: Path) -> int:
    """How many steps of a variant's training take `seconds`, rounded to a multiple of ten."""
    path = folder / "calibration.json"
    if not path.is_file():
        config = variant.config(data_dir, 0, CALIBRATION_STEPS * VALIDATIONS)
        config.train.num_epochs = 2
        config.optimizer.warmup_epochs = 0.0
        history = train_and_evaluate(config, folder / "calibration", variant.init_from, ())
        # The first epoch compiles.
        path.write_text(json.dumps({"step_s": history[1]["train_seconds"] / CALIBRATION_STEPS}))
    steps = seconds / json.loads(path.read_text())["step_s"]
    return max(VALIDATIONS, round(steps / VALIDATIONS) * VALIDATIONS)


class Run(NamedTuple):
    """A finished run: its steps, history (empty for Keras) and voxels of each held-out case."""

    steps: int
    history: list[dict[str, Any]]
    confusions: dict[str, np.ndarray]


def run(
    variant: Variant, args: argparse.Namespace, folds: Sequence[Path], fold: int, seed: int
) -> Run:
    """Trains a variant without a fold and evaluates it there, unless that was done before."""
    folder = args.output / variant.name
    if variant.recipe == KERAS:
        workdir = folder / f"seed{seed}_fold{fold}_{args.steps or f'{args.seconds:g}s'}"
        if not (workdir / "steps.json").is_file():
            length = f"--steps={args.steps}" if args.steps else f"--seconds={args.seconds}"
            size = f"--size={variant.overrides.get('size', '512')}"
            options = [f"--data={folds[fold]}", size, f"--seed={seed}", length, str(workdir)]
            module = "benchmarks.baselines.keras_original"
            ended = subprocess.run([sys.executable, "-m", module, *options], check=False)
            if ended.returncode:
                raise UserError(f"{module} ended with exit code {ended.returncode}; see above")
        steps = json.loads((workdir / "steps.json").read_text())
        return Run(steps, [], confusion_of(workdir))
    steps = args.steps or steps_in(args.seconds, variant, folds[0], folder)
    workdir = folder / f"seed{seed}_fold{fold}_steps{steps}"
    config = variant.config(folds[fold], seed, steps)
    history = train_and_evaluate(config, workdir, variant.init_from, HELD_OUT)
    return Run(steps, history, confusion_of(workdir))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, required=True, help="scans with labels")
    parser.add_argument("--output", type=Path, required=True, help="folder for datasets and runs")
    parser.add_argument("--variant", action="append", required=True, help="name: recipe key=value")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--only_folds", type=int, nargs="+", help="some of them")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--seconds", type=float, help="of training for each run")
    length.add_argument("--steps", type=int, help="of training for each run")
    args = parser.parse_args()

    variants = [Variant.parse(text) for text in args.variant]
    args.output.mkdir(parents=True, exist_ok=True)
    folds = build_folds(args.source, args.output, args.folds)
    chosen = args.only_folds or range(args.folds)
    results = []
    for variant in variants:
        for seed in args.seeds:
            runs = [run(variant, args, folds, fold, seed) for fold in chosen]
            cases = {case: matrix for one in runs for case, matrix in one.confusions.items()}
            histories = [one.history for one in runs if one.history]
            steps = [one.steps for one in runs]
            results.append(row_of(variant.name, seed, steps, cases, histories))
            print_table(results)
    report = common.machine() | {"folds": list(chosen), "results": results}
    (args.output / "learning.json").write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    with one_line_errors():
        main()
