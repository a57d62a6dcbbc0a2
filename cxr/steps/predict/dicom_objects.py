"""What all DICOM objects that are made of an image share: what they refer to, who made them, how
they are written.

They belong to the study of the image, in a series of their own, and are marked as research output
that nobody has verified. An image whose header does not name it gets none.
"""

from __future__ import annotations

import io
import re
import uuid
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import UID, generate_uid

import cxr
from cxr.images.gray import Window
from cxr.images.header import read_code, read_number, read_values
from cxr.images.printable import describe_error
from cxr.inference.results import Result
from cxr.system.disk import atomic
from cxr.system.errors import InputError

MAKER = "Chest X-ray competition systems"
NOT_FOR_DIAGNOSIS = "Research output, not for diagnosis"
NOT_FRONTAL = "The header says that this is no frontal chest X-ray"
SCHEME = "99CXR"  # our own codes, for what no public list that we can check has a code for
# One identity for all objects, as PS3.5 B.2 allows.
DEVICE = UID(f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, MAKER).int}")
# From the code lists of pydicom, which are those of DICOM PS3.16.
FINDINGS = {
    "lung opacity": codes.DCM.Opacity,
    "fibrosis": codes.SCT.Fibrosis,
    "effusion": codes.SCT.PleuralEffusion,
    "nodule": codes.SCT.Nodule,
    "mass": codes.SCT.Mass,
    "pneumothorax": codes.SCT.Pneumothorax,
    "lung": codes.SCT.Lung,
}
NAMED_BY = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
# May be empty, but must be there (type 2).
CARRIED_OVER = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)
ORIENTATION = re.compile(r"[ALPRHF]{1,3}")  # directions of a patient (PS3.3 C.7.6.1.1.1)
CHEST = "CHEST"  # of BodyPartExamined
LOSSY = "01"  # of LossyImageCompression
LONGEST_MODEL = 64  # letters of ManufacturerModelName and of a code's meaning (VR LO)
LONGEST_CODE = 16  # letters of a code value (VR SH)


@dataclass(frozen=True)
class SourceImage:
    """A DICOM image of which objects are made.

    header: all that the file says but its pixels, with whatever is wrong in it. evidence: the part
    that objects refer to and take over, checked.
    """

    header: pydicom.Dataset
    evidence: pydicom.Dataset

    def reference(self) -> pydicom.Dataset:
        """An item of a sequence that names the image."""
        item = pydicom.Dataset()
        item.ReferencedSOPClassUID = self.evidence.SOPClassUID
        item.ReferencedSOPInstanceUID = self.evidence.SOPInstanceUID
        return item


@dataclass(frozen=True)
class Statement:
    """What a run says of an image.

    run: its name. full_range: the window that shows all values of an image of more than 8 bits, for
    one whose header has none.
    """

    result: Result
    run: str
    full_range: Window | None = None

    @property
    def comment(self) -> str:
        """What must be read with every object: no diagnosis, and perhaps no frontal chest X-ray."""
        if not self.result.not_frontal_chest:
            return NOT_FOR_DIAGNOSIS
        return f"{NOT_FOR_DIAGNOSIS}. {NOT_FRONTAL}: {self.result.not_frontal_chest}"

    def identity(self, series_number: int) -> dict[str, Any]:
        """UIDs, series and device of a new object, as highdicom's classes take them."""
        return {
            "series_instance_uid": generate_uid(prefix=None),
            "series_number": series_number,
            "series_description": NOT_FOR_DIAGNOSIS,
            "sop_instance_uid": generate_uid(prefix=None),
            "instance_number": 1,
            "manufacturer": MAKER,
            "manufacturer_model_name": self.run[:LONGEST_MODEL],
            "software_versions": cxr.__version__,
            "device_serial_number": str(DEVICE),
            "content_qualification": "RESEARCH",
        }


# Makes the object of an image; a dataset of pydicom.
Builder = Callable[[SourceImage, Statement], Any]


def read_source(content: bytes) -> SourceImage:
    """The image of a file's bytes. InputError where it cannot be named."""
    # From bytes: from a file pydicom makes room for any length that an element states.
    header = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True, force=True)
    return SourceImage(header, select_evidence(header))


