"""Files and folders that are whole or absent: written under a temporary name, then renamed.

The only module that makes files and folders whole; what streams (TensorBoard's events) or locks
(`mbh_jax.runtime.run_lock`) writes by itself.
"""

import argparse
import contextlib
import csv
import errno
import io
import json
import math
import os
import secrets
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from mbh_jax.errors import Stopped, UserError

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Errors of a disk that is full, or fails."""

CONFIG_FILE = "config.json"
"""The file of a workdir that holds its whole configuration."""

HISTORY_FILE = "history.json"
"""The file of a workdir that holds what every epoch came to."""

_MAX_SUFFIX = 16
"""Characters of a suffix that a temporary name keeps, since file names may not be long."""


def is_remote(path: epath.PathLike) -> bool:
    """Whether `path` is in an object store, such as gs://bucket/run."""
    return "://" in os.fspath(path)


def user_path(name: str, what: str) -> epath.Path:
    """The path that a user means by `name`; a leading `~` is the home folder.

    Args:
        name: as it was given.
        what: what errors call it, such as "--workdir".

    Raises:
        UserError: it is empty, its home folder is not known, or etils would read a local folder as
            a bucket.
    """
    if not name.strip():
        raise UserError(f"{what} is empty: give a path, or leave it out")
    path = epath.Path(name).expanduser()
    if os.fspath(path).startswith("~"):
        raise UserError(
            f"{what}={name}: no home folder is known for it: give the whole path (or ./{name} for "
            "a folder of this name)"
        )
    if is_remote(path) and not is_remote(name):
        raise UserError(f"{what}={name}: would be read as the bucket {path}: give another folder")
    return path


def local_path(text: str) -> Path:
    """A local path from a command line, for `argparse`; see `user_path`.

    Raises:
        ArgumentTypeError: as `user_path`, or it is in a bucket.
    """
    try:
        path = user_path(text, "path")
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if is_remote(path):
        raise argparse.ArgumentTypeError(f"{text}: must be a local path")
    return Path(path)


@contextlib.contextmanager
def atomic_path(path: epath.PathLike) -> Iterator[Path]:
    """A path to write a file to, which takes the place of `path` once the block ends without error.

    The folders of `path` are made. A reader sees the old file or the new one, never a part; if the
    block raises, the old file stays. The path that is given has the suffixes of `path`.
    """
    path = epath.Path(path)
    suffix = "".join(path.suffixes[-2:])[-_MAX_SUFFIX:]
    name = f".partial-{secrets.token_hex(6)}{suffix}"
    if is_remote(path):
        # An object appears once it is whole.
        with tempfile.TemporaryDirectory() as folder:
            partial = Path(folder) / name
            yield partial
            path.write_bytes(partial.read_bytes())
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(path.with_name(name))
    try:
        with _disk_errors_named(path):
            yield partial
            replace_file(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _disk_errors_named(path: epath.PathLike) -> Iterator[None]:
    """Gives the path of what is written to an error of the disk that has none: a failed write."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in _DISK_ERRORS:
            error.filename = os.fspath(path)
        raise


def replace_file(whole: epath.PathLike, path: epath.PathLike) -> None:
    """Moves a local file that is whole to `path`, in one step that survives a power cut."""
    whole = Path(whole)
    with whole.open("rb+") as file:
        os.fsync(file.fileno())
    whole.replace(path)


def atomic_write_bytes(path: epath.PathLike, data: bytes) -> None:
    """Writes `data` to `path` and makes its folders; a reader sees the old file or the new one."""
    with atomic_path(path) as partial:
        partial.write_bytes(data)


def atomic_write_text(path: epath.PathLike, text: str) -> None:
    """`atomic_write_bytes` of `text` in UTF-8."""
    atomic_write_bytes(path, text.encode())


@contextlib.contextmanager
def whole_folder(target: Path, expected: Collection[str], *, overwrite: bool) -> Iterator[Path]:
    """A folder to fill, which takes the place of `target` once the block ends without an error.

    Args:
        target: where it goes.
        expected: names of what such a folder holds; a folder with anything else is not replaced.
        overwrite: replace a folder that is there.

    Raises:
        UserError: if `target` is there and may not be replaced.
    """
    if target.exists() and not target.is_dir():
        raise UserError(f"{target}: is a file: give a folder")
    there = sorted(child.name for child in target.iterdir()) if target.exists() else []
    if there and not overwrite:
        raise UserError(f"{target}: exists: give --overwrite to replace it, or another --output")
    if others := [name for name in there if name not in expected]:
        raise UserError(
            f"{target}: holds {others[0]}, which was not written by this program: move it away, or "
            "give another folder"
        )
    partial = target.with_name(f".{target.name}.incomplete")
    shutil.rmtree(partial, ignore_errors=True)  # What a killed run left.
    (partial / "new").mkdir(parents=True)
    try:
        with _disk_errors_named(target):
            yield partial / "new"
        replace_folder(partial / "new", target, partial / "old")
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def whole_files(folder: Path) -> Iterator[Path]:
    """A folder to fill, whose files go into `folder` together once the block ends without an error.

    Files of the same names are replaced, others stay. If the block raises, `folder` is as it was
    before, or is not made. It is made first, so that one that cannot be written to is noticed.

    Raises:
        UserError: `folder` is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file: give a folder")
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder))

    def move() -> None:
        for path in sorted(partial.iterdir()):
            path.replace(folder / path.name)

    try:
        with _disk_errors_named(folder):
            yield partial
        try:
            move()
        except (KeyboardInterrupt, Stopped):
            move()  # The rest, so that no file is of another time than its neighbours.
            raise
    except OSError as error:
        if error.filename is not None and Path(error.filename).parent == partial:
            error.filename = os.fspath(folder / Path(error.filename).name)
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()  # Only what is empty.


