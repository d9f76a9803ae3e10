"""What the commands share: a recipe and a workdir as flags, and errors of one line."""

import os
import platform
import re
from collections.abc import Callable
from pathlib import Path

import jax
from absl import app, flags
from etils import epath
from ml_collections import ConfigDict, config_flags

from mbh_jax.config import RULES, nearest_key
from mbh_jax.errors import UserError, one_line_errors
from mbh_jax.log import start_logging
from mbh_jax.runtime.huge_pages import use_huge_pages

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Recipe, such as configs/flexunet.py; --config.KEY=VALUE overrides a key."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run's checkpoints, curves and tables; default runs/<recipe>."
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
    if config is None:
        raise UserError("no recipe: give --config=configs/flexunet.py, or another of configs/")
    if not isinstance(config, ConfigDict):
        raise UserError(f"--config: {_recipe()} is no recipe: not there, or without get_config()")
    return rest


def _recipe() -> str:
    return config_flags.get_config_filename(flags.FLAGS["config"])


def _keep_compiled_programs() -> None:
    """Keeps what XLA compiled for the next start, unless the environment says where or not to."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        # By host: programs for one kind of CPU may not run on another.
        jax.config.update(
            "jax_compilation_cache_dir", str(cache / "mbh_jax" / f"xla-{platform.node()}")
        )


def _workdir() -> epath.Path:
    """The folder that --workdir names.

    Raises:
        UserError: it is in a store that checkpoints cannot be written to.
    """
    name = _WORKDIR.value or f"runs/{Path(_recipe()).stem}"
    scheme, separator, _ = name.partition("://")
    if separator and scheme != "gs":
        raise UserError(f"--workdir={name}: a local folder or gs://BUCKET/FOLDER, not {scheme}://")
    return epath.Path(name)


def run(command: Callable[[ConfigDict, epath.Path, list[str]], None]) -> None:
    """Runs `command(config, workdir, positional arguments)` with the process's flags.

    A `UserError` ends the process with one line and exit code 1.
    """

    def main(arguments: list[str]) -> None:
        start_logging()
        _keep_compiled_programs()
        command(_CONFIG.value, _workdir(), arguments[1:])

    use_huge_pages()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # TensorFlow says at every start that oneDNN is on, unless it is told.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    with one_line_errors():
        app.run(main, flags_parser=_parse_flags)
