"""What the commands share: a recipe and a workdir as flags, and errors of one line."""

import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from absl import app, flags
from etils import epath
from ml_collections import ConfigDict, config_flags

from mbh_jax import files
from mbh_jax.errors import UserError, one_line_errors
from mbh_jax.log import start_logging
from mbh_jax.runtime import huge_pages

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Recipe, such as configs/flexunet.py; --config.KEY=VALUE overrides a key. A run that has begun "
    "knows its recipe: leave it out.",
    sys_argv=[""],  # Overrides are applied later, by `_with_overrides`.
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run's checkpoints, curves and tables; default runs/<recipe>."
)
_RENAMED = {"begin_with": "init_from"}
"""Flags of earlier versions, and what they are called now."""

_OVERRIDE = re.compile(r"--?(?P<no>no)?config\.(?P<key>[\w.]+)(?P<value>=.*)?", re.DOTALL)


class Command(NamedTuple):
    """What a command was given.

    Attributes:
        config: the whole configuration, not validated.
        workdir: the run's folder.
        arguments: positional ones.
    """

    config: ConfigDict
    workdir: epath.Path
    arguments: list[str]


def run(
    command: Callable[[Command], None], recipe_from: flags.FlagHolder[str | None] | None = None
) -> None:
    """Runs a command with the process's arguments.

    A `UserError` ends the process with one line and exit code 1.

    Args:
        command: does the work.
        recipe_from: a flag that may name another run, whose recipe is taken where neither --config
            nor the workdir has one.
    """
    huge_pages.use_huge_pages()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # Otherwise TensorFlow says at every start that oneDNN is on.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    # A notebook's may name what is not installed here; pictures go to files.
    os.environ["MPLBACKEND"] = "agg"
    overrides: list[str] = []

    def parse(arguments: list[str]) -> list[str]:
        found, others = _split_overrides(arguments)
        overrides.extend(found)
        return _parse_flags(others)

    def main(arguments: list[str]) -> None:
        start_logging(debug=flags.FLAGS.verbosity > 0)
        huge_pages.log_use()
        from mbh_jax.runtime import xla

        xla.keep_compiled_programs()
        config, workdir = _configuration(recipe_from.value if recipe_from is not None else None)
        command(Command(_with_overrides(config, overrides), workdir, arguments[1:]))

    with one_line_errors():
        app.run(main, flags_parser=parse)


def _split_overrides(arguments: Iterable[str]) -> tuple[list[str], list[str]]:
    """Divides arguments into `--config.KEY=VALUE`, each in this form, and the others."""
    overrides, others = [], []
    iterator = iter(arguments)
    for argument in iterator:
        found = _OVERRIDE.fullmatch(argument)
        if found is None:
            others.append(argument)
        elif found["value"] or found["no"] or _is_switch(found["key"]):
            overrides.append(argument)
        else:
            overrides.append(f"{argument}={next(iterator, '')}")
    return overrides, others


def _is_switch(key: str) -> bool:
    from mbh_jax import config as config_keys

    rule = config_keys.every_key().get(key)
    return rule is not None and isinstance(rule.default, bool)


def _parse_flags(arguments: list[str]) -> list[str]:
    """Parses flags; what is wrong with them or with the recipe's file is one line."""
    for argument in arguments:
        name = argument.lstrip("-").partition("=")[0]
        if argument.startswith("-") and name in _RENAMED:
            raise UserError(f"--{name} is now called --{_RENAMED[name]}")
    try:
        return flags.FLAGS([_expand_recipe(argument) for argument in arguments])
    except flags.Error as error:
        raise UserError(f"{' '.join(str(error).split())} (--help lists the flags)") from None
    except (AttributeError, ImportError, KeyError, SyntaxError, TypeError) as error:
        raise UserError(f"--config: {' '.join(str(error).split())}") from None


