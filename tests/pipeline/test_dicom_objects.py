"""Segmentations, presentation states and secondary captures of step 04, as a reader finds them."""

import cv2
import numpy as np
import pydicom
import pytest
from pydicom.pixels import apply_rescale, apply_voi_lut
from pydicom.sr.codedict import codes
from test_images import make_dataset, save
from xrays import png, xray

import cxr
from cxr.geometry.detections import Detections
from cxr.images.deep import read_deep
from cxr.images.folder import Item
from cxr.images.gray import Window
from cxr.images.read import read_image
from cxr.inference.results import BoxResult, ClassResult, MaskResult
from cxr.settings import ImageSettings
from cxr.steps.predict import presentation_state
from cxr.steps.predict.dicom_objects import MAKER, NOT_FOR_DIAGNOSIS, Statement, write_object
from cxr.steps.predict.dicom_outputs import (
    CAPTURE,
    OUTPUTS,
    REPORT,
    SEGMENTATION,
    STATE,
    make_objects,
    unmade_objects,
)
from cxr.system.errors import InputError

highdicom = pytest.importorskip("highdicom")

WIDTH = 40
HEIGHT = 64
BOXES = np.array([[3.25, 10.0, 20.5, 40.75], [20, 0, 40, 64], [1, 1, 5, 5]])
PROBABILITIES = {"Normal": 0.25, "Lung Opacity": 0.75}
LATERAL = "the view is LL, which is not frontal"
TAGS = {
    "StudyInstanceUID": "1.2.3.4",
    "SeriesInstanceUID": "1.2.3.4.5",
    "SOPInstanceUID": "1.2.3.4.5.6",
    "FrameOfReferenceUID": "1.2.3.4.9",
    "PatientID": "P7",
    "PatientName": "Doe^Jane",
    "StudyDate": "20200304",
    "PatientOrientation": ["L", "F"],
    "BodyPartExamined": "CHEST",
}


def write_image(path, pixels=None, bits=None, **tags):
    pixels = xray(WIDTH, HEIGHT) if pixels is None else pixels
    values = {name: value for name, value in (TAGS | tags).items() if value is not None}
    return save(path, make_dataset(pixels, bits, **values))


@pytest.fixture
def image(tmp_path):
    return write_image(tmp_path / "image.dcm")


