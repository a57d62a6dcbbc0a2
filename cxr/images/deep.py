"""The values behind a picture of more than 8 bits, for a viewer where a person sets the window."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cxr.images.dicom import decode, open_dicom
from cxr.images.gray import Window, by_level, is_single, read_gray_rules
from cxr.images.picture_file import PICTURE_STARTS
from cxr.images.resize import shrink

LEVELS = 2**16 - 1


@dataclass(frozen=True)
class Deep:
    """Values after the modality LUT: low + step * stored.

    centre and width, in those values, are the file's window or all of them.
    """

    stored: np.ndarray  # (height, width) uint16
    low: float
    step: float
    centre: float
    width: float
    inverse: bool  # small values are bright


def read_deep(path: str | Path, longest: int) -> Deep | None:
    """The values of a DICOM with more than 8 stored bits of gray, None for all other files.

    At most `longest` pixels wide and high. The file is one that `read_image` has read.
    """
    content = Path(path).read_bytes()
    if content.startswith(PICTURE_STARTS):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as in read_image
        dicom = open_dicom(content)
        if dicom.pixels.is_colour or dicom.pixels.bits_stored <= 8:
            return None
        pixels = decode(dicom)
    if pixels.format.bits_stored <= 8:
        return None
    rules = read_gray_rules(dicom.dataset, pixels.format)
    padding = rules.is_padding(pixels.values)
    values = by_level(
        pixels.values, lambda levels, _: rules.apply_modality(levels).astype(np.float32)
    )
    image_values = values if padding.all() else values[~padding]
    low = float(image_values.min())
    high = float(image_values.max())
    step = (high - low) / LEVELS or 1.0

    # Padding is black, whichever end that is.
    black = high if rules.inverse else low
    values = shrink(np.where(padding, np.float32(black), values), longest)
    stored = np.rint((values - low) / step).clip(0, LEVELS).astype(np.uint16)
    window = rules.window
    if window is None or is_single(window.apply(np.array([low, high]))):
        window = Window((low + high) / 2, (high - low) or 1.0)
    return Deep(stored, low, step, window.centre, window.width, rules.inverse)
