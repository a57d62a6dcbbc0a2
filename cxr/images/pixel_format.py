"""How the pixels of a DICOM are stored, by its header."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from cxr.images.header import read_code, read_integer, refuse_huge
from cxr.system.errors import InputError

GRAY = ("MONOCHROME1", "MONOCHROME2")
THREE_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
PALETTE = "PALETTE COLOR"


@dataclass(frozen=True)
class PixelFormat:
    """Size and depth of the one frame of a DICOM."""

    rows: int
    columns: int
    samples: int  # of a pixel: 1 gray or palette, 3 colour
    bits_allocated: int
    bits_stored: int
    high_bit: int  # the highest of the stored ones, from 0
    signed: bool
    photometric: str
    little_endian: bool
    planar: bool = False  # all red samples first, then all green, all blue

    @property
    def is_colour(self) -> bool:
        return self.photometric not in GRAY

    @property
    def shape(self) -> tuple[int, ...]:
        if self.samples == 1:
            return self.rows, self.columns
        return self.rows, self.columns, self.samples

    def as_options(self) -> dict[str, Any]:
        """As pydicom's decoders take it; cells are decoded whole, see `used_bits`."""
        options: dict[str, Any] = {
            "rows": self.rows,
            "columns": self.columns,
            "samples_per_pixel": self.samples,
            "bits_allocated": self.bits_allocated,
            "bits_stored": self.bits_stored,
            "pixel_representation": int(self.signed),
            "photometric_interpretation": self.photometric,
            "number_of_frames": 1,
            "pixel_keyword": "PixelData",
            "correct_unused_bits": False,
        }
        if self.samples > 1:
            options["planar_configuration"] = int(self.planar)
        return options

    def to_stored(self, value: float) -> int:
        """A value of the header in the pixels' own sign, whatever it was written as."""
        number = int(value)
        size = 1 << self.bits_allocated
        if self.signed:
            return (number + size // 2) % size - size // 2
        return number % size

    def used_bits(self, cells: np.ndarray) -> np.ndarray:
        """Stored values in cells of `bits_allocated`, without what is in the other bits.

        Old files keep an overlay in the bits above; some have the values in the upper bits.
        """
        above = self.bits_allocated - 1 - self.high_bit
        unused = self.bits_allocated - self.bits_stored
        if unused == 0:
            return cells
        return (cells << above) >> unused


def read_pixel_format(dataset: Dataset, little_endian: bool) -> PixelFormat:
    """Raises InputError where what the header says cannot be one picture."""
    frames = read_integer(dataset, "NumberOfFrames") or 1
    if frames > 1:
        raise InputError(f"holds {frames} frames, and an X-ray has one")
    rows = read_integer(dataset, "Rows") or 0
    columns = read_integer(dataset, "Columns") or 0
    if rows <= 0 or columns <= 0:
        raise InputError("states no image size")
    refuse_huge(columns, rows)

    photometric = read_photometric(dataset)
    samples = read_integer(dataset, "SamplesPerPixel")
    usual_samples = 3 if photometric in THREE_COLOURS else 1
    if samples is None:
        samples = usual_samples
    if samples != usual_samples:
        raise InputError(
            f"states {samples} as its samples per pixel, and {photometric} has {usual_samples}"
        )

    allocated = read_integer(dataset, "BitsAllocated")
    if allocated is None:
        raise InputError("does not state how many bits a pixel has")
    stored = read_integer(dataset, "BitsStored")
    if stored is None:
        stored = allocated
    if not 0 < stored <= allocated <= 64:
        raise InputError(f"states {stored} stored bits of {allocated}")
    high_bit = read_integer(dataset, "HighBit")
    if high_bit is None or not stored - 1 <= high_bit < allocated:
        high_bit = stored - 1
    return PixelFormat(
        rows,
        columns,
        samples,
        allocated,
        stored,
        high_bit,
        signed=read_integer(dataset, "PixelRepresentation") == 1,
        photometric=photometric,
        little_endian=little_endian,
        planar=read_integer(dataset, "PlanarConfiguration") == 1,
    )


def read_photometric(dataset: Dataset) -> str:
    """Photometric Interpretation in the standard's spelling."""
    photometric = read_code(dataset, "PhotometricInterpretation")
    if not photometric:
        raise InputError("does not say how its pixels are meant (MONOCHROME1 or MONOCHROME2)")
    if photometric.replace(" ", "") in GRAY:
        return photometric.replace(" ", "")
    if photometric not in (*THREE_COLOURS, PALETTE):
        raise InputError(f"has pixels of the unknown kind {photometric}")
    return photometric
