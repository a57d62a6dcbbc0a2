"""X-ray files to 8-bit gray pictures: DICOM, PNG, JPEG in; PNG with the header's facts out."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from cxr.images.dicom import open_dicom, read_stored_pixels
from cxr.images.gray import gray_from_colour, gray_from_monochrome, is_colour, to_uint8
from cxr.images.header import Header, one_of, parse_age, refuse_huge
from cxr.images.png import read_png_header, write_png
from cxr.images.resize import resize
from cxr.system.errors import InputError

PICTURE_STARTS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")


def read_image(path: str | Path) -> tuple[np.ndarray, Header]:
    """Picture (height, width) uint8, bright = dense, and its Header.

    The kind of file is told from its first bytes, not its name. Raises InputError, naming the file
    and the reason, for everything that does not give one gray X-ray: no pixels, several frames,
    truncated, unknown compression, more than MOST_PIXELS.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        with warnings.catch_warnings():
            # Invalid UIDs, ages without unit: harmless, and common in public data.
            warnings.simplefilter("ignore")
            if content.startswith(PICTURE_STARTS):
                return _read_picture(content)
            return _read_dicom(content)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except Exception as error:  # the decoders raise anything at all on damaged bytes
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{path}: cannot be decoded ({type(error).__name__}: {reason})") from None


def _read_picture(content: bytes) -> tuple[np.ndarray, Header]:
    with Image.open(io.BytesIO(content)) as picture:
        refuse_huge(*picture.size)
        if picture.mode.startswith(("I", "F")):  # more than 8 bits
            image = to_uint8(np.asarray(picture))
        else:  # palette, alpha and colour become gray (ITU-R 601 luma)
            image = np.asarray(picture.convert("L"))
    height, width = image.shape
    return image, Header(width, height)


def _read_dicom(content: bytes) -> tuple[np.ndarray, Header]:
    dataset = open_dicom(content)
    stored = read_stored_pixels(dataset)
    if is_colour(dataset):
        image = gray_from_colour(stored, dataset)
    else:
        image = gray_from_monochrome(stored, dataset)
    height, width = image.shape
    header = Header(
        width,
        height,
        age=parse_age(dataset.get("PatientAge")),
        sex=one_of(dataset.get("PatientSex"), ("M", "F")),
        view=one_of(dataset.get("ViewPosition"), ("AP", "PA")),
    )
    return image, header


def convert_image(source: str | Path, target: str | Path, size: int) -> tuple[Header | None, str]:
    """X-ray file `source` to the PNG `target` of size x size.

    (Header, "") or (None, why the source was refused). Does nothing where `target` is there
    already. OSError where the target cannot be written: that is no fault of the source.
    """
    header = read_png_header(target, size)
    if header is not None:
        return header, ""
    try:
        image, header = read_image(source)
    except InputError as error:
        return None, str(error)
    write_png(target, resize(image, size), header)
    return header, ""
