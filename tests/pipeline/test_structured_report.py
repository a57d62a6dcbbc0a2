"""Structured reports of step 04: what a DICOM viewer finds in them, and what is refused."""

import os
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.sr.codedict import codes
from pydicom.uid import UID
from steps import ROOT
from test_images import make_dataset, save

from cxr.geometry.detections import Detections
from cxr.inference.results import BoxResult
from cxr.steps.predict.dicom_objects import SCHEME, Statement, write_object
from cxr.steps.predict.structured_report import build_structured_report
from cxr.system.errors import InputError

sr = pytest.importorskip("highdicom.sr")

SHARED = Path(os.environ.get("CXR_SHARED_DATA", ROOT.parent / "shared" / "data"))
BOX = {
    "finding": "Lung Opacity",
    "score": 0.8125,
    "above_threshold": True,
    "x1": 10.5,
    "y1": 20.0,
    "x2": 30.25,
    "y2": 64.0,
}
FOUND = {
    "boxes": [
        BOX,
        BOX | {"finding": "Nodule", "score": 0.5, "x1": 0.0},
        BOX | {"finding": "Fracture", "score": 0.4},
        BOX | {"score": 0.1, "above_threshold": False},
    ],
    "probabilities": {"Normal": 0.25, "Lung Opacity": 0.75},
}
EMPTY = {"boxes": [], "probabilities": {}}
THRESHOLDS = dict.fromkeys(["Lung Opacity", "Nodule", "Fracture"], 0.3)
UIDS = {
    "StudyInstanceUID": "1.2.3.4",
    "SeriesInstanceUID": "1.2.3.4.5",
    "SOPInstanceUID": "1.2.3.4.5.6",
}


@pytest.fixture
def image(tmp_path):
    """Path of a DICOM with everything that a report wants."""
    tags = {
        "PatientID": "P7",
        "PatientName": "Doe^Jane",
        "PatientSex": "F",
        "PatientBirthDate": "19500102",
        "StudyDate": "20200304",
        "StudyTime": "101112",
        "AccessionNumber": "A1",
        "StudyID": "S1",
    }
    return save(tmp_path / "image.dcm", make_dataset(np.zeros((64, 48), np.uint8), **UIDS, **tags))


def result_of(found):
    """The result of a run that says this."""
    boxes = [[box[name] for name in ("x1", "y1", "x2", "y2")] for box in found["boxes"]]
    labels = [list(THRESHOLDS).index(box["finding"]) for box in found["boxes"]]
    scores = [box["score"] for box in found["boxes"]]
    detections = Detections(
        np.array(boxes, float).reshape(-1, 4), np.array(scores), np.array(labels, int)
    )
    return BoxResult(
        48,
        64,
        np.zeros((64, 48), np.uint8),
        found["probabilities"],
        detections,
        THRESHOLDS,
        not_frontal_chest=found.get("not_frontal_chest", ""),
    )


def write_report(path, image, found):
    statement = Statement(result_of(found), "run 1")
    write_object(path, image, "structured report", build_structured_report, statement)


def report_of(image, found=FOUND):
    path = image.with_name("report.dcm")
    write_report(path, image, found)
    return sr.srread(path)


def change(image, **tags):
    """Set elements of the image; None takes one away."""
    dataset = pydicom.dcmread(image)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, value in tags.items():
            setattr(dataset, name, value) if value is not None else delattr(dataset, name)
        dataset.save_as(image, enforce_file_format=True)


def test_regions_come_back(image):
    report = report_of(image)
    groups = report.content.get_planar_roi_measurement_groups()
    assert len(groups) == 3  # the box below its threshold is left out
    for group, box in zip(groups, FOUND["boxes"], strict=False):
        region = group.roi
        corners = [
            (box[x], box[y])
            for x, y in (("x1", "y1"), ("x2", "y1"), ("x2", "y2"), ("x1", "y2"), ("x1", "y1"))
        ]
        assert region.graphic_type == sr.GraphicTypeValues.POLYLINE and np.allclose(
            region.value, corners
        )
        source = region.ContentSequence[0].ReferencedSOPSequence[0]
        assert source.ReferencedSOPInstanceUID == UIDS["SOPInstanceUID"]
        measurement = group.get_measurements(codes.DCM.CertaintyOfFinding)[0]
        assert (
            measurement.value == pytest.approx(100 * box["score"])
            and measurement.unit == codes.UCUM.Percent
        )
    assert [group.finding_type for group in groups[:2]] == [codes.DCM.Opacity, codes.SCT.Nodule]
    assert (groups[2].finding_type.scheme_designator, groups[2].finding_type.meaning) == (
        SCHEME,
        "Fracture",
    )


