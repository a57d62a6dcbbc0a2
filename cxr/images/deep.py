"""The values behind a picture of more than 8 bits, for a viewer that lets a person choose the window."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from pydicom.pixels import apply_modality_lut

from cxr.images.read import PICTURE_STARTS, first_number, is_colour, open_dicom, padding_mask

LEVELS = 2**16 - 1


@dataclass(frozen=True)
class Deep:
    """Values after the modality LUT: low + step * stored. centre and width are the file's window or all of them."""

    stored: np.ndarray  # (height, width) uint16
    low: float
    step: float
    centre: float
    width: float
    inverse: bool  # small values are bright


def read_deep(path, longest):
    """Deep of a DICOM with more than 8 stored bits of gray, at most `longest` pixels wide and high; None for all other
    files. The file is one that `read_image` has read."""
    content = Path(path).read_bytes()
    if content.startswith(PICTURE_STARTS):
        return None
    dataset = open_dicom(content)
    if is_colour(dataset) or (dataset.get("BitsStored") or LEVELS) <= 8:
        return None
    stored = dataset.pixel_array
    padding, values = (
        padding_mask(stored, dataset),
        apply_modality_lut(stored, dataset).astype(np.float32),
    )
    inverse = dataset.PhotometricInterpretation == "MONOCHROME1"
    real = values[~padding] if not padding.all() else values
    low, high = float(real.min()), float(real.max())
    step = (high - low) / LEVELS or 1.0
    values = shrink(np.where(padding, high if inverse else low, values), longest)
    centre, width = (first_number(dataset.get(name)) for name in ("WindowCenter", "WindowWidth"))
    if centre is None or not width:
        centre, width = (low + high) / 2, (high - low) or 1.0
    return Deep(
        np.rint((values - low) / step).clip(0, LEVELS).astype(np.uint16),
        low,
        step,
        centre,
        width,
        inverse,
    )


def shrink(image, longest):
    """The picture with its longer side at most `longest`, the aspect kept."""
    scale = longest / max(image.shape)
    if scale >= 1:
        return image
    size = [max(1, round(side * scale)) for side in image.shape[::-1]]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)
