"""A DICOM Structured Report (TID 1500 "Measurement Report") of what was found in a DICOM image.

It belongs to the study of the image and is marked as research output that nobody has verified. Each
box above its threshold is a region of the image with a finding and a certainty; the class
probabilities are of the whole image.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pydicom
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid

from cxr.steps.predict.dicom_objects import (
    DEVICE,
    MAKER,
    NOT_FOR_DIAGNOSIS,
    NOT_FRONTAL,
    SourceImage,
    Statement,
    box_outline,
    finding_code,
    own_code,
)

CHEST_XRAY = Code("399208008", "SCT", "Plain chest X-ray")
SERIES_NUMBER = 999


def build_structured_report(image: SourceImage, statement: Statement) -> Any:
    """The report of an image."""
    import highdicom  # heavy, and only for those who ask for it

    builder = ReportBuilder(highdicom.sr, image.evidence, statement.run)
    return highdicom.sr.ComprehensiveSR(
        evidence=[image.evidence],
        content=builder.measurement_report(statement.result.to_dict()),
        is_complete=True,
        **statement.identity(SERIES_NUMBER),
    )


class ReportBuilder:
    """The content tree of TID 1500 for one image.

    `sr` is the module highdicom.sr, which is imported late; `image` the evidence of the report.
    """

    def __init__(self, sr: Any, image: pydicom.Dataset, model: str) -> None:
        self.sr = sr
        self.image = image
        self.model = model
        self.algorithm = sr.AlgorithmIdentification(
            name=MAKER, version=model, parameters=[NOT_FOR_DIAGNOSIS]
        )

    def measurement_report(self, findings: Mapping[str, Any]) -> Any:
        """The root of the tree, of findings as `Result.to_dict` gives them."""
        marked_boxes = [box for box in findings["boxes"] if box["above_threshold"]]
        whole_image = self.whole_image(findings["probabilities"], len(marked_boxes))
        mark = findings.get("not_frontal_chest", "")
        if mark:
            whole_image[0].ContentSequence.append(self.comment(f"{NOT_FRONTAL}: {mark}"))
        groups = [whole_image]
        for number, box in enumerate(marked_boxes, start=1):
            groups.append(self.region(box, number))
        return self.sr.MeasurementReport(
            observation_context=self.observation_context(),
            procedure_reported=CHEST_XRAY,
            imaging_measurements=groups,
            title=codes.DCM.ImagingMeasurementReport,
        )

    def observation_context(self) -> Any:
        """Who observed: a device, not a person."""
        device = self.sr.DeviceObserverIdentifyingAttributes(
            uid=DEVICE, name=MAKER, model_name=self.model
        )
        observer = self.sr.ObserverContext(
            observer_type=codes.DCM.Device, observer_identifying_attributes=device
        )
        return self.sr.ObservationContext(observer_device_context=observer)

    def whole_image(self, probabilities: Mapping[str, float], marked_count: int) -> Any:
        """The group that is always there: number of marked boxes and class probabilities."""
        count = self.sr.Measurement(
            name=own_code("Number of marked regions"),
            value=marked_count,
            unit=codes.UCUM.NoUnits,
        )
        measurements = [count]
        for class_name, probability in probabilities.items():
            name = own_code(f"Probability of {class_name}")
            measurements.append(self.percentage(name, probability))
        source = self.sr.SourceImageForMeasurementGroup(
            self.image.SOPClassUID, self.image.SOPInstanceUID
        )
        return self.sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=self.tracking_identifier("Whole image"),
            algorithm_id=self.algorithm,
            measurements=measurements,
            source_images=[source],
        )

    def region(self, box: Mapping[str, Any], number: int) -> Any:
        """A box as a closed polyline with its finding and score.

        SCOORD counts pixels from the image's outer corner (PS3.3 C.18.6), as our boxes do.
        """
        source = self.sr.SourceImageForRegion(self.image.SOPClassUID, self.image.SOPInstanceUID)
        outline = self.sr.ImageRegion(self.sr.GraphicTypeValues.POLYLINE, box_outline(box), source)
        finding = finding_code(box["finding"])
        certainty = self.percentage(codes.DCM.CertaintyOfFinding, box["score"])
        return self.sr.PlanarROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=self.tracking_identifier(f"Region {number}"),
            referenced_region=outline,
            finding_type=finding,
            algorithm_id=self.algorithm,
            measurements=[certainty],
        )

    def comment(self, sentence: str) -> Any:
        return self.sr.TextContentItem(
            name=codes.DCM.Comment,
            value=sentence,
            relationship_type=self.sr.RelationshipTypeValues.CONTAINS,
        )

    def tracking_identifier(self, name: str) -> Any:
        return self.sr.TrackingIdentifier(uid=generate_uid(prefix=None), identifier=name)

    def percentage(self, name: Code, probability: float) -> Any:
        """A probability 0 ... 1 as a measurement in percent."""
        value = round(100 * probability, 2)
        return self.sr.Measurement(name=name, value=value, unit=codes.UCUM.Percent)
