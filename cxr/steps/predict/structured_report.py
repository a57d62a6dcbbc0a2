"""A DICOM Structured Report (TID 1500 "Measurement Report") of what was found in a DICOM image.

It belongs to the study of the image and is marked as research output that nobody has verified. Each box above its
threshold is a region of the image with a finding and a certainty; the class probabilities are of the whole image.
"""

import uuid
import warnings

import numpy as np
import pydicom
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import UID, generate_uid

from cxr.system.disk import InputError, atomic

MAKER = "Chest X-ray competition systems"
NOT_FOR_DIAGNOSIS = "Research output, not for diagnosis"
SCHEME = "99CXR"  # our own codes, for what no public list that we can check has a code for
DEVICE = UID(
    f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, MAKER).int}"
)  # one identity for all reports, as PS3.5 B.2 allows
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
)  # may be empty, but must be there (type 2)


def write_structured_report(path, source, found, model):
    """Write the report of the DICOM file `source` at `path`.

    found: {"boxes": [{finding, score, above_threshold, x1, y1, x2, y2}], "probabilities": {class: p}}, as
    Found.plain() gives it; model: name of the run. InputError, saying why, where the image lacks what a report needs.
    """
    import highdicom  # heavy, and only for those who ask for reports

    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # values that pydicom finds odd are carried over or refused below
            image = evidence_of(pydicom.dcmread(source, stop_before_pixels=True, force=True))
            report = highdicom.sr.ComprehensiveSR(
                evidence=[image],
                content=content_of(highdicom.sr, image, found, model),
                series_instance_uid=generate_uid(prefix=None),
                series_number=999,
                instance_number=1,
                sop_instance_uid=generate_uid(prefix=None),
                manufacturer=MAKER,
                manufacturer_model_name=model[:64],
                series_description=NOT_FOR_DIAGNOSIS,
                content_qualification="RESEARCH",
                is_complete=True,
            )
            with atomic(path) as temporary:
                report.save_as(temporary)
    except InputError as error:
        raise InputError(f"{source}: no structured report, since {error}") from None
    except (
        ValueError,
        TypeError,
        AttributeError,
    ) as error:  # how highdicom refuses values of the image
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{source}: no structured report, since values of the header do not allow one "
            f"({reason})"
        ) from None


def evidence_of(header):
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


def content_of(sr, image, found, model):
    """The tree of TID 1500; `sr` is highdicom.sr."""
    algorithm = sr.AlgorithmIdentification(
        name=MAKER, version=model, parameters=[NOT_FOR_DIAGNOSIS]
    )
    device = sr.DeviceObserverIdentifyingAttributes(uid=DEVICE, name=MAKER, model_name=model)
    observer = sr.ObserverContext(
        observer_type=codes.DCM.Device, observer_identifying_attributes=device
    )
    marked = [box for box in found["boxes"] if box["above_threshold"]]
    regions = [
        region_of(sr, image, box, number, algorithm) for number, box in enumerate(marked, start=1)
    ]
    return sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=CHEST_XRAY,
        imaging_measurements=[
            whole_image(sr, image, found["probabilities"], len(marked), algorithm),
            *regions,
        ],
        title=codes.DCM.ImagingMeasurementReport,
    )


def whole_image(sr, image, probabilities, count, algorithm):
    """The group that is always there: how many boxes are above their threshold, and the class probabilities."""
    chances = [
        sr.Measurement(
            name=own_code(f"Probability of {name}"), value=percent(value), unit=codes.UCUM.Percent
        )
        for name, value in probabilities.items()
    ]
    boxes = sr.Measurement(
        name=own_code("Number of marked regions"), value=count, unit=codes.UCUM.NoUnits
    )
    source = sr.SourceImageForMeasurementGroup(image.SOPClassUID, image.SOPInstanceUID)
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=generate_uid(prefix=None), identifier="Whole image"
        ),
        algorithm_id=algorithm,
        measurements=[boxes, *chances],
        source_images=[source],
    )


def region_of(sr, image, box, number, algorithm):
    """A box as closed polyline. SCOORD counts pixels from the image's outer corner (PS3.3 C.18.6), as our boxes do."""
    x1, y1, x2, y2 = (box[name] for name in ("x1", "y1", "x2", "y2"))
    corners = np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2), (x1, y1)])
    source = sr.SourceImageForRegion(image.SOPClassUID, image.SOPInstanceUID)
    return sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=generate_uid(prefix=None), identifier=f"Region {number}"
        ),
        referenced_region=sr.ImageRegion(sr.GraphicTypeValues.POLYLINE, corners, source),
        finding_type=FINDINGS.get(box["finding"].lower()) or own_code(box["finding"]),
        algorithm_id=algorithm,
        measurements=[
            sr.Measurement(
                name=codes.DCM.CertaintyOfFinding,
                value=percent(box["score"]),
                unit=codes.UCUM.Percent,
            )
        ],
    )


def own_code(meaning):
    """A code of our own scheme: the letters of its meaning, of which a code may have 16."""
    return Code("".join(filter(str.isalnum, meaning)).upper()[-16:], SCHEME, meaning[:64])


def percent(probability):
    return round(100 * probability, 2)
