"""PNG and JPEG files to 8 bits of gray, upright."""

from __future__ import annotations

import io

import cv2
import numpy as np
from PIL import Image

from cxr.images.exif import PNG_START, read_orientation
from cxr.images.gray import by_level, to_uint8
from cxr.images.header import refuse_huge

JPEG_START = b"\xff\xd8\xff"
PICTURE_STARTS = (PNG_START, JPEG_START)
FORMATS = ("PNG", "JPEG", "MPO")  # the last is a JPEG with further ones behind it
DEPTH_AT = 24  # the byte of a PNG that says how many bits a sample has
RED, GREEN, BLUE = 19595, 38470, 7471  # shares of 65536, ITU-R 601 as in Pillow


def read_picture_file(content: bytes) -> np.ndarray:
    """(height, width) uint8, whatever the file's colours and depth. Raises anything."""
    with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
        refuse_huge(*picture.size)
        if content.startswith(PNG_START) and content[DEPTH_AT] == 16:
            picture.load()  # refuses what is cut off, which OpenCV fills up
            image = read_deep_png(content)
        else:  # palette, alpha and colour become gray
            image = np.asarray(picture.convert("L"))
    return turn_upright(image, read_orientation(content))


def read_deep_png(content: bytes) -> np.ndarray:
    """A PNG of 16 bits by its own minimum ... maximum; Pillow reads its colours in 8 bits."""
    samples = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if samples is None:
        raise ValueError("OpenCV does not read it")
    if samples.ndim == 3:
        samples = to_luma(samples)
    return by_level(samples, stretch)


def stretch(values: np.ndarray, present: np.ndarray) -> np.ndarray:
    """The values that are present map to 0 ... 255."""
    counted = values[present]
    return to_uint8(values, counted.min(), counted.max())


def to_luma(samples: np.ndarray) -> np.ndarray:
    """(height, width, 3 or 4) uint16 in the order blue, green, red, alpha to (height, width)."""
    luma = samples[..., 0].astype(np.uint32) * BLUE
    luma += samples[..., 1].astype(np.uint32) * GREEN
    luma += samples[..., 2].astype(np.uint32) * RED
    luma += 2**15  # rounds; the sum stays below 2**32
    return (luma >> 16).astype(np.uint16)


def turn_upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """The picture as it is meant to be looked at, by the eight orientations of EXIF."""
    if orientation in (5, 6, 7, 8):  # the file's rows are columns
        image = image.T
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)