def select_evidence(header: pydicom.Dataset) -> pydicom.Dataset:
    """The part of the image's header that objects refer to and take over."""
    evidence = pydicom.Dataset()
    for name in NAMED_BY:
        value = header.get(name)
        if not value or not UID(value).is_valid:
            problem = f"no valid UID ({value})" if value else "missing"
            raise InputError(f"its {name} is {problem}, and every object must name its image")
        setattr(evidence, name, value)
    for name in CARRIED_OVER:
        setattr(evidence, name, header.get(name) or "")
    if "SpecificCharacterSet" in header:
        evidence.SpecificCharacterSet = header.SpecificCharacterSet
    # What follows is left out where it is wrong: nothing is named by it.
    frame = header.get("FrameOfReferenceUID")
    if frame and UID(str(frame)).is_valid:
        evidence.FrameOfReferenceUID = frame
    # Once lost, details do not come back, and whatever is made of the image must say so.
    if read_code(header, "LossyImageCompression") == LOSSY:
        evidence.LossyImageCompression = LOSSY
        ratio = read_number(header, "LossyImageCompressionRatio")
        if ratio is not None and ratio > 0:
            evidence.LossyImageCompressionRatio = f"{ratio:.8g}"
        method = read_code(header, "LossyImageCompressionMethod")
        if method:
            evidence.LossyImageCompressionMethod = method
    return evidence


def read_orientation(header: pydicom.Dataset) -> list[str]:
    """Directions of the rows and columns of the image, such as ["L", "F"]; [] if not stated."""
    directions = [str(value).strip() for value in read_values(header, "PatientOrientation")]
    if len(directions) == 2 and all(ORIENTATION.fullmatch(value) for value in directions):
        return directions
    return []


def name_body_part(made: pydicom.Dataset, image: SourceImage) -> None:
    """Take over that it is a chest, which has no side; else the side is not known."""
    body_part = read_code(image.header, "BodyPartExamined")
    if body_part == CHEST:
        made.BodyPartExamined = body_part
    else:
        made.Laterality = ""


def write_object(path: Path, source: Path, what: str, build: Builder, statement: Statement) -> None:
    """Write at `path` the object that `build` makes of the DICOM file `source`.

    what: the object in words.
    Raises InputError, saying why, where the image lacks what the object needs.
    """
    try:
        file_content = source.read_bytes()
    except OSError as error:
        raise InputError(f"{source}: no {what}, since {error.strerror}") from None
    try:
        with warnings.catch_warnings():
            # Values that pydicom finds odd are carried over, or refused below.
            warnings.simplefilter("ignore")
            content = io.BytesIO()
            build(read_source(file_content), statement).save_as(content)
    except InputError as error:
        raise InputError(f"{source}: no {what}, since {error}") from None
    except Exception as error:  # pydicom and highdicom raise anything at all on odd values
        raise InputError(
            f"{source}: no {what}, since values of the header do not allow one "
            f"({describe_error(error)})"
        ) from None
    with atomic(path) as temporary:
        temporary.write_bytes(content.getvalue())


def finding_code(finding: str) -> Code:
    """The code of a finding: a public one where we know it, else our own."""
    return FINDINGS.get(finding.lower()) or own_code(finding)


def own_code(meaning: str) -> Code:
    """A code of our own scheme: the last letters of its meaning, as many as a code may have."""
    letters = "".join(filter(str.isalnum, meaning)).upper()
    return Code(letters[-LONGEST_CODE:], SCHEME, meaning[:LONGEST_MODEL])


def box_outline(box: Mapping[str, Any]) -> np.ndarray:
    """Corners (5, 2) of a box in original pixels, the first again at the end."""
    left_top = (box["x1"], box["y1"])
    right_top = (box["x2"], box["y1"])
    right_bottom = (box["x2"], box["y2"])
    left_bottom = (box["x1"], box["y2"])
    return np.array([left_top, right_top, right_bottom, left_bottom, left_top])