def draw_mask():
    """A ring, a bar of one pixel's width, a single pixel."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.circle(mask, (15, 30), 10, 1, 3)
    mask[2, 30:36] = 1
    mask[63, 39] = 1
    return mask


def mask_result(mask, finding="Pneumothorax", mark=""):
    shown = np.zeros((HEIGHT, WIDTH), np.uint8)
    levels = mask * 255
    return MaskResult(
        WIDTH, HEIGHT, shown, {}, finding, levels, mask, 0.9125, not_frontal_chest=mark
    )


def box_result(mark=""):
    detections = Detections(BOXES, np.array([0.8, 0.6, 0.1]), np.array([0, 1, 0]))
    thresholds = {"Lung Opacity": 0.3, "Nodule": 0.3}
    shown = xray(WIDTH, HEIGHT)
    return BoxResult(
        WIDTH, HEIGHT, shown, PROBABILITIES, detections, thresholds, not_frontal_chest=mark
    )


def make(output, image, result, full_range=None):
    path = image.with_name("made.dcm")
    write_object(path, image, output.words, output.build, Statement(result, "run 1", full_range))
    return pydicom.dcmread(path)


def result_for(output, mark=""):
    return mask_result(draw_mask(), mark=mark) if output is SEGMENTATION else box_result(mark)


def image_uids(dataset):
    """SOPInstanceUIDs that stand in any sequence of an object."""
    uids = set()
    for element in dataset.iterall():
        if element.keyword == "ReferencedSOPInstanceUID":
            uids.add(element.value)
    return uids


# --- what all of them share


@pytest.mark.parametrize("output", OUTPUTS, ids=lambda output: output.name)
def test_what_all_objects_share(output, image):
    made = make(output, image, result_for(output, LATERAL))
    assert made.StudyInstanceUID == TAGS["StudyInstanceUID"]
    assert made.SeriesInstanceUID != TAGS["SeriesInstanceUID"]
    assert made.SOPInstanceUID == made.file_meta.MediaStorageSOPInstanceUID
    assert image_uids(made) == {TAGS["SOPInstanceUID"]}
    assert (made.PatientID, str(made.PatientName), made.StudyDate) == ("P7", "Doe^Jane", "20200304")
    assert (made.Manufacturer, made.ManufacturerModelName) == (MAKER, "run 1")
    assert (made.SeriesDescription, made.ContentQualification) == (NOT_FOR_DIAGNOSIS, "RESEARCH")
    assert made.SoftwareVersions == cxr.__version__
    texts = [str(element.value) for element in made.iterall()]
    assert any(LATERAL in text for text in texts)
    again = make(output, image, result_for(output))
    assert again.SOPInstanceUID != made.SOPInstanceUID
    assert not any("frontal" in str(element.value) for element in again.iterall())


@pytest.mark.parametrize("output", OUTPUTS, ids=lambda output: output.name)
@pytest.mark.parametrize(
    "tags, reason",
    [
        ({"StudyInstanceUID": None}, "its StudyInstanceUID is missing"),
        ({"SOPInstanceUID": "1.2.abc"}, r"its SOPInstanceUID is no valid UID \(1.2.abc\)"),
        ({"PatientSex": "F or M"}, "values of the header do not allow one"),
    ],
)
def test_images_that_cannot_be_named(output, tags, reason, tmp_path):
    path = write_image(tmp_path / "image.dcm", **tags)
    with pytest.raises(InputError, match=f"image.dcm: no {output.words}, since {reason}"):
        make(output, path, result_for(output))
    assert not path.with_name("made.dcm").exists()


@pytest.mark.parametrize(
    "tags",
    [
        {"FrameOfReferenceUID": "no uid", "PatientOrientation": "?"},
        {"PatientOrientation": ["L", "UP"]},
        {"LossyImageCompression": "01", "LossyImageCompressionRatio": "nan"},
        {"WindowCenter": "words", "WindowWidth": "100", "RescaleSlope": "1,5"},
        {"WindowCenter": "", "RescaleIntercept": ""},
    ],
)
def test_odd_values_that_name_nothing_are_left_out(tags, tmp_path):
    """Written past pydicom's checks, as other programs do."""
    path = tmp_path / "image.dcm"
    dataset = make_dataset(xray(WIDTH, HEIGHT), **UIDS)
    for name, value in tags.items():
        text = "\\".join([value] if isinstance(value, str) else value)
        dataset[name] = raw_element(name, text)
    save(path, dataset)
    for output in OUTPUTS:
        made = make(output, path, result_for(output))
        assert image_uids(made) == {TAGS["SOPInstanceUID"]}
        assert not made.get("PatientOrientation")
        assert "FrameOfReferenceUID" not in made


UIDS = {name: value for name, value in TAGS.items() if name.endswith("InstanceUID")}


def raw_element(name, text):
    tag = pydicom.tag.Tag(name)
    content = text.encode() + b" " * (len(text) % 2)
    vr = pydicom.datadict.dictionary_VR(tag)
    return pydicom.dataelem.RawDataElement(tag, vr, len(content), content, 0, False, True)


# --- segmentation


@pytest.mark.parametrize("mask", [draw_mask(), np.zeros((HEIGHT, WIDTH), np.uint8)])
def test_a_segmentation_holds_the_mask(mask, image):
    result = mask_result(mask)
    make(SEGMENTATION, image, result)
    read = highdicom.seg.segread(image.with_name("made.dcm"))
    pixels = read.get_pixels_by_source_instance([TAGS["SOPInstanceUID"]])
    assert pixels.shape == (1, HEIGHT, WIDTH, 1)
    shown = result.mask_picture()[..., 0]  # what masks/ holds
    assert np.array_equal(pixels[0, ..., 0] * 255, shown)
    assert (read.FrameOfReferenceUID, read.SegmentationType) == ("1.2.3.4.9", "BINARY")
    [segment] = read.SegmentSequence
    assert segment.SegmentLabel == "Pneumothorax"
    assert segment.SegmentedPropertyTypeCodeSequence[0] == codes.SCT.Pneumothorax
    assert "0.9125" in segment.SegmentDescription and NOT_FOR_DIAGNOSIS in read.ImageComments


