"""The slices of a case with its contours, small enough for a page."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import contourpy
import numpy as np
from PIL import Image

from mbh_jax.evaluation.case import ANY
from mbh_jax.imageio.windows import BRAIN
from mbh_jax.labels import CLASS_NAMES, FOREGROUND

MAX_SLICES = 32
"""Slices of a case on the page: those with blood and their neighbours, thinned out evenly."""

MAX_SIDE = 288
"""Pixels of the longer side of a picture; contours keep their own resolution."""

HEAD_HU = -300
"""What is brighter is the patient; the picture is cropped to it."""


RANKING = (
    "Cases are ranked by the mean Dice of the classes that the reference has, and equal ones by "
    "the Dice of all blood. A head without blood in which some is predicted has 0; one without "
    "blood in both masks is not ranked."
)
"""How `choose_cases` ranks, for people."""


class CaseImages(NamedTuple):
    """What is shown of a case; every array is (slices, rows, columns).

    Attributes:
        hu: int16 Hounsfield units, or None where they are not at hand.
        reference: uint8 label values.
        prediction: uint8 label values.
    """

    hu: np.ndarray | None
    reference: np.ndarray
    prediction: np.ndarray


class ShownCase(NamedTuple):
    """A case that a report shows: its rank in words, its name and the Dice it is ranked by."""

    rank: str
    case: str
    dice: float


def choose_cases(rows: Sequence[Mapping[str, Any]]) -> list[ShownCase]:
    """The cases that a report shows, by `RANKING`.

    The two worst, the median and the two best; of fewer than five all, the worst first.

    Args:
        rows: of `mbh_jax.evaluation.case_table.case_rows`.
    """
    present: dict[str, list[float]] = {}
    any_blood: dict[str, float] = {}
    for row in rows:
        if row["class"] == ANY:
            any_blood[row["case"]] = row["dice"]
        elif row["n_ref"]:
            present.setdefault(row["case"], []).append(row["dice"])
    ranked = sorted(
        (float(np.mean(present.get(case, 0.0))), dice, case)
        for case, dice in any_blood.items()
        if np.isfinite(dice)
    )
    if len(ranked) < 5:
        places = [(f"{i + 1} of {len(ranked)}", i) for i in range(len(ranked))]
    else:
        last = len(ranked) - 1
        places = [
            *(("worst", 0), ("second worst", 1), ("median", len(ranked) // 2)),
            *(("second best", last - 1), ("best", last)),
        ]
    return [ShownCase(rank, ranked[i][2], ranked[i][0]) for rank, i in places]


def case_slices(images: CaseImages) -> dict[str, Any]:
    """The slices of a case for the page's script: pictures and contours.

    Returns:
        "width", "height" (of the crop, in the scan's pixels), "count" (slices of the scan) and
        "slices", each with "number" (from 1 at the feet), "image" (a data URL, or ""), and
        "reference" and "prediction": SVG paths by class name.
    """
    blood = (images.reference > 0) | (images.prediction > 0)
    rows, columns = _crop(images.hu, blood)
    hu = None if images.hu is None else images.hu[:, rows, columns]
    masks = [mask[:, rows, columns] for mask in (images.reference, images.prediction)]
    slices = [
        {
            "number": int(number) + 1,
            "image": "" if hu is None else _picture(hu[number]),
            "reference": _paths(masks[0][number]),
            "prediction": _paths(masks[1][number]),
        }
        for number in _shown(np.asarray(blood.any((1, 2))))
    ]
    height, width = masks[0].shape[1:]
    return {"width": width, "height": height, "count": len(blood), "slices": slices}


def _shown(has_blood: np.ndarray) -> np.ndarray:
    near = has_blood.copy()
    near[1:] |= has_blood[:-1]
    near[:-1] |= has_blood[1:]
    numbers = np.flatnonzero(near)
    if len(numbers) <= MAX_SLICES:
        return numbers
    return numbers[np.linspace(0, len(numbers) - 1, MAX_SLICES).round().astype(int)]


def _crop(hu: np.ndarray | None, blood: np.ndarray) -> tuple[slice, slice]:
    where = blood if hu is None else blood | (hu > HEAD_HU)
    bounds = []
    for axis in (1, 2):
        used = np.flatnonzero(where.any(tuple({0, 1, 2} - {axis})))
        size = where.shape[axis]
        low, high = (used[0], used[-1] + 1) if len(used) else (0, size)
        bounds.append(slice(max(0, int(low) - 4), min(size, int(high) + 4)))
    return bounds[0], bounds[1]


def _picture(hu: np.ndarray) -> str:
    picture = Image.fromarray((255 * BRAIN(hu)).astype(np.uint8))
    picture.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.BILINEAR)
    data = io.BytesIO()
    picture.save(data, "jpeg", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()


def _paths(mask: np.ndarray) -> dict[str, str]:
    """The outline of each class as an SVG path in pixels of the crop."""
    found = {}
    for label in FOREGROUND:
        where = mask == label
        if where.any():
            padded = np.pad(where, 1).astype(np.float32)
            lines: Any = contourpy.contour_generator(z=padded).lines(0.5)
            # A pixel's centre lies at half a pixel, and the padding moves everything by one.
            found[CLASS_NAMES[label]] = "".join(
                "M" + "L".join(f"{x - 0.5:g} {y - 0.5:g}" for x, y in line) + "Z" for line in lines
            )
    return found