def replace_folder(whole: Path, target: Path, old: Path) -> None:
    """Moves a local folder that is whole to `target`.

    What was at `target` goes to `old`, and back if the move fails.
    """
    if target.exists():
        target.rename(old)
    try:
        whole.rename(target)
    except BaseException:  # Ctrl-C too: whoever called may remove `old`.
        if old.exists() and not target.exists():
            old.rename(target)
        raise


def move_folder(source: epath.PathLike, target: epath.PathLike) -> None:
    """Moves a folder, local or remote, and replaces what `target` held before."""
    source, target = epath.Path(source), epath.Path(target)
    if target.exists():
        target.rmtree()
    target.parent.mkdir(parents=True, exist_ok=True)
    if not is_remote(source):
        source.rename(target)
        return
    # An object store has no folders to rename.
    for child in source.iterdir():
        if child.is_dir():
            move_folder(child, target / child.name)
        else:
            (target / child.name).write_bytes(child.read_bytes())
    source.rmtree()


def json_ready(value: Any) -> Any:
    """`value` as strict JSON can hold it.

    NumPy arrays become lists, NumPy scalars Python's; numbers that are not finite become None,
    since JSON has no NaN.
    """
    if isinstance(value, Mapping):
        return {str(key): json_ready(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return json_ready(value.tolist())
    if isinstance(value, list | tuple):
        return [json_ready(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_json(path: epath.PathLike, value: Any) -> None:
    """Writes `json_ready(value)` as strict, indented JSON."""
    atomic_write_text(path, json.dumps(json_ready(value), indent=1, allow_nan=False) + "\n")


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return repr(float(value)) if isinstance(value, float) else str(value)


def write_csv(
    path: epath.PathLike, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]
) -> None:
    """Writes rows under a line of column names.

    A float is written with as many digits as give the same float when read; NaN and None are empty.

    Raises:
        KeyError: a row lacks a column.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row[column]) for column in columns] for row in rows)
    atomic_write_text(path, text.getvalue())


def png_bytes(rgb: np.ndarray) -> bytes:
    """A picture (H,W,3) uint8 as PNG."""
    data = io.BytesIO()
    Image.fromarray(rgb).save(data, "png")
    return data.getvalue()