@pytest.mark.parametrize(
    "finding, kind, category",
    [
        ("Lung", codes.SCT.Lung, codes.SCT.AnatomicalStructure),
        ("Shadow", None, codes.SCT.MorphologicallyAbnormalStructure),
    ],
)
def test_what_a_segment_is(finding, kind, category, image):
    [segment] = make(SEGMENTATION, image, mask_result(draw_mask(), finding)).SegmentSequence
    assert segment.SegmentedPropertyCategoryCodeSequence[0].CodeValue == category.value
    code = segment.SegmentedPropertyTypeCodeSequence[0]
    assert code.CodeValue == (kind.value if kind else "SHADOW")


# --- presentation state


def annotations_of(state):
    [annotation] = state.GraphicAnnotationSequence
    graphics = annotation.get("GraphicObjectSequence", [])
    assert all(each.GraphicAnnotationUnits == "PIXEL" for each in graphics)
    lines = [np.array(each.GraphicData).reshape(-1, 2) for each in graphics]
    texts = [each.UnformattedTextValue for each in annotation.TextObjectSequence]
    return lines, texts, annotation


def test_a_presentation_state_has_the_boxes(image):
    state = make(STATE, image, box_result())
    lines, texts, annotation = annotations_of(state)
    assert len(lines) == 2  # the third is below its threshold
    for line, (x1, y1, x2, y2) in zip(lines, BOXES, strict=False):
        assert np.array_equal(line, [[x1, y1], [x2, y1], [x2, y2], [x1, y2], [x1, y1]])
    assert texts[:2] == ["Lung Opacity 0.80", "Nodule 0.60"]
    assert texts[2] == "0.75 Lung Opacity\r\n0.25 Normal"
    assert texts[3] == NOT_FOR_DIAGNOSIS
    anchors = [each.get("AnchorPoint") for each in annotation.TextObjectSequence]
    assert anchors == [[3.25, 10.0], [20, 0], None, None]
    [series] = state.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == TAGS["SeriesInstanceUID"]
    assert state.Modality == "PR"


def test_a_presentation_state_has_the_outlines(image, monkeypatch):
    """Lines through the centres of the pixels at the edge, filled, are the mask again."""
    monkeypatch.setattr(presentation_state, "MOST_POINTS", 9)
    mask = draw_mask()
    lines, texts, _ = annotations_of(make(STATE, image, mask_result(mask)))
    assert max(map(len, lines)) == 9
    drawn = np.zeros_like(mask)
    for line in lines:
        cv2.polylines(drawn, [np.floor(line).astype(np.int32)], False, 1)
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    edge = mask - cv2.erode(mask, cross, borderValue=0)
    assert not (drawn & ~mask & 1)[edge == 0].any()
    assert drawn[edge == 1].mean() > 0.8 and drawn[63, 39] and drawn[2, 30:36].all()
    assert texts == ["Pneumothorax 0.91", NOT_FOR_DIAGNOSIS]


def test_a_presentation_state_of_classes_and_of_nothing(image):
    shown = np.zeros((HEIGHT, WIDTH), np.uint8)
    result = ClassResult(WIDTH, HEIGHT, shown, {"Typical": 0.75, "Negative": 0.25})
    lines, texts, _ = annotations_of(make(STATE, image, result))
    assert (lines, texts[0]) == ([], "0.75 Typical\r\n0.25 Negative")
    lines, texts, _ = annotations_of(make(STATE, image, mask_result(draw_mask() * 0)))
    assert lines == []


DEEP = xray(WIDTH, HEIGHT).astype(np.uint16) * 16
TABLE = pydicom.Dataset()
TABLE.LUTDescriptor = [4096, 0, 12]
TABLE.LUTData = (np.sqrt(np.arange(4096) / 4095) * 4095).astype(np.uint16).tobytes()


