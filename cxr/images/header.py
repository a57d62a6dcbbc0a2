"""What is known of an X-ray beside its pixels, and careful reading of what a DICOM header says.

Real headers hold numbers that are none: empty, words, NaN, a comma in place of the point. The
functions here read every element that the program uses, and never raise.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import Tag

from cxr.images.printable import printable
from cxr.system.errors import InputError

# The largest X-ray detectors have 20 million; a header with more is a mistake or a trap.
MOST_PIXELS = 50_000_000
YEARS_PER_UNIT = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0, "": 1.0}
LONGEST_CODE = 16  # characters of a code string (PS3.5, table 6.2-1)
TEXT_VRS = ("AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UI")
X_RAYS = ("CR", "DX", "RG", "DR")  # modalities of single X-rays
# The last ones stand in the SIIM COVID-19 data, the question mark for a letter that was lost.
CHEST_WORDS = ("CHEST", "THORAX", "TORAX", "LUNG", "PECHO", "T?RAX", "TÓRAX", "TÒRAX")
# Views from the side and from half the side (PS3.3 C.8.1.3), as the standard and others call them.
SIDE_VIEWS = ("LL", "RL", "LAT", "LLAT", "RLAT", "LLO", "RLO", "OBL")
SIDE_WORDS = ("LATERAL", "OBLIQUE")


@dataclass(frozen=True)
class Header:
    """Facts of the original file.

    width, height: original pixels. age: years as the file states it; ages above 100 occur in real
    data (typing errors such as 148) and are kept, the reader of the table decides. sex: M, F or "".
    view, modality, body_part: the file's own codes in capitals, such as PA, CR, CHEST; "" where it
    has none, as in a PNG.
    """

    width: int
    height: int
    age: float | None = None
    sex: str = ""
    view: str = ""
    modality: str = ""
    body_part: str = ""


def read_facts(dataset: Dataset, width: int, height: int) -> Header:
    """The Header of a DICOM whose picture is width x height pixels."""
    sex = read_code(dataset, "PatientSex")
    return Header(
        width,
        height,
        age=parse_age(read_code(dataset, "PatientAge")),
        sex=sex if sex in ("M", "F") else "",
        view=read_code(dataset, "ViewPosition"),
        modality=read_code(dataset, "Modality"),
        body_part=read_code(dataset, "BodyPartExamined"),
    )


def why_not_frontal_chest(header: Header) -> str:
    """What its header says an image is, where that is no frontal chest X-ray; else "".

    What the header does not say is no reason.
    """
    if header.modality and header.modality not in X_RAYS:
        return f"the modality is {header.modality}, and X-rays are {', '.join(X_RAYS)}"
    if header.body_part and not any(word in header.body_part for word in CHEST_WORDS):
        return f"the body part is {header.body_part}"
    if header.view in SIDE_VIEWS or any(word in header.view for word in SIDE_WORDS):
        return f"the view is {header.view}, which is not frontal"
    return ""


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
    match = re.fullmatch(r"([0-9]{1,3})([DWMY]?)", str(text or "").strip().upper())
    if match is None:
        return None
    return int(match[1]) * YEARS_PER_UNIT[match[2]]


def read_values(dataset: Dataset, keyword: str) -> Sequence[Any]:
    """The values of an element, text as it stands in the file; () where there is none."""
    tag = Tag(keyword)
    try:
        element = dataset.get_item(tag)
        if element is None or element.value is None:
            return ()
        if isinstance(element, RawDataElement):
            vr = element.VR or dictionary_VR(tag)
            if vr in TEXT_VRS and isinstance(element.value, bytes):
                return element.value.decode("latin-1").split("\\")
        value = dataset[tag].value
    except Exception:  # pydicom raises anything at all on damaged bytes
        return ()
    if value is None:
        return ()
    return value if isinstance(value, (MultiValue, list, tuple)) else (value,)


def read_first(dataset: Dataset, keyword: str) -> Any:
    """The first of one or several values, None where there is none."""
    for value in read_values(dataset, keyword):
        return value
    return None


def to_number(value: object) -> float | None:
    """A finite number, None for everything else. A decimal comma is a point."""
    text = str(value).strip(" \0\t\r\n").replace(",", ".")
    try:
        number = float(text)
    except ValueError:
        return None
    if not math.isfinite(number):
        return None
    return number


def to_integer(value: object) -> int | None:
    """A whole number, None for everything else."""
    number = to_number(value)
    if number is None or number != int(number):
        return None
    return int(number)


def read_number(dataset: Dataset, keyword: str) -> float | None:
    """The first of one or several numbers, None where it is absent or no finite number."""
    return to_number(read_first(dataset, keyword))


def read_integer(dataset: Dataset, keyword: str) -> int | None:
    """The first of one or several numbers where it is a whole one, else None."""
    return to_integer(read_first(dataset, keyword))


def read_integers(dataset: Dataset, keyword: str) -> list[int | None]:
    """All numbers of an element, None for those that are absent or no whole numbers."""
    return [to_integer(value) for value in read_values(dataset, keyword)]


def read_code(dataset: Dataset, keyword: str) -> str:
    """The first of one or several texts in capitals, made printable; "" where it is absent."""
    value = read_first(dataset, keyword)
    if not isinstance(value, (str, int, float)):
        return ""
    text = str(value).strip(" \0\t\r\n").upper()
    return printable(text)[:LONGEST_CODE]


def read_items(dataset: Dataset, keyword: str) -> list[Dataset]:
    """The items of a sequence; [] where there is none."""
    for sequence in read_values(dataset, keyword):
        if isinstance(sequence, Sequence) and not isinstance(sequence, (str, bytes)):
            return [item for item in sequence if isinstance(item, Dataset)]
    return []
