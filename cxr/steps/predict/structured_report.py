"""A DICOM Structured Report (TID 1500 "Measurement Report") of what was found in a DICOM image.

It belongs to the study of the image and is marked as research output that nobody has verified. Each
box above its threshold is a region of the image with a finding and a certainty; the class
probabilities are of the whole image.
"""

from __future__ import annotations

import io
import uuid
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import UID, generate_uid

from cxr.system.disk import atomic
from cxr.system.errors import InputError

MAKER = "Chest X-ray competition systems"
NOT_FOR_DIAGNOSIS = "Research output, not for diagnosis"
NOT_FRONTAL = "The header says that this is no frontal chest X-ray"
SCHEME = "99CXR"  # our own codes, for what no public list that we can check has a code for
# One identity for all reports, as PS3.5 B.2 allows.
DEVICE = UID(f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, MAKER).int}")
CHEST_XRAY = Code("399208008", "SCT", "Plain chest X-ray")
# From the code lists of pydicom, which are those of DICOM PS3.16.
FINDINGS = {
    "lung opacity": codes.DCM.Opacity,
    "fibrosis": codes.SCT.Fibrosis,
    "effusion": codes.SCT.PleuralEffusion,
    "nodule": codes.SCT.Nodule,
    "mass": codes.SCT.Mass,
    "pneumothorax": codes.SCT.Pneumothorax,
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
LONGEST_MODEL = 64  # letters of ManufacturerModelName and of a code's meaning (VR LO)
LONGEST_CODE = 16  # letters of a code value (VR SH)


def write_structured_report(
    path: Path,
    source: Path,
    findings: Mapping[str, Any],
    model: str,
) -> None:
    """Write the report of the DICOM file `source` at `path`.

    findings: {"boxes": [{finding, score, above_threshold, x1, y1, x2, y2}], "probabilities":
    {class: p}, "not_frontal_chest": words}, boxes in original pixels, as `Result.to_dict` gives it;
    model: name of the run.
    Raises InputError, saying why, where the image lacks what a report needs.
    """
    import highdicom  # heavy, and only for those who ask for reports

    try:
        with warnings.catch_warnings():
            # Values that pydicom finds odd are carried over, or refused below.
            warnings.simplefilter("ignore")
            # From bytes: from a file pydicom makes room for any length that an element states.
            content = io.BytesIO(source.read_bytes())
            header = pydicom.dcmread(content, stop_before_pixels=True, force=True)
            image = select_evidence(header)
            builder = ReportBuilder(highdicom.sr, image, model)
            report = highdicom.sr.ComprehensiveSR(
                evidence=[image],
                content=builder.measurement_report(findings),
                series_instance_uid=generate_uid(prefix=None),
                series_number=999,
                instance_number=1,
                sop_instance_uid=generate_uid(prefix=None),
                manufacturer=MAKER,
                manufacturer_model_name=model[:LONGEST_MODEL],
                series_description=NOT_FOR_DIAGNOSIS,
                content_qualification="RESEARCH",
                is_complete=True,
            )
            with atomic(path) as temporary:
                report.save_as(temporary)
    except InputError as error:
        raise InputError(f"{source}: no structured report, since {error}") from None
    # How highdicom refuses values of the image.
    except (ValueError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{source}: no structured report, since values of the header do not allow one "
            f"({reason})"
        ) from None


def select_evidence(header: pydicom.Dataset) -> pydicom.Dataset:
    """The part of the image's header that the report refers to and takes over."""
    image = pydicom.Dataset()
    for name in NAMED_BY:
        value = header.get(name)
        if not value or not UID(value).is_valid:
            problem = f"no valid UID ({value})" if value else "missing"
            raise InputError(f"its {name} is {problem}, and a report must name its image")
        setattr(image, name, value)
    for name in CARRIED_OVER:
        setattr(image, name, header.get(name) or "")
    if "SpecificCharacterSet" in header:
        image.SpecificCharacterSet = header.SpecificCharacterSet
    return image


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
        """The root of the tree, of findings as `write_structured_report` takes them."""
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
        finding = FINDINGS.get(box["finding"].lower()) or own_code(box["finding"])
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


def box_outline(box: Mapping[str, Any]) -> np.ndarray:
    """Corners (5, 2) of a box, the first again at the end."""
    left_top = (box["x1"], box["y1"])
    right_top = (box["x2"], box["y1"])
    right_bottom = (box["x2"], box["y2"])
    left_bottom = (box["x1"], box["y2"])
    return np.array([left_top, right_top, right_bottom, left_bottom, left_top])


def own_code(meaning: str) -> Code:
    """A code of our own scheme: the last letters of its meaning, as many as a code may have."""
    letters = "".join(filter(str.isalnum, meaning)).upper()
    return Code(letters[-LONGEST_CODE:], SCHEME, meaning[:LONGEST_MODEL])
