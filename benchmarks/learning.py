"""How well recipes find blood on scans that they were not trained on.

    python -m benchmarks.learning --source scans --output /tmp/learning --seconds 600 \\
        --variant "quickstart: quickstart data.image_size=256" \\
        --variant "pretrained: strong_small init_from=runs/pretrain" --folds 5 --seeds 0 1

Each variant is a recipe of `configs` with overrides. It is trained once for every fold and seed, on
all patients but those of the fold, and evaluated on these with its last checkpoint: nothing is
chosen on what is tested. `--steps` gives each variant that many steps; `--seconds` gives it as many
as it takes in that time, measured before, so that variants have equal wall-clock time and a result
does not depend on what else the machine does later. A benchmark that is stopped goes on where it
was, and finished runs are not repeated.

It prints, for each variant and seed, the Dice of all held-out voxels together (pooled), and of the
slices that show a class (present); then the seconds of training until the pooled Dice of any blood
first came to a value and stayed there, averaged over folds.
"""

import argparse
import csv
import importlib
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from benchmarks import common
from mbh_jax.errors import UserError, one_line_errors
from mbh_jax.evaluation.overlap import pooled_scores, present_only_scores
from mbh_jax.labels import CLASS_NAMES, FOREGROUND, NUM_CLASSES

VALIDATIONS = 10
"""Epochs of a run, each of a tenth of its steps."""

QUALITIES = (0.5, 0.6)
"""Pooled Dice of any blood whose first time is reported."""

CALIBRATION_STEPS = 12
"""Steps of each of the two epochs that measure the time of a step."""

HELD_OUT = ("validation", "test")
"""The splits that a fold's patients are divided into, because a dataset has to have both."""


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


def confusion_of(workdir: Path) -> dict[str, np.ndarray]:
    """Voxels by true and predicted class, (K, K), of each held-out case of a run."""
    number = {name: label for label, name in enumerate(CLASS_NAMES)}
    found: dict[str, np.ndarray] = {}
    for split in HELD_OUT:
        with (workdir / "evaluation" / f"{split}_last" / "confusion.csv").open() as file:
            for row in csv.DictReader(file):
                matrix = found.setdefault(row["case"], np.zeros((NUM_CLASSES,) * 2, np.int64))
                place = number[row["true_class"]], number[row["predicted_class"]]
                matrix[place] = int(row["voxels"])
    return found


def dice_table(cases: Sequence[np.ndarray]) -> dict[str, dict[str, float]]:
    """Dice by class, "mean" of the five and "any" blood: "pooled", and of cases that have it.

    Args:
        cases: voxels by true and predicted class, (K, K), of each case.
    """
    confusion = np.stack(cases)
    blood = (np.arange(NUM_CLASSES) > 0).astype(int)
    # Blood of any kind as one class: (cases, 2, 2).
    any_blood = np.zeros((len(cases), 2, 2), np.int64)
    np.add.at(any_blood, (slice(None), blood[:, None], blood[None, :]), confusion)
    found = {}
    for rule, score in (("pooled", pooled_scores), ("present", present_only_scores)):
        of_classes = score(confusion)
        dice = {CLASS_NAMES[label]: float(of_classes.dice[label]) for label in FOREGROUND}
        dice["mean"] = of_classes.foreground.dice
        found[rule] = dice | {"any": float(score(any_blood).dice[1])}
    return found


def seconds_to(quality: float, history: Sequence[Mapping[str, Any]]) -> float:
    """Seconds of training until the validation's Dice of any blood is `quality` for good."""
    values = [entry["val_dice_any"] or 0.0 for entry in history]  # None: nothing to find.
    kept = len(values)
    while kept and values[kept - 1] >= quality:
        kept -= 1
    if kept == len(values):
        return float("inf")
    return float(sum(entry["train_seconds"] for entry in history[: kept + 1]))


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
        folder = args.output / variant.name
        steps = args.steps or steps_in(args.seconds, variant, folds[0], folder)
        for seed in args.seeds:
            cases: dict[str, np.ndarray] = {}
            times: dict[str, list[float]] = {f"{quality:g}": [] for quality in QUALITIES}
            for fold in chosen:
                workdir = folder / f"seed{seed}_fold{fold}_steps{steps}"
                config = variant.config(folds[fold], seed, steps)
                history = train_and_evaluate(config, workdir, variant.init_from, HELD_OUT)
                cases |= confusion_of(workdir)
                for quality in QUALITIES:
                    times[f"{quality:g}"].append(seconds_to(quality, history))
            row = {"variant": variant.name, "seed": seed, "steps": steps, "cases": len(cases)}
            results.append(row | dice_table(list(cases.values())) | {"seconds_to": times})
            print_table(results)
    report = common.machine() | {"folds": list(chosen), "results": results}
    (args.output / "learning.json").write_text(json.dumps(report, indent=2))


def print_table(results: Sequence[Mapping[str, Any]]) -> None:
    """One line for each variant, seed and way of counting."""
    columns = [*(CLASS_NAMES[label] for label in FOREGROUND), "mean", "any"]
    print(f"| variant | seed | steps | n | Dice | {' | '.join(columns)} | s to .5 | s to .6 |")
    print("|---" * (len(columns) + 7) + "|")
    for row in results:
        times = [np.mean(values) for values in row["seconds_to"].values()]
        shown = " | ".join("never" if np.isinf(t) else f"{t:.0f}" for t in times)
        for rule, seconds in (("pooled", shown), ("present", " | ")):
            numbers = " | ".join(f"{row[rule][name]:.3f}" for name in columns)
            print(
                f"| {row['variant']} | {row['seed']} | {row['steps']} | {row['cases']} | {rule} | "
                f"{numbers} | {seconds} |"
            )


if __name__ == "__main__":
    with one_line_errors():
        main()
