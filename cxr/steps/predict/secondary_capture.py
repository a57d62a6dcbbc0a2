"""A DICOM Secondary Capture: the overlay of a DICOM image with what was found burned in."""

from __future__ import annotations

from typing import Any

from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian

from cxr.steps.predict.dicom_objects import SourceImage, Statement, name_body_part, read_orientation

SERIES_NUMBER = 996
LOSSY_ELEMENTS = (
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
)


def build_secondary_capture(image: SourceImage, statement: Statement) -> Any:
    """The picture that step 04 writes to overlays/ in RGB, for viewers that show nothing else."""
    import highdicom  # heavy, and only for those who ask for it

    result = statement.result
    overlay = result.overlay()
    height, width = overlay.shape[:2]
    capture = highdicom.sc.SCImage.from_ref_dataset(
        ref_dataset=image.evidence,
        pixel_array=overlay,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "F"),  # highdicom wants some; that of the image follows
        transfer_syntax_uid=ExplicitVRLittleEndian,
        **statement.identity(SERIES_NUMBER),
    )
    capture.PatientOrientation = read_orientation(image.header)
    name_body_part(capture, image)
    for name in LOSSY_ELEMENTS:
        if name in image.evidence:
            setattr(capture, name, image.evidence[name].value)
    capture.BurnedInAnnotation = "YES"
    capture.ImageComments = statement.comment
    capture.DerivationDescription = (
        f"Shown at {width} x {height} of {result.width} x {result.height} pixels, what run "
        f"{statement.run} found burned in. {statement.comment}"
    )
    source = image.reference()
    purpose = codes.DCM.SourceImageForImageProcessingOperation
    source.PurposeOfReferenceCodeSequence = [highdicom.sr.CodedConcept.from_code(purpose)]
    capture.SourceImageSequence = [source]
    return capture
