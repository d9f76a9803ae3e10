"""Which files are DICOM, and pydicom, which reads them.

pydicom is imported when the first DICOM file is met, since only users of DICOM need it.
"""

import logging
import re
import warnings
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any, BinaryIO

from mbh_jax.errors import UserError

_PREAMBLE_BYTES = 128
_BARE_DATA_SET = re.compile(rb"\x08\x00[\x00-\x18]\x00(UL|CS|DA|TM|UI|.{2}\x00\x00)", re.DOTALL)
"""How a DICOM file without preamble starts: an element of group 0008, little endian."""


def is_dicom(path: Path) -> bool:
    """Whether a file starts as a DICOM file does, or is named as one, so that damage is reported.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return starts_as_dicom(file) or is_named_dicom(path)


def is_named_dicom(path: PurePath) -> bool:
    """Whether a file's name ends in .dcm, which DICOM files need not do."""
    return path.suffix.lower() == ".dcm"


def starts_as_dicom(stream: BinaryIO) -> bool:
    """Whether an open file starts as DICOM does, with its preamble or without.

    Raises:
        OSError: it cannot be read.
    """
    start = stream.read(_PREAMBLE_BYTES + 4)
    return start[_PREAMBLE_BYTES:] == b"DICM" or bool(_BARE_DATA_SET.match(start))


def has_preamble(path: Path) -> bool:
    """Whether a file is certainly DICOM: without preamble it may only start like one."""
    with path.open("rb") as file:
        return file.read(_PREAMBLE_BYTES + 4)[_PREAMBLE_BYTES:] == b"DICM"


def import_pydicom() -> Any:
    """pydicom, without its warnings and highdicom's: they quote headers, so the patient's name.

    Raises:
        UserError: it is not installed.
    """
    try:
        import pydicom
    except ImportError:
        raise UserError('DICOM files need pydicom: pip install "mbh_jax[dicom]"') from None
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module="pydicom|highdicom")
    return pydicom


def read_texts(path: Path, keywords: Sequence[str]) -> list[str]:
    """Elements of a DICOM file's header as texts, empty where they are absent or the file damaged.

    Raises:
        UserError: pydicom is not installed.
    """
    pydicom = import_pydicom()
    try:
        header = pydicom.dcmread(
            path, stop_before_pixels=True, specific_tags=keywords, force=True, defer_size=1 << 16
        )
        return [str(header.get(keyword) or "").strip() for keyword in keywords]
    except Exception:  # pydicom has no list of what it raises.
        return [""] * len(keywords)


def damaged(path: Path, error: Exception) -> UserError:
    """The line for a file that cannot be read; what `error` says may quote the header."""
    kind = type(error).__name__
    return UserError(f"{path}: damaged DICOM file ({kind}): copy it again, or move it away")
