"""Trains or evaluates: flags only.

python -m mbh_jax.main --config=configs/flexunet.py [--workdir=runs/flexunet]
    [--mode=train|evaluate] [--config.data.dir=data/bhsd] [--config.SECTION.KEY=VALUE ...]
"""

import sys
from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

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
    try:
        rest = flags.FLAGS(arguments)
    except flags.Error as error:
        raise UserError(f"{' '.join(str(error).split())} (--help lists the flags)") from None
    except FileNotFoundError as error:
        raise UserError(f"--config: no such file: {error.filename or error}") from None
    except (AttributeError, KeyError, TypeError, ValueError, ImportError, SyntaxError) as error:
        raise UserError(f"--config: {' '.join(str(error).split())}") from None
    if len(rest) > 1:
        raise UserError(f"unexpected argument {rest[1]!r}: options begin with --")
    if _CONFIG.value is None:
        raise UserError("no recipe: give --config=configs/flexunet.py, or another of configs/")
    return rest


def _main(_: list[str]) -> None:
    from mbh_jax import evaluate, train

    config = _CONFIG.value
    recipe = Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
    workdir = Path(_WORKDIR.value or Path("runs") / recipe)
    with one_line_errors():
        if _MODE.value == "train":
            train.train_and_evaluate(config, workdir)
        else:
            evaluate.evaluate_checkpoint(config, workdir)


def run() -> None:
    """Entry point of `python -m mbh_jax.main` and of the `mbh_jax` command."""
    start_logging()
    with one_line_errors():
        rest = _parse_flags(sys.argv)
    app.run(_main, argv=rest[:1], flags_parser=lambda argv: argv)


if __name__ == "__main__":
    run()
