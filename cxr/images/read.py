"""X-ray files to 8-bit gray pictures: DICOM, PNG, JPEG in; PNG with the header's facts out."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from cxr.images.dicom import decode, open_dicom
from cxr.images.gray import (
    gray_from_colour,
    gray_from_monochrome,
    gray_from_palette,
    read_gray_rules,
)
from cxr.images.header import Header, read_facts
from cxr.images.limits import TOO_MUCH_MEMORY
from cxr.images.picture_file import PICTURE_STARTS, read_picture_file
from cxr.images.pixel_format import PALETTE
from cxr.images.png import read_png_header, write_png
from cxr.images.printable import UnreadableImage, describe_error
from cxr.images.resize import resize
from cxr.system.errors import InputError


def read_image(path: str | Path) -> tuple[np.ndarray, Header]:
    """Picture (height, width) uint8, bright = dense, and its Header.

    The kind of file is told from its first bytes, not its name. Raises UnreadableImage, naming the
    file and the reason, for everything that does not give one gray X-ray: no pixels, several
    frames, truncated, unknown compression, more than MOST_PIXELS.
    """
    try:
        content = Path(path).read_bytes()
        with warnings.catch_warnings():
            # Invalid UIDs, ages without unit: harmless, and common in public data.
            warnings.simplefilter("ignore")
            if content.startswith(PICTURE_STARTS):
                image = read_picture_file(content)
                height, width = image.shape
                return image, Header(width, height)
            return read_dicom(content)
    except InputError as error:
        raise UnreadableImage(path, str(error)) from None
    except MemoryError:
        raise UnreadableImage(path, TOO_MUCH_MEMORY) from None
    except Exception as error:  # the decoders raise anything at all on damaged bytes
        raise UnreadableImage(path, f"cannot be decoded ({describe_error(error)})") from None


def read_dicom(content: bytes) -> tuple[np.ndarray, Header]:
    """Picture (height, width) uint8 and Header of the bytes of a DICOM. Raises anything."""
    dicom = open_dicom(content)
    stored = decode(dicom)
    if stored.format.photometric == PALETTE:
        image = gray_from_palette(stored.values, dicom.dataset, stored.format)
    elif stored.format.is_colour:
        image = gray_from_colour(stored.values, stored.format)
    else:
        image = gray_from_monochrome(stored.values, read_gray_rules(dicom.dataset, stored.format))
    height, width = image.shape
    return image, read_facts(dicom.dataset, width, height)


def convert_file(source: str | Path, target: str | Path, size: int) -> Header:
    """X-ray file `source` to the PNG `target` of size x size, with its Header inside.

    Does nothing where `target` is there already. Raises UnreadableImage for the source, OSError
    where the target cannot be written.
    """
    header = read_png_header(target, size)
    if header is not None:
        return header
    image, header = read_image(source)
    write_png(target, resize(image, size), header)
    return header


def convert_image(source: str | Path, target: str | Path, size: int) -> tuple[Header | None, str]:
    """As `convert_file`: (Header, "") or (None, why the source was refused)."""
    try:
        return convert_file(source, target, size), ""
    except UnreadableImage as error:
        return None, str(error)
