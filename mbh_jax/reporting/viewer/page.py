"""One file that shows a scan and what was found in it: opened from the disk, without a network.

The viewer is NiiVue (niivue.umd.js, BSD-2-Clause: niivue.LICENSE.txt), which draws slices in voxel
space: a scan with a sheared affine is shown slice by slice as it was taken.
"""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from mbh_jax import files
from mbh_jax.imageio.windows import Window
from mbh_jax.labels import CLASS_NAMES, FOREGROUND, LABELS
from mbh_jax.reporting.scan_sheet import scan_sheet
from mbh_jax.reporting.viewer.embed import MAX_EMBEDDED_BYTES, Grid, embed

DISCLAIMER = "For research only: not a medical device."

WINDOWS = {
    "brain": Window(level_hu=40, width_hu=80),
    "subdural": Window(level_hu=75, width_hu=215),
    "bone": Window(level_hu=480, width_hu=2500),
}
"""The windows of a page by name, in the order of the keys 1, 2, 3."""

_FOLDER = Path(__file__).parent


def write_page(
    path: Path, grid: Grid, report: Mapping[str, Any], *, max_bytes: int = MAX_EMBEDDED_BYTES
) -> None:
    """Writes the page of a scan.

    Args:
        path: the file.
        grid: the scan and its mask, in the program's orientation.
        report: of the scan, as `<scan>.json` holds it.
        max_bytes: a scan whose text is longer is embedded at half the resolution, and if that is
            longer still, the page has pictures of the slices with blood instead.
    """
    embedded = embed(grid, max_bytes=max_bytes)
    blood = np.stack([(grid.mask == label).sum(axis=(1, 2)) for label in FOREGROUND], 1)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template("page.html").render(
        report=report,
        disclaimer=DISCLAIMER,
        classes=[
            {
                "name": CLASS_NAMES[label],
                "long_name": LABELS[label].long_name,
                "colour": "#{:02x}{:02x}{:02x}".format(*LABELS[label].rgb),
                **report["classes"][CLASS_NAMES[label]],
            }
            for label in FOREGROUND
        ],
        windows=[
            {"name": name, "level": int(one.level_hu), "width": int(one.width_hu)}
            for name, one in WINDOWS.items()
        ],
        shape=grid.hu.shape,
        embedded=embedded,
        picture="" if embedded else _picture(grid, report),
        models=", ".join(
            f"{one['workdir']}, step {one['step']}" for one in report["made_by"]["models"]
        ),
        scene={
            "num_slices": len(grid.hu),
            "blood": blood.tolist(),
            "colours": [LABELS[label].rgb for label in FOREGROUND],
        },
        style=_text("page.css"),
        script=_text("page.js"),
        viewer=_text("niivue.umd.js") if embedded else "",
        licence=_text("niivue.LICENSE.txt") if embedded else "",
    )
    files.atomic_write_text(path, html)


def _picture(grid: Grid, report: Mapping[str, Any]) -> str:
    millilitres = {name: one["ml"] for name, one in report["classes"].items()}
    sheet = scan_sheet(grid.hu, grid.mask, name=report["scan"], millilitres=millilitres)
    return base64.b64encode(files.png_bytes(sheet)).decode()


def _text(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")
