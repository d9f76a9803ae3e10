"""How data sets are laid out, recognised from their files.

Each layout is a pair of functions: `find` gives the folders in a listing that hold such a data set,
and `cases` lists one's cases. Folders and files that belong to no layout are ignored.
"""

from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import NamedTuple

from data_prep.sources import bhsd, dicom_folders, mbhseg25, nnunet, png_folders
from data_prep.sources.cases import Cases
from data_prep.sources.files import Listing
from data_prep.sources.options import Options

ALL_LAYOUTS = ("patients",)
"""The fields of `Options` that apply to every layout."""


class Layout(NamedTuple):
    """See the module's docstring.

    Attributes:
        what: the files, for errors.
        options: those of `Options` that apply to this layout.
    """

    find: Callable[[Listing], set[PurePosixPath]]
    cases: Callable[[Listing, PurePosixPath, Options], Cases]
    what: str
    options: tuple[str, ...] = ()


LAYOUTS: Mapping[str, Layout] = {
    "bhsd": Layout(
        bhsd.find,
        bhsd.cases,
        f"images/ and '{bhsd.LABELS[0]}/' or {bhsd.LABELS[1]}/ with volumes",
        options=("series",),
    ),
    "unlabelled": Layout(
        bhsd.find_unlabelled,
        bhsd.unlabelled_cases,
        "anybleed/ and nobleed/ with volumes",
        options=("series",),
    ),
    "png": Layout(
        png_folders.find,
        png_folders.cases,
        "images/ and masks/ with PNG, or train, valid, test with them",
        options=("rgb_map", "flip_rows"),
    ),
    "nnunet": Layout(nnunet.find, nnunet.cases, "imagesTr/, labelsTr/ and dataset.json"),
    "mbhseg25": Layout(
        mbhseg25.find,
        mbhseg25.cases,
        "<case>/image and <case>/label_annot_<number>",
        options=("annotator",),
    ),
    "dicom": Layout(
        dicom_folders.find,
        dicom_folders.cases,
        "DICOM files, in any folders",
        options=("series",),
    ),
}
"""By the name that `--layout` takes."""

LAST_LAYOUT = "dicom"
"""It is recognised only where no other one is: DICOM may lie beside what was made from it."""
