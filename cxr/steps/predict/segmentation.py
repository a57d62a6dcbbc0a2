"""A DICOM Segmentation of the mask that a run gives of a DICOM image.

One binary segment in the pixels of the image. Their spacing is not repeated: that of an X-ray is
one of the detector, and highdicom reads it only beside the thickness of a slice. An image without a
finding gets a segment whose pixels are all 0: nothing found differs from not looked at.
"""

from __future__ import annotations

from typing import Any

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid

from cxr.inference.results import MaskResult
from cxr.plots.overlay import rgb
from cxr.plots.panels import BRIGHT
from cxr.steps.predict.dicom_objects import (
    LONGEST_MODEL,
    MAKER,
    SourceImage,
    Statement,
    finding_code,
    read_orientation,
)

SERIES_NUMBER = 998
LABEL = "SEGMENTATION"
ANATOMY = ("lung",)  # findings that are no disease


def build_segmentation(image: SourceImage, statement: Statement) -> Any:
    """The segmentation of an image of which the run says a mask."""
    import highdicom  # heavy, and only for those who ask for it

    result = statement.result
    assert isinstance(result, MaskResult)  # --dicom-seg is refused for other runs
    image.evidence.Rows = result.height
    image.evidence.Columns = result.width
    segmentation = highdicom.seg.Segmentation(
        source_images=[image.evidence],
        pixel_array=result.mask,
        segmentation_type="BINARY",
        segment_descriptions=[describe_segment(highdicom, statement, result)],
        content_label=LABEL,
        omit_empty_frames=False,
        **statement.identity(SERIES_NUMBER),
    )
    segmentation.PatientOrientation = read_orientation(image.header)
    segmentation.ImageComments = statement.comment
    return segmentation


def describe_segment(highdicom: Any, statement: Statement, result: MaskResult) -> Any:
    """What the segment shows and who drew it. highdicom: the module, which is imported late."""
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=MAKER, family=codes.DCM.ArtificialIntelligence, version=statement.run[:LONGEST_MODEL]
    )
    segment = highdicom.seg.SegmentDescription(
        segment_number=1,
        segment_label=result.finding[:LONGEST_MODEL],
        segmented_property_category=category_of(result.finding),
        segmented_property_type=finding_code(result.finding),
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
        tracking_uid=generate_uid(prefix=None),
        tracking_id=result.finding[:LONGEST_MODEL],
        display_color=highdicom.color.CIELabColor.from_rgb(*rgb(BRIGHT[0])),
    )
    segment.SegmentDescription = (
        f"{result.finding}, score of the image {result.score:.4f}. {statement.comment}"
    )
    return segment


def category_of(finding: str) -> Code:
    """Whether a finding is a part of the body or a change in it."""
    if finding.lower() in ANATOMY:
        return codes.SCT.AnatomicalStructure
    return codes.SCT.MorphologicallyAbnormalStructure
