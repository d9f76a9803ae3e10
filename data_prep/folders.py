"""Folders that are whole or absent."""

import contextlib
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from mbh_jax.errors import UserError


@contextlib.contextmanager
def whole_folder(target: Path, held: Collection[str], overwrite: bool) -> Iterator[Path]:
    """A folder to fill, which takes the place of `target` once the block ends without an error.

    Args:
        target: where it goes.
        held: names of what such a folder holds; a folder with anything else is not replaced.
        overwrite: replace a folder that is there.

    Raises:
        UserError: if `target` is there and may not be replaced.
    """
    if target.exists() and not target.is_dir():
        raise UserError(f"{target}: is a file: give a folder")
    there = sorted(child.name for child in target.iterdir()) if target.exists() else []
    if there and not overwrite:
        raise UserError(f"{target}: exists: give --overwrite to replace it, or another --output")
    strangers = [name for name in there if name not in held]
    if strangers:
        raise UserError(f"{target}: holds {strangers[0]}, which is not ours: give another --output")
    partial = target.with_name(f".{target.name}.incomplete")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        if target.exists():
            shutil.rmtree(target)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
