"""Trains or evaluates: flags only.

python -m mbh_jax.main --config=configs/flexunet.py [--workdir=runs/flexunet]
    [--mode=train|evaluate] [--config.data.dir=data/bhsd] [--config.SECTION.KEY=VALUE ...]
"""

import re
from pathlib import Path

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from mbh_jax.config import RULES, nearest_key
from mbh_jax.errors import UserError, one_line_errors
from mbh_jax.reporting.log import start_logging

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Recipe, such as configs/flexunet.py; --config.KEY=VALUE overrides a key."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run's checkpoints, curves and tables; default runs/<recipe>."
)
_MODE = flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "evaluate"],
    "train: train (or resume) and evaluate on the validation volumes; "
    "evaluate: evaluate a checkpoint on the volumes of config.eval.split.",
)


def _parse_flags(arguments: list[str]) -> list[str]:
    """Parses flags; what is wrong with them or with the recipe's file is one line."""
    for argument in arguments:
        override = re.match(r"--?config\.([\w.]+)", argument)
        if override and override[1] not in RULES:
            raise UserError(f"--config.{override[1]}: no such key{nearest_key(override[1])}")
    try:
        rest = flags.FLAGS(arguments)
        config = _CONFIG.value
    except flags.Error as error:
        raise UserError(f"{' '.join(str(error).split())} (--help lists the flags)") from None
    except (AttributeError, ImportError, KeyError, SyntaxError, TypeError) as error:
        raise UserError(f"--config: {' '.join(str(error).split())}") from None
    if len(rest) > 1:
        raise UserError(f"unexpected argument {rest[1]!r}: options begin with --")
    if config is None:
        raise UserError("no recipe: give --config=configs/flexunet.py, or another of configs/")
    if not isinstance(config, ConfigDict):
        recipe = config_flags.get_config_filename(flags.FLAGS["config"])
        raise UserError(f"--config: {recipe} is no recipe: it is not there, or has no get_config()")
    return rest


def _main(_: list[str]) -> None:
    from mbh_jax import evaluate, train

    config = _CONFIG.value
    recipe = Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
    workdir = Path(_WORKDIR.value or Path("runs") / recipe)
    start_logging()
    if _MODE.value == "train":
        train.train_and_evaluate(config, workdir)
    else:
        evaluate.evaluate_checkpoint(config, workdir)


def run() -> None:
    """Entry point of `python -m mbh_jax.main` and of the `mbh_jax` command."""
    with one_line_errors():
        app.run(_main, flags_parser=_parse_flags)


if __name__ == "__main__":
    run()
