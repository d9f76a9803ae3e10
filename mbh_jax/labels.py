"""The one table of classes: label values, names and display colours.

Label values are those of BHSD (Wu et al., MLMI 2023, arXiv:2308.11298).
"""

from typing import NamedTuple


class Label(NamedTuple):
    """One class: its name, its long name and its display colour (RGB, 0..255)."""

    name: str
    long_name: str
    rgb: tuple[int, int, int]


LABELS: tuple[Label, ...] = (
    Label("background", "background", (0, 0, 0)),
    Label("EDH", "epidural haemorrhage", (255, 0, 0)),
    Label("IPH", "intraparenchymal haemorrhage", (0, 0, 255)),
    Label("IVH", "intraventricular haemorrhage", (255, 255, 0)),
    Label("SAH", "subarachnoid haemorrhage", (0, 255, 255)),
    Label("SDH", "subdural haemorrhage", (0, 255, 0)),
)

NUM_CLASSES = len(LABELS)
"""Number of label values, background included."""

CLASS_NAMES: tuple[str, ...] = tuple(label.name for label in LABELS)
"""Names by label value; index 0 is background."""

FOREGROUND: tuple[int, ...] = tuple(range(1, NUM_CLASSES))
"""Label values of the five kinds of blood."""
