"""What a file says of an image that labels may refer to: read without decoding pixels."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import pydicom
from PIL import Image
from pydicom.uid import DeflatedExplicitVRLittleEndian, SegmentationStorage

from cxr.images.exif import read_orientation
from cxr.images.header import read_code, read_first, read_integer
from cxr.images.picture_file import PICTURE_STARTS
from cxr.images.printable import printable

TAGS = ["SOPClassUID", "SOPInstanceUID", "PatientID", "Rows", "Columns", "ViewPosition"]
SIDEWAYS = (5, 6, 7, 8)  # orientations of EXIF that change width and height
META_BYTES = 2000  # which hold the transfer syntax


@dataclass(frozen=True)
class Identity:
    """width, height: original pixels, 0 where the file does not say them. uid: SOPInstanceUID.

    patient: PatientID. view: ViewPosition. All are "" in pictures. is_segmentation: a DICOM of
    masks, no X-ray.
    """

    width: int = 0
    height: int = 0
    uid: str = ""
    patient: str = ""
    view: str = ""
    is_segmentation: bool = False


def read_identity(path: Path) -> Identity:
    """Never raises: what cannot be read is left empty, and step 02 will say why."""
    try:
        with open(path, "rb") as file:
            start = file.read(META_BYTES)
        if start.startswith(PICTURE_STARTS):
            return read_picture_size(path)
        # Such a file is unpacked at once, however large; it is read where the process may die.
        if DeflatedExplicitVRLittleEndian.encode() in start:
            return Identity()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return read_dicom_identity(path)
    except Exception:  # decoders raise anything at all on damaged bytes
        return Identity()


def read_picture_size(path: Path) -> Identity:
    with Image.open(path) as picture:
        width, height = picture.size
    if read_orientation(path.read_bytes()) in SIDEWAYS:
        width, height = height, width
    return Identity(width, height)


def read_dicom_identity(path: Path) -> Identity:
    dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=TAGS, force=True)
    return Identity(
        width=read_integer(dataset, "Columns") or 0,
        height=read_integer(dataset, "Rows") or 0,
        uid=text_of(dataset, "SOPInstanceUID"),
        patient=text_of(dataset, "PatientID"),
        view=read_code(dataset, "ViewPosition"),
        is_segmentation=text_of(dataset, "SOPClassUID") == SegmentationStorage,
    )


def text_of(dataset: pydicom.Dataset, keyword: str) -> str:
    """The first value as printable text, "" where there is none."""
    value = read_first(dataset, keyword)
    return "" if value is None else printable(str(value).strip(" \0"))