def _expand_recipe(argument: str) -> str:
    """An argument, with the whole path where it is `--config=~/...`, which no shell expands."""
    name, _, value = argument.partition("=")
    if name not in ("--config", "-config") or not value.startswith("~"):
        return argument
    return f"{name}={files.user_path(value, name)}"


def _configuration(other_run: str | None) -> tuple[ConfigDict, epath.Path]:
    """The configuration before its overrides, and the workdir.

    Without --config it is that of the run in the workdir, or of the other run.

    Raises:
        UserError: there is none.
    """
    if flags.FLAGS["config"].present:
        config = _CONFIG.value
        if not isinstance(config, ConfigDict):
            raise UserError(
                f"--config: {_recipe() or 'nothing'} is no recipe: not there, or without "
                "get_config()"
            )
        given = _WORKDIR.value
        return _completed(config), _workdir(
            f"runs/{Path(_recipe()).stem}" if given is None else given
        )
    from mbh_jax.files import CONFIG_FILE
    from mbh_jax.training import network, pretrained

    if _WORKDIR.value is None:
        raise UserError(
            "no recipe: give --config=configs/flexunet.py, or another of configs/; or the "
            "--workdir of a run, which knows its recipe"
        )
    workdir = _workdir(_WORKDIR.value)
    if (workdir / CONFIG_FILE).is_file():
        return network.read_config(workdir), workdir
    if other_run is not None:
        return network.read_config(pretrained.source_path(other_run, "--init_from")), workdir
    raise UserError(
        f"{workdir} holds no run (no {CONFIG_FILE}): give the --workdir of one, or a "
        "recipe, such as --config=configs/flexunet.py"
    )


def _completed(recipe: ConfigDict) -> ConfigDict:
    """A recipe with the defaults of the keys that it leaves out.

    Raises:
        UserError: it has a key that nobody knows, or one of a component that it does not choose.
    """
    from mbh_jax import config as config_keys

    values = dict(config_keys.flatten(recipe))
    for key in values:
        config_keys.check_key(key, values)
    return config_keys.complete(recipe)


def _with_overrides(config: ConfigDict, overrides: list[str]) -> ConfigDict:
    """The configuration with overrides; one that names a component brings its keys.

    Raises:
        UserError: an override is wrong.
    """
    from mbh_jax import config as config_keys

    if not overrides:
        return config
    given = {found["key"]: found for found in map(_OVERRIDE.fullmatch, overrides) if found}
    values = dict(config_keys.flatten(config))
    names = {
        key: given[key]["value"].removeprefix("=")
        for key in (f"{section}.name" for section in config_keys.COMPONENTS)
        if key in given and given[key]["value"]
    }
    if names:
        for key, name in names.items():
            section = key.partition(".")[0]
            if name in config_keys.COMPONENTS[section]:
                with config.unlocked():
                    config[section].name = name
        config = config_keys.complete(config)
        values = dict(config_keys.flatten(config))
    for key in given:
        config_keys.check_key(key, values)
    own_flags = flags.FlagValues()
    arguments = [sys.argv[0], *overrides]
    try:
        flag = config_flags.DEFINE_config_dict(
            "config", config, flag_values=own_flags, sys_argv=arguments
        )
        own_flags(arguments)
    except (flags.Error, AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{' '.join(str(error).split())} (--help lists the flags)") from None
    return flag.value


def _recipe() -> str:
    return config_flags.get_config_filename(flags.FLAGS["config"])


def _workdir(name: str) -> epath.Path:
    """The folder of that name.

    Raises:
        UserError: it is empty, or somewhere that checkpoints cannot be written to.
    """
    scheme, separator, _ = name.partition("://")
    if separator and scheme != "gs":
        raise UserError(f"--workdir={name}: a local folder or gs://BUCKET/FOLDER, not {scheme}://")
    from mbh_jax.training.checkpoints_dir import checkpoints_dir

    path = files.user_path(name, "--workdir")
    checkpoints_dir(path)
    return path
