"""Trains or evaluates: flags only.

    python -m mbh_jax.main --config=configs/flexunet.py [--workdir=runs/flexunet]
        [--mode=train|evaluate] [--config.data.dir=data/bhsd] [--config.SECTION.KEY=VALUE ...]

Run again with the same flags, a run that was stopped goes on.
"""

from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from mbh_jax import commands
from mbh_jax.errors import UserError

_MODE = flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "evaluate"],
    "train: train (or resume) and evaluate on the validation volumes; "
    "evaluate: evaluate a checkpoint on the volumes of config.eval.split.",
)


def main(config: ConfigDict, workdir: Path, arguments: list[str]) -> None:
    """Does what `--mode` says."""
    if arguments:
        raise UserError(f"unexpected argument {arguments[0]!r}: options begin with --")
    from mbh_jax import evaluate, train

    if _MODE.value == "train":
        train.train_and_evaluate(config, workdir)
    else:
        evaluate.evaluate_checkpoint(config, workdir)


if __name__ == "__main__":
    commands.run(main)
