"""What is known of an X-ray beside its pixels, and careful reading of what a DICOM header says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydicom.multival import MultiValue

from cxr.system.errors import InputError

# The largest X-ray detectors have 20 million; a header with more is a mistake or a trap.
MOST_PIXELS = 50_000_000
YEARS_PER_UNIT = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0, "": 1.0}


@dataclass(frozen=True)
class Header:
    """Facts of the original file.

    width, height: original pixels. age: years as the file states it; ages above 100 occur in real
    data (typing errors such as 148) and are kept, the reader of the table decides.
    sex: M, F or "". view: AP, PA or "".
    """

    width: int
    height: int
    age: float | None = None
    sex: str = ""
    view: str = ""


def refuse_huge(width: int, height: int) -> None:
    """InputError where an image states a size that no X-ray has, before it is unpacked."""
    if width * height > MOST_PIXELS:
        millions = MOST_PIXELS // 10**6
        raise InputError(
            f"states {width} x {height} pixels, and more than {millions} million are not read"
        )


def parse_age(text: object) -> float | None:
    """Years from a DICOM age string ('058Y', '6M', '12W', '100D') or a bare number.

    None for anything else.
    """
    match = re.fullmatch(r"(\d{1,3})([DWMY]?)", str(text or "").strip().upper())
    if match is None:
        return None
    return int(match[1]) * YEARS_PER_UNIT[match[2]]


def one_of(text: object, allowed: Sequence[str]) -> str:
    """The text in capitals where it is one of the allowed ones, else ""."""
    capitals = str(text or "").strip().upper()
    return capitals if capitals in allowed else ""


def first_number(value: Any) -> float | None:
    """The first of one or several numbers of a DICOM element, None where it is empty."""
    if isinstance(value, MultiValue) and len(value):
        value = value[0]
    if value is None or str(value).strip() in ("", "[]"):
        return None
    return float(value)
