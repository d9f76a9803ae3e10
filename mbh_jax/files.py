"""Files that are whole or absent: written beside their place under a passing name, then renamed."""

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from PIL import Image


def is_remote(path: epath.PathLike) -> bool:
    """Whether `path` is in an object store, such as gs://bucket/run."""
    return "://" in os.fspath(path)


def atomic_write_bytes(path: epath.PathLike, data: bytes) -> None:
    """Writes `data` to `path` and makes its folders; a reader sees the old file or the new one."""
    path = epath.Path(path)
    if is_remote(path):
        # An object appears when it is whole.
        path.write_bytes(data)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def move_folder(source: epath.PathLike, target: epath.PathLike) -> None:
    """Moves a folder, in the place of what `target` held before."""
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


def atomic_write_text(path: epath.PathLike, text: str) -> None:
    """`atomic_write_bytes` of `text` in UTF-8."""
    atomic_write_bytes(path, text.encode())


def json_ready(value: Any) -> Any:
    """`value` as what strict JSON can say.

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
    """Writes rows under a head line.

    A float is written with as many digits as bring the same float back; NaN and None are empty.

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
