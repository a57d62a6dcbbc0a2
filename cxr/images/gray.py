"""Values to 8 bits of gray: the rules of DICOM (PS3.3 C.11), and what is done without any."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from pydicom.dataset import Dataset

from cxr.images.header import read_code, read_items, read_number
from cxr.images.lookup_table import MOST_ENTRIES, LookupTable, read_lookup_table
from cxr.images.pixel_format import PixelFormat
from cxr.system.errors import InputError

ROWS_AT_ONCE = 256  # an index of 8 bytes a pixel is never made for a whole picture


@dataclass(frozen=True)
class Rescale:
    """Stored values to those of the modality, such as Hounsfield units (PS3.3 C.11.1)."""

    slope: float = 1.0
    intercept: float = 0.0

    def apply(self, stored: np.ndarray) -> np.ndarray:
        """As float64, or unchanged where nothing is to be done."""
        if self.slope == 1 and self.intercept == 0:
            return stored
        return stored.astype(np.float64) * self.slope + self.intercept


@dataclass(frozen=True)
class Window:
    """The values that are shown between black and white, by a function of PS3.3 C.11.2.1."""

    centre: float
    width: float
    function: str = "LINEAR"

    def apply(self, values: np.ndarray) -> np.ndarray:
        """uint8 of the same shape."""
        shares = window(values, self.centre, self.width, self.function)
        return np.rint(255 * shares).astype(np.uint8)


@dataclass(frozen=True)
class GrayRules:
    """What a header says about how its stored values are to be seen."""

    modality: Rescale | LookupTable
    voi: LookupTable | None
    window: Window | None
    inverse: bool  # small values are bright
    padding: tuple[int, int] | None  # stored values from ... to are no image
    eight_bits: bool  # unsigned values of 8 bits, whose range is known
    signed: bool

    @property
    def changes_nothing(self) -> bool:
        """Whether stored values of 8 bits are the picture, as in most public sets."""
        if not self.eight_bits or self.inverse or self.voi or self.window:
            return False
        return self.modality == Rescale()

    def apply_modality(self, stored: np.ndarray) -> np.ndarray:
        if isinstance(self.modality, LookupTable):
            return self.modality.with_sign_of(stored, self.signed).apply(stored)
        return self.modality.apply(stored)

    def apply_voi(self, values: np.ndarray) -> np.ndarray | None:
        """uint8 picture of values of the modality; None where the file has no table or window."""
        if self.voi is not None:
            signed = self.signed and isinstance(self.modality, Rescale)
            table = self.voi.with_sign_of(values, signed)
            # The range is that of the table's own entries: many files state 16 bits for 12.
            return to_uint8(table.apply(values), table.entries.min(), table.entries.max())
        if self.window is not None:
            return self.window.apply(values)
        return None

    def is_padding(self, stored: np.ndarray) -> np.ndarray:
        """Mask of the pixels that are no image (PS3.3 C.7.5.1.1.2)."""
        if self.padding is None:
            return np.zeros(stored.shape, bool)
        low, high = self.padding
        return (stored >= low) & (stored <= high)


def read_gray_rules(dataset: Dataset, pixels: PixelFormat) -> GrayRules:
    photometric = pixels.photometric
    shape = read_code(dataset, "PresentationLUTShape")
    return GrayRules(
        modality=read_modality(dataset, pixels),
        voi=read_first_table(dataset, "VOILUTSequence", pixels),
        window=read_window(dataset),
        inverse=photometric == "MONOCHROME1" or shape == "INVERSE",
        padding=read_padding(dataset, pixels),
        eight_bits=pixels.bits_stored == 8 and not pixels.signed,
        signed=pixels.signed,
    )


def read_modality(dataset: Dataset, pixels: PixelFormat) -> Rescale | LookupTable:
    """The table where there is one, else slope and intercept where both are usable."""
    table = read_first_table(dataset, "ModalityLUTSequence", pixels)
    if table is not None:
        return table
    slope = read_number(dataset, "RescaleSlope")
    intercept = read_number(dataset, "RescaleIntercept")
    if not slope or intercept is None:  # a slope of 0 would leave one gray
        return Rescale()
    return Rescale(slope, intercept)


def read_first_table(dataset: Dataset, keyword: str, pixels: PixelFormat) -> LookupTable | None:
    """The first table of a sequence; items without one are passed over."""
    for item in read_items(dataset, keyword):
        table = read_lookup_table(item, pixels.little_endian)
        if table is not None:
            return table
    return None


def read_window(dataset: Dataset) -> Window | None:
    """The first window; None where there is none or its width is impossible."""
    centre = read_number(dataset, "WindowCenter")
    width = read_number(dataset, "WindowWidth")
    function = read_code(dataset, "VOILUTFunction")
    if function not in ("LINEAR_EXACT", "SIGMOID"):
        function = "LINEAR"
    smallest_width = 1 if function == "LINEAR" else 1e-9
    if centre is None or width is None or width < smallest_width:
        return None
    return Window(centre, width, function)


def read_padding(dataset: Dataset, pixels: PixelFormat) -> tuple[int, int] | None:
    """Stored values from ... to that are no image.

    None in 8 bits: there the value is also a true gray.
    """
    value = read_number(dataset, "PixelPaddingValue")
    if value is None or pixels.bits_stored == 8:
        return None
    limit = read_number(dataset, "PixelPaddingRangeLimit")
    ends = [pixels.to_stored(value)]
    if limit is not None:
        ends.append(pixels.to_stored(limit))
    return min(ends), max(ends)


def gray_from_colour(stored: np.ndarray, pixels: PixelFormat) -> np.ndarray:
    """RGB (height, width, 3) to uint8 luma."""
    if stored.ndim != 3 or stored.shape[2] != 3:
        raise InputError(f"has pixels of shape {stored.shape}, and colour means three samples")
    highest = 2**pixels.bits_stored - 1
    colours = by_level(stored, lambda values, _: to_uint8(values, 0, highest))
    return cv2.cvtColor(colours, cv2.COLOR_RGB2GRAY)


def gray_from_palette(stored: np.ndarray, dataset: Dataset, pixels: PixelFormat) -> np.ndarray:
    """Indices (height, width) of the colours of a palette (PS3.3 C.7.6.3.1.5) to uint8 luma."""
    channels = []
    for colour in ("Red", "Green", "Blue"):
        name = f"{colour}PaletteColorLookupTable"
        table = read_lookup_table(
            dataset, pixels.little_endian, descriptor=f"{name}Descriptor", data=f"{name}Data"
        )
        if table is None:
            raise InputError("has a palette without plain tables of its colours")
        channels.append(table)

    def to_gray(values: np.ndarray, _: np.ndarray) -> np.ndarray:
        colours = np.stack([shade_of(table, values) for table in channels], axis=-1)
        flat = cv2.cvtColor(colours.reshape(1, -1, 3), cv2.COLOR_RGB2GRAY)
        return flat.reshape(values.shape)

    return by_level(stored, to_gray)


def shade_of(table: LookupTable, values: np.ndarray) -> np.ndarray:
    """uint8 of one colour; a palette has 8 or 16 bits."""
    is_byte = table.bits <= 8 and table.entries.max() < 256
    return to_uint8(table.apply(values), 0, 255 if is_byte else 65535)


def gray_from_monochrome(stored: np.ndarray, rules: GrayRules) -> np.ndarray:
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
    if stored.dtype == np.uint8 and rules.changes_nothing:
        return stored
    return by_level(stored, lambda levels, present: shade(levels, present, rules))


def shade(stored: np.ndarray, present: np.ndarray, rules: GrayRules) -> np.ndarray:
    """Stored values to uint8 of the same shape; only those that are `present` count."""
    padding = rules.is_padding(stored)
    values = rules.apply_modality(stored)
    if not np.isfinite(values).all():
        raise InputError("has pixel values that are not numbers")
    image = rules.apply_voi(values)
    if image is None or (is_single(image[present]) and not is_single(stored[present])):
        low, high = full_range(values[present & ~padding], rules)
        image = to_uint8(values, low, high)
    if rules.inverse:
        image = 255 - image
    return np.where(padding, np.uint8(0), image)


def is_single(values: np.ndarray) -> bool:
    return values.min() == values.max()


def full_range(values: np.ndarray, rules: GrayRules) -> tuple[float, float]:
    """The values that become 0 and 255 where nothing in the file says so."""
    if rules.eight_bits and isinstance(rules.modality, Rescale):
        values = rules.modality.apply(np.array([0, 255]))
    if values.size == 0:
        return 0, 1
    return float(values.min()), float(values.max())


def by_level(
    stored: np.ndarray, function: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> np.ndarray:
    """A function of single pixels, done once for each value that occurs.

    function(values, present) gives an array of the values' shape; the values may hold some that do
    not occur, for which `present` is False. An X-ray of 20 million pixels has at most 65536
    values, so this takes a tenth of the time and memory.
    """
    first = stored.min()
    count = int(stored.max()) - int(first) + 1 if stored.dtype.kind in "iub" else 0
    if not 0 < count <= MOST_ENTRIES or count > stored.size:
        return function(stored, np.ones(stored.shape, bool))
    levels = np.arange(int(first), int(first) + count)
    present = np.zeros(count, bool)
    for start in range(0, len(stored), ROWS_AT_ONCE):
        present[stored[start : start + ROWS_AT_ONCE].astype(np.int64) - int(first)] = True
    table = function(levels, present)
    result = np.empty(stored.shape, table.dtype)
    for start in range(0, len(stored), ROWS_AT_ONCE):
        index = stored[start : start + ROWS_AT_ONCE].astype(np.int64) - int(first)
        result[start : start + ROWS_AT_ONCE] = table[index]
    return result


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


def to_uint8(values: np.ndarray, low: float | None = None, high: float | None = None) -> np.ndarray:
    """Map low ... high (default: minimum ... maximum) linearly to 0 ... 255, clipped.

    A constant image gives 0.
    """
    if low is None:
        low = values.min()
    if high is None:
        high = values.max()
    low = float(low)
    high = float(high)
    if values.dtype == np.uint8 and (low, high) == (0, 255):
        return values
    scale = 255 / (high - low) if high > low else 0.0
    shown = np.clip((values.astype(np.float64) - low) * scale, 0, 255)
    return np.rint(shown).astype(np.uint8)
