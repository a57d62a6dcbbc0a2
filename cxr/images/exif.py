"""How a PNG or JPEG file is to be turned, as EXIF says.

Read here and not by Pillow, so that edge_predict.py, which has none, does the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from cxr.images.codestream import walk_jpeg

UPRIGHT = 1
ORIENTATION_TAG = 274
PNG_START = b"\x89PNG\r\n\x1a\n"
APP1_MARKER = 0xE1
APP1_START = b"Exif\0\0"
# Sizes of the whole numbers of TIFF 6.0: BYTE, SHORT, LONG.
NUMBER_SIZES = {1: 1, 3: 2, 4: 4}


def read_orientation(content: bytes) -> int:
    """1 ... 8 of the EXIF in a file; 1, upright, where there is none or it makes no sense."""
    orientation = find_orientation(find_exif(content))
    return orientation if orientation in range(1, 9) else UPRIGHT


def find_exif(content: bytes) -> bytes:
    """The EXIF of a PNG or JPEG, which is a TIFF without a picture; empty where there is none."""
    if content.startswith(PNG_START):
        for name, start, end in walk_png(content):
            if name == b"eXIf":
                return content[start:end]
        return b""
    for marker, start, end in walk_jpeg(content):
        if marker == APP1_MARKER and content[start:end].startswith(APP1_START):
            return content[start + len(APP1_START) : end]
    return b""


def walk_png(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(name, start, end) of the chunks of a PNG, up to its end or where it is cut off."""
    at = len(PNG_START)
    while at + 12 <= len(content):
        name = content[at + 4 : at + 8]
        end = at + 8 + int.from_bytes(content[at : at + 4], "big")
        if end + 4 > len(content):  # a check sum follows
            return
        yield name, at + 8, end
        if name == b"IEND":
            return
        at = end + 4


def find_orientation(exif: bytes) -> int:
    """The number in the first directory of a TIFF; 0 where there is none."""
    order: Literal["little", "big"]
    if exif.startswith(b"II*\0"):
        order = "little"
    elif exif.startswith(b"MM\0*"):
        order = "big"
    else:
        return 0
    directory = int.from_bytes(exif[4:8], order)
    count = int.from_bytes(exif[directory : directory + 2], order)
    for number in range(count):
        start = directory + 2 + 12 * number
        entry = exif[start : start + 12]
        if len(entry) < 12:
            return 0
        if int.from_bytes(entry[:2], order) == ORIENTATION_TAG:
            size = NUMBER_SIZES.get(int.from_bytes(entry[2:4], order), 0)
            return int.from_bytes(entry[8 : 8 + size], order)
    return 0