@pytest.mark.parametrize(
    "pixels, tags",
    [
        (xray(WIDTH, HEIGHT), {}),
        (xray(WIDTH, HEIGHT), {"PhotometricInterpretation": "MONOCHROME1"}),
        (xray(WIDTH, HEIGHT), {"RescaleSlope": 2, "RescaleIntercept": -100}),
        (xray(WIDTH, HEIGHT), {"WindowCenter": [100, 1], "WindowWidth": [90, 2]}),
        (DEEP, {}),
        (DEEP, {"RescaleSlope": 3, "RescaleIntercept": -7, "PresentationLUTShape": "INVERSE"}),
        (DEEP, {"WindowCenter": 1500, "WindowWidth": 2000, "VOILUTFunction": "SIGMOID"}),
        (DEEP, {"VOILUTSequence": [TABLE]}),
    ],
)
def test_a_presentation_state_keeps_the_grays(pixels, tags, tmp_path):
    bits = 12 if pixels is DEEP else 8
    path = write_image(tmp_path / "image.dcm", pixels, bits, **tags)
    deep = read_deep(path, 1000)
    full_range = Window(deep.centre, deep.width) if deep else None
    state = make(STATE, path, box_result(), full_range)
    values = apply_rescale(pixels, state)
    shares = values / 255
    if "SoftcopyVOILUTSequence" in state:
        rules = state.SoftcopyVOILUTSequence[0]
        rules.PhotometricInterpretation = "MONOCHROME2"
        rules.PixelRepresentation = 0
        rules.BitsStored = 16
        shares = apply_voi_lut(values, rules) / 65535
    if state.PresentationLUTShape == "INVERSE":
        shares = 1 - shares
    shown, _ = read_image(path)
    assert np.abs(255 * shares - shown).max() < 1.5


def test_no_presentation_state_of_colour(tmp_path):
    path = write_image(tmp_path / "image.dcm", np.dstack([xray(WIDTH, HEIGHT)] * 3))
    with pytest.raises(InputError, match="no presentation state, since it is in colour"):
        make(STATE, path, box_result())
    assert make(CAPTURE, path, box_result()).SamplesPerPixel == 3


# --- secondary capture


def test_a_secondary_capture_is_the_overlay(tmp_path):
    tags = {"LossyImageCompression": "01", "LossyImageCompressionRatio": "12.5"}
    image = write_image(tmp_path / "image.dcm", **tags)
    result = box_result()
    capture = make(CAPTURE, image, result)
    assert np.array_equal(capture.pixel_array, result.overlay())
    assert capture.BurnedInAnnotation == "YES"
    assert capture.ImageType[:2] == ["DERIVED", "SECONDARY"]
    assert "run 1 found burned in" in capture.DerivationDescription
    assert NOT_FOR_DIAGNOSIS in capture.DerivationDescription
    assert capture.PatientOrientation == ["L", "F"]
    assert (capture.LossyImageCompression, capture.LossyImageCompressionRatio) == ("01", 12.5)
    assert "PixelSpacing" not in capture  # the picture is not of the image's size
    [source] = capture.SourceImageSequence
    assert source.ReferencedSOPInstanceUID == TAGS["SOPInstanceUID"]


# --- which are made


def test_only_what_is_missing_is_made(image):
    out = image.parent / "out"
    item = Item("image.dcm", image)
    statement = Statement(box_result(), "run 1")
    reports = ImageSettings(out=out, dicom_sr=True)
    first = make_objects(reports, item, True, statement, None)
    assert first == {
        "structured_report": "structured_reports/image.dcm.dcm",
        "segmentation": None,
        "presentation_state": None,
        "secondary_capture": None,
    }
    before = (out / first["structured_report"]).read_bytes()
    assert not REPORT.is_missing(out, item, first)
    assert CAPTURE.is_missing(out, item, first)
    assert CAPTURE.is_missing(out, item, {})  # the record of an earlier version

    both = ImageSettings(out=out, dicom_sr=True, dicom_sc=True)
    second = make_objects(both, item, True, statement, first)
    assert (out / first["structured_report"]).read_bytes() == before
    assert second["secondary_capture"] == "secondary_captures/image.dcm.dcm"
    assert list(unmade_objects(both, second)) == []

    (out / second["secondary_capture"]).unlink()
    assert CAPTURE.is_missing(out, item, second)
    # Another image in the file's place: what was made of the first goes.
    third = make_objects(ImageSettings(out=out), item, True, statement, None)
    assert set(third.values()) == {None}
    assert not list(out.rglob("*.dcm"))


def test_a_picture_without_a_header(tmp_path):
    item = Item("a.png", png(tmp_path / "a.png", xray(WIDTH, HEIGHT)))
    images = ImageSettings(out=tmp_path / "out", dicom_pr=True)
    made = make_objects(images, item, False, Statement(box_result(), "run 1"), None)
    assert list(unmade_objects(images, made)) == [("presentation state", "not a DICOM")]
    assert not STATE.is_missing(images.out, item, made)
