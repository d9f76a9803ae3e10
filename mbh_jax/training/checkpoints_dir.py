"""Where the checkpoints of a workdir are, in paths that the storage libraries take literally."""

import os
from collections.abc import Iterator
from pathlib import Path

from etils import epath
from etils.epath.gpath import PosixGPath

from mbh_jax.errors import UserError
from mbh_jax.files import is_remote

_NAME = "checkpoints"


class _LiteralPath(PosixGPath):
    """A local path whose characters all stand for themselves.

    Orbax finds what it has written with `glob`, where etils takes the folder's path for a part of
    the pattern.
    """

    def glob(self, pattern: str) -> Iterator["_LiteralPath"]:
        for path in Path(os.fspath(self)).glob(pattern):
            yield self._new(path)


def checkpoints_dir(workdir: epath.PathLike) -> epath.Path:
    """The folder of a workdir's checkpoints, absolute; nothing is made.

    Raises:
        UserError: the storage libraries would write to another folder than the one that is named.
    """
    if is_remote(workdir):
        return epath.Path(workdir) / _NAME  # `absolute` would make it a local one.
    path = _LiteralPath(workdir).absolute() / _NAME
    # TensorStore takes a backslash for a slash, Orbax `gs:/` for the beginning of a bucket.
    for wrong in ("\\", "gs:/"):
        if wrong in os.fspath(path):
            raise UserError(
                f"{path}: checkpoints cannot be stored in a folder whose path holds {wrong}: give "
                "another --workdir"
            )
    return path