def test_the_whole_image_comes_back(image):
    group = report_of(image).content.get_image_measurement_groups()[0]
    values = {item.name.meaning: item.value for item in group.get_measurements()}
    assert values == {
        "Number of marked regions": 3,
        "Probability of Normal": 25,
        "Probability of Lung Opacity": 75,
    }
    assert group.source_images[0].referenced_sop_instance_uid == UIDS["SOPInstanceUID"]


def test_what_is_no_frontal_chest_is_said(image):
    mark = "the modality is MR, and X-rays are CR, DX, RG, DR"
    report = report_of(image, FOUND | {"not_frontal_chest": mark})
    group = report.content.get_image_measurement_groups()[0]
    comments = [item.TextValue for item in group[0].ContentSequence if item.ValueType == "TEXT"]
    expected = f"The header says that this is no frontal chest X-ray: {mark}"
    assert [text for text in comments if "frontal" in text] == [expected]


def test_an_image_without_boxes(image):
    report = report_of(image, EMPTY)
    assert not report.content.get_planar_roi_measurement_groups()
    assert [
        item.value for item in report.content.get_image_measurement_groups()[0].get_measurements()
    ] == [0]


def test_it_belongs_to_the_study_and_says_what_it_is(image):
    report = report_of(image)
    assert (
        report.StudyInstanceUID == UIDS["StudyInstanceUID"]
        and report.SeriesInstanceUID != UIDS["SeriesInstanceUID"]
    )
    assert (report.PatientID, str(report.PatientName), report.Modality) == ("P7", "Doe^Jane", "SR")
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert (
        report.ContentQualification == "RESEARCH"
        and "not for diagnosis" in report.SeriesDescription
    )
    assert (report.VerificationFlag, report.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert evidence.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == UIDS["SOPInstanceUID"]
    assert (
        UID(report.SOPInstanceUID).is_valid
        and report_of(image).SOPInstanceUID != report.SOPInstanceUID
    )


@pytest.mark.parametrize(
    "tags, reason",
    [
        ({"StudyInstanceUID": None}, "its StudyInstanceUID is missing"),
        ({"SeriesInstanceUID": ""}, "its SeriesInstanceUID is missing"),
        ({"SOPInstanceUID": "1.2.abc"}, r"its SOPInstanceUID is no valid UID \(1.2.abc\)"),
        ({"StudyInstanceUID": "1." * 40 + "1"}, "its StudyInstanceUID is no valid UID"),
        ({"StudyDate": "yesterday"}, "values of the header do not allow one"),
    ],
)
def test_images_that_cannot_be_named(image, tags, reason):
    change(image, **tags)
    with pytest.raises(InputError, match=f"image.dcm: no structured report, since {reason}"):
        report_of(image)
    assert not image.with_name("report.dcm").exists()


@pytest.mark.parametrize(
    "name",
    [
        "PatientID",
        "PatientName",
        "PatientSex",
        "PatientBirthDate",
        "StudyDate",
        "StudyID",
        "AccessionNumber",
        "StudyTime",
    ],
)
def test_what_may_be_missing(image, name):
    change(image, **{name: None})
    assert not report_of(image).get(name)


def test_names_in_other_scripts(image):
    change(image, SpecificCharacterSet="ISO_IR 192", PatientName="Ånström^Zoë")
    assert str(report_of(image).PatientName) == "Ånström^Zoë"


@pytest.mark.parametrize(
    "folder, named",
    [
        ("rsna-pneumonia-detection-challenge/stage_2_test_images", True),
        ("siim-acr-pneumothorax-segmentation/stage_2_images", False),
    ],
)
def test_real_images(folder, named, tmp_path):
    paths = sorted((SHARED / folder).rglob("*.dcm"))[:6]
    if not paths:
        pytest.skip(f"no real sample at {SHARED / folder} (CXR_SHARED_DATA)")
    for path in paths:
        try:
            write_report(tmp_path / "report.dcm", path, FOUND)
            assert (
                len(sr.srread(tmp_path / "report.dcm").content.get_planar_roi_measurement_groups())
                == 3
                and named
            )
        except InputError as error:
            assert "its StudyInstanceUID is missing" in str(error) and not named
