"""Which study a file belongs to, as its header says.

Not part of `Header`, which step 02 keeps in its pictures: the number tells whose examination it is.
"""

from __future__ import annotations

import io
from pathlib import Path

import pydicom

from cxr.images.header import read_first
from cxr.images.picture_file import PICTURE_STARTS
from cxr.images.printable import printable

LONGEST_UID = 64  # characters (PS3.5, 9.1)
UID_TAG = "StudyInstanceUID"


def read_study(path: str | Path) -> str:
    """The StudyInstanceUID of a file that was read before, "" where it has none, as a PNG."""
    content = Path(path).read_bytes()
    if content.startswith(PICTURE_STARTS):
        return ""
    try:
        # From bytes: from a file pydicom makes room for any length that an element states.
        dataset = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True, force=True)
    except Exception:  # pydicom raises anything at all on damaged bytes
        return ""
    value = read_first(dataset, UID_TAG)
    return printable(str(value or "").strip(" \0"))[:LONGEST_UID]
