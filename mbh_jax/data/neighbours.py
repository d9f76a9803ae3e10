"""Which slices of a scan a network sees together with a slice, and how they are shifted ("2.5D").

A network that sees n slices on each side gets S = 2n + 1 of them, from inferior to superior, the
slice itself in the middle. They are of the same scan; beyond its ends the last slice is repeated.

A scan whose affine is sheared, as that of a tilted gantry, has its slices shifted against each
other in the plane. Neighbours of such a scan are shifted back by whole pixels, so that a pixel of
all S slices lies on one line along the normal of the slices. Where millimetres are not known, or
slices are not evenly spaced, nothing is shifted and neighbours are the next slices.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mbh_jax import keys
from mbh_jax.data.index import SliceIndex
from mbh_jax.data.spacing import lengths
from mbh_jax.imageio.volume import Volume

KEYS = {
    "neighbours": keys.integer(
        0, 0, "slices on each side of a slice that the network sees with it", maximum=4
    ),
    "neighbour_mm": keys.number(
        0.0, 0, "distance between these slices in mm; 0: the next slices of the scan", below=1000
    ),
}
"""Keys of the section "data" of a configuration."""

_TIE = 1e-3
"""Of two slices that are equally far, within this part of their distance, the nearer to the
middle one is taken, so that rounding errors of an affine decide nothing."""


class Setting(NamedTuple):
    """What a network sees beside a slice.

    Attributes:
        number: slices on each side.
        distance_mm: between them; 0: they are the next slices of the scan.
    """

    number: int = 0
    distance_mm: float = 0.0

    @property
    def num_slices(self) -> int:
        """All that it sees, S."""
        return 2 * self.number + 1


class Neighbours(NamedTuple):
    """The S slices that stand for each of N slices.

    Attributes:
        row: (N, S) int32, rows of the N slices; the middle column is 0, 1, ..., N - 1.
        shift: (N, S, 2) int32, rows and columns that are added to a pixel's place to find it in the
            neighbour.
    """

    row: np.ndarray
    shift: np.ndarray

    @property
    def num_slices(self) -> int:
        """S."""
        return self.row.shape[1]


class Stack(NamedTuple):
    """The slices of a scan.

    Attributes:
        num_slices: how many.
        affine: (4, 4), voxel (column, row, slice) to RAS+ mm; None where millimetres are not known
            or slices are not evenly spaced.
    """

    num_slices: int
    affine: np.ndarray | None


def problem(data: Mapping[str, Any], model: Mapping[str, Any]) -> str | None:
    """What is wrong with the neighbours of a configuration, or None.

    Args:
        data, model: the sections of these names.
    """
    if data["neighbours"]:
        return None
    if data["neighbour_mm"]:
        return (
            f"data.neighbour_mm={data['neighbour_mm']:g} has no effect with data.neighbours=0: "
            "leave it out, or give data.neighbours=1 or more"
        )
    if model.get("slice_fusion", "channels") != "channels":
        return (
            f"model.slice_fusion={model['slice_fusion']} has no effect with data.neighbours=0: "
            "leave it out, or give data.neighbours=1 or more"
        )
    return None


def setting_of(data: Mapping[str, Any]) -> Setting:
    """What the section "data" of a configuration says."""
    return Setting(data["neighbours"], data["neighbour_mm"])


def of_index(index: SliceIndex, setting: Setting) -> Neighbours:
    """The neighbours of every slice of a dataset; rows are example numbers."""
    return of_stacks(
        [Stack(one.num_slices, one.affine if one.spacing_known else None) for one in index.volumes],
        setting,
    )


def stack_of(scan: Volume) -> Stack:
    """What is known of the slices of a scan."""
    is_even = scan.spacing_known and scan.slice_mm is None
    return Stack(len(scan.hu), scan.affine if is_even else None)


def of_stacks(stacks: Sequence[Stack], setting: Setting) -> Neighbours:
    """The neighbours of every slice of stacks that are put one after the other."""
    side = np.arange(-setting.number, setting.number + 1)
    rows, shifts, first = [], [], 0
    for stack in stacks:
        number = np.arange(stack.num_slices)[:, np.newaxis]
        found = np.clip(number + _steps(side, stack.affine, setting), 0, stack.num_slices - 1)
        rows.append(first + found)
        shifts.append(np.rint((found - number)[..., np.newaxis] * _shift_of_step(stack.affine)))
        first += stack.num_slices
    row, shift = (np.concatenate(parts).astype(np.int32) for parts in (rows, shifts))
    return Neighbours(row, shift)


def _steps(side: np.ndarray, affine: np.ndarray | None, setting: Setting) -> np.ndarray:
    """How many slices away the slices (S,) of a side -n, ..., n are."""
    if not setting.distance_mm or affine is None:
        return side
    slice_mm = lengths(affine, (1, 1, 1)).slice_mm
    distance = np.abs(side) * (setting.distance_mm / slice_mm)
    # To the nearest slice; halves towards the middle.
    return np.sign(side) * np.ceil(distance - 0.5 - _TIE).astype(int)


def _shift_of_step(affine: np.ndarray | None) -> np.ndarray:
    """Rows and columns (2,) by which a line along the normal moves from a slice to the next."""
    if affine is None:
        return np.zeros(2)
    in_plane, step = affine[:3, :2], affine[:3, 2]
    columns, rows = np.linalg.lstsq(in_plane, step)[0]
    return -np.array([rows, columns])


def gather(slices: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Puts slices and their neighbours together as channels.

    Args:
        slices: (n, S, H, W).
        shift: (n, S, 2), see `Neighbours`. What comes from outside is the nearest pixel inside.

    Returns:
        (n, H, W, S) of the same dtype.
    """
    if shift.any():
        slices = slices.copy()
        height, width = slices.shape[2:]
        for n, s in np.argwhere(shift.any(axis=-1)):
            rows = np.clip(np.arange(height) + shift[n, s, 0], 0, height - 1)
            columns = np.clip(np.arange(width) + shift[n, s, 1], 0, width - 1)
            slices[n, s] = slices[n, s][rows[:, np.newaxis], columns]
    return np.ascontiguousarray(np.moveaxis(slices, 1, -1))


def channels_of(settings: Sequence[Setting]) -> tuple[list[Setting], list[slice]]:
    """The settings of several networks without repetitions, and where each network's slices are.

    Returns:
        The distinct settings, whose slices are the channels of one array, one setting after the
        other; and of each of `settings` its part of these channels.
    """
    distinct = list(dict.fromkeys(settings))
    ends = np.cumsum([0, *(one.num_slices for one in distinct)]).tolist()
    parts = {one: slice(ends[i], ends[i + 1]) for i, one in enumerate(distinct)}
    return distinct, [parts[one] for one in settings]
