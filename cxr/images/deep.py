"""The values behind a picture of more than 8 bits, for a viewer where a person sets the window."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.pixels import apply_modality_lut

from cxr.images.dicom import open_dicom
from cxr.images.gray import is_colour, padding_mask
from cxr.images.header import first_number
from cxr.images.read import PICTURE_STARTS
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
    dataset = open_dicom(content)
    bits_stored = dataset.get("BitsStored") or LEVELS
    if is_colour(dataset) or bits_stored <= 8:
        return None

    pixels = dataset.pixel_array
    padding = padding_mask(pixels, dataset)
    values = apply_modality_lut(pixels, dataset).astype(np.float32)
    image_values = values if padding.all() else values[~padding]
    low = float(image_values.min())
    high = float(image_values.max())
    step = (high - low) / LEVELS or 1.0

    # Padding is black, whichever end that is.
    inverse = dataset.PhotometricInterpretation == "MONOCHROME1"
    black = high if inverse else low
    values = shrink(np.where(padding, black, values), longest)
    stored = np.rint((values - low) / step).clip(0, LEVELS).astype(np.uint16)

    centre = first_number(dataset.get("WindowCenter"))
    width = first_number(dataset.get("WindowWidth"))
    if centre is None or not width:
        centre = (low + high) / 2
        width = (high - low) or 1.0
    return Deep(stored, low, step, centre, width, inverse)
