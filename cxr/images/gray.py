"""Values to 8 bits of gray: the rules of DICOM (PS3.3 C.11), and what is done without any."""

from __future__ import annotations

import cv2
import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi

from cxr.images.header import first_number
from cxr.system.errors import InputError

CHANGES_GRAY = (
    "ModalityLUTSequence",
    "RescaleSlope",
    "RescaleIntercept",
    "VOILUTSequence",
    "WindowCenter",
    "PresentationLUTShape",
)  # tags that may make the picture differ from what is stored


def is_colour(dataset: Dataset) -> bool:
    samples = int(dataset.get("SamplesPerPixel") or 1)
    return samples > 1 or dataset.get("PhotometricInterpretation") == "PALETTE COLOR"


def gray_from_colour(stored: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Colour pixels (height, width, 3), or indices of a palette (height, width), to uint8 luma."""
    bits = dataset.BitsStored
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        stored = apply_color_lut(stored, dataset)
        bits = 8 * stored.dtype.itemsize
    if stored.ndim != 3 or stored.shape[2] != 3:
        raise InputError(f"has pixels of shape {stored.shape}, and colour means three samples")
    return cv2.cvtColor(to_uint8(stored, 0, 2**bits - 1), cv2.COLOR_RGB2GRAY)


def gray_from_monochrome(stored: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Stored values (height, width) to uint8.

    In this order: modality LUT, VOI LUT or window, 8 bits, inversion, padding to black.

    Without a VOI LUT or window, 8 stored bits pass unchanged; other depths map their own minimum
    ... maximum to 0 ... 255, because few files use all of their bits (12 used bits in 16 stored
    ones would be a black picture). The VOI LUT is preferred to the window, the first of several is
    taken (DICOM PS3.3 C.11.2), and one that leaves a single gray of a picture that has several is
    ignored. Inverted once where the photometric interpretation or the presentation LUT asks for
    it. Padding is left out of the minimum and maximum.
    """
    if stored.ndim != 2:
        raise InputError(f"has pixels of shape {stored.shape}, and a gray X-ray has two dimensions")
    if _is_plain(stored, dataset):
        return stored
    if not np.isfinite(stored).all():
        raise InputError("has pixel values that are not numbers")

    padding = padding_mask(stored, dataset)
    values = apply_modality_lut(stored, dataset)
    image = _apply_voi_or_window(values, dataset)
    if image is None or (np.ptp(image) == 0 and np.ptp(stored) > 0):
        low, high = _full_range(values, padding, dataset)
        image = to_uint8(values, low, high)

    if is_inverse(dataset):
        image = 255 - image
    if padding.any():
        image = np.where(padding, np.uint8(0), image)
    return image


def is_inverse(dataset: Dataset) -> bool:
    """Whether small values are bright."""
    photometric = dataset.PhotometricInterpretation
    return photometric == "MONOCHROME1" or dataset.get("PresentationLUTShape") == "INVERSE"


def _is_plain(stored: np.ndarray, dataset: Dataset) -> bool:
    """Whether `gray_from_monochrome` would change nothing, as in the files of most public sets."""
    if stored.dtype != np.uint8 or dataset.get("BitsStored") != 8:
        return False
    if dataset.PhotometricInterpretation != "MONOCHROME2":
        return False
    return not any(name in dataset for name in CHANGES_GRAY)


def _apply_voi_or_window(values: np.ndarray, dataset: Dataset) -> np.ndarray | None:
    """uint8 picture; None where the file has neither (or an impossible width)."""
    if dataset.get("VOILUTSequence"):
        entries, first, _ = dataset.VOILUTSequence[0].LUTDescriptor
        # The range is that of the table's own entries: many files state 16 bits for a table of 12.
        table = apply_voi(np.arange(first, first + (entries or 2**16)), dataset)
        return to_uint8(apply_voi(values, dataset), table.min(), table.max())

    centre = first_number(dataset.get("WindowCenter"))
    width = first_number(dataset.get("WindowWidth"))
    function = dataset.get("VOILUTFunction") or "LINEAR"
    smallest_width = 1 if function == "LINEAR" else 1e-9
    if centre is None or width is None or width < smallest_width:
        return None
    return np.rint(255 * window(values, centre, width, function)).astype(np.uint8)


def window(values: np.ndarray, centre: float, width: float, function: str = "LINEAR") -> np.ndarray:
    """Values to 0 ... 1 by the VOI LUT functions of DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3."""
    values = np.asarray(values, np.float64)
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -50, 50)))
    if function == "LINEAR_EXACT":
        return np.clip((values - centre) / width + 0.5, 0, 1)
    if width == 1:
        return (values > centre - 0.5).astype(np.float64)
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)


def _full_range(values: np.ndarray, padding: np.ndarray, dataset: Dataset) -> tuple[float, float]:
    """The values that become 0 and 255 where nothing in the file says so."""
    eight_bits = dataset.get("BitsStored") == 8 and dataset.get("PixelRepresentation") == 0
    if eight_bits and "ModalityLUTSequence" not in dataset:
        ends = apply_modality_lut(np.array([0, 255], np.uint8), dataset)
        return ends.min(), ends.max()
    image_values = values[~padding]
    if image_values.size == 0:
        return 0, 1
    return image_values.min(), image_values.max()


def padding_mask(stored: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Mask (height, width) of the pixels that are no image (PS3.3 C.7.5.1.1.2).

    None of them in 8 bits: there the value is also a true gray.
    """
    value = dataset.get("PixelPaddingValue")
    limit = dataset.get("PixelPaddingRangeLimit")
    if value is None or dataset.get("BitsStored") == 8:
        return np.zeros(stored.shape, bool)
    if limit is None:
        limit = value
    return (stored >= min(value, limit)) & (stored <= max(value, limit))


def to_uint8(values: np.ndarray, low: float | None = None, high: float | None = None) -> np.ndarray:
    """Map low ... high (default: minimum ... maximum) linearly to 0 ... 255, clipped.

    A constant image gives 0.
    """
    low = float(values.min() if low is None else low)
    high = float(values.max() if high is None else high)
    if values.dtype == np.uint8 and (low, high) == (0, 255):
        return values
    scale = 255 / (high - low) if high > low else 0.0
    return np.rint(np.clip((values.astype(np.float64) - low) * scale, 0, 255)).astype(np.uint8)
