"""X-ray files to 8-bit pictures: DICOMs with known answers, and odd files of public test suites."""

import csv
import io
import os
import struct
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, SecondaryCaptureImageStorage

from cxr.images.dicom import decode, open_dicom
from cxr.images.gray import to_uint8, window
from cxr.images.header import Header, parse_age
from cxr.images.png import read_png_header, write_png
from cxr.images.read import convert_image, read_image
from cxr.images.resize import resize
from cxr.system.errors import InputError

SHARED = Path(
    os.environ.get("CXR_SHARED_DATA", Path(__file__).parents[2].parent / "shared" / "data")
)
ODD = SHARED / "dicom-robustness"
RSNA = SHARED / "rsna-pneumonia-detection-challenge"
needs_rsna = pytest.mark.skipif(
    not RSNA.is_dir(), reason=f"no real sample at {RSNA} (CXR_SHARED_DATA)"
)


def make_dataset(pixels, bits=None, **tags):
    """An uncompressed DICOM of these pixels, (h, w) gray or (h, w, 3) RGB.

    tags override or add elements.
    """
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3"
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    dataset.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = 8 * pixels.dtype.itemsize
    dataset.BitsStored = bits or dataset.BitsAllocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes()
    for name, value in tags.items():
        setattr(dataset, name, value)
    return dataset


def save(path, dataset):
    dataset.save_as(path, enforce_file_format=True)
    return path


def picture_of(tmp_path, pixels, bits=None, **tags):
    return read_image(save(tmp_path / "x.dcm", make_dataset(pixels, bits, **tags)))[0]


def jpeg_dicom(path, pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    dataset = make_dataset(pixels)
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.PixelData = encapsulate([buffer.getvalue()])
    dataset["PixelData"].is_undefined_length = True
    return save(path, dataset), np.asarray(Image.open(buffer))


RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def test_eight_bits_without_window_pass_unchanged(tmp_path):
    dim = (RAMP // 2).astype(np.uint8)
    np.testing.assert_array_equal(picture_of(tmp_path, RAMP), RAMP)
    np.testing.assert_array_equal(picture_of(tmp_path, dim), dim)
    np.testing.assert_array_equal(
        picture_of(tmp_path, dim, RescaleSlope=2, RescaleIntercept=-7), dim
    )
    np.testing.assert_array_equal(picture_of(tmp_path, RAMP, PixelPaddingValue=200), RAMP)
    np.testing.assert_array_equal(picture_of(tmp_path, RAMP.astype(np.uint16), bits=8), RAMP)


def test_jpeg_dicom_is_the_jpeg_itself(tmp_path):
    path, decoded = jpeg_dicom(tmp_path / "x.dcm", cv2.resize(RAMP, (64, 64)))
    np.testing.assert_array_equal(read_image(path)[0], decoded)


@pytest.mark.parametrize(
    "tags",
    [
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"PresentationLUTShape": "INVERSE"},
        {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"},
        {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "IDENTITY"},
        {"RescaleSlope": -1, "RescaleIntercept": 255},
    ],
)
def test_inverted_once(tmp_path, tags):
    np.testing.assert_array_equal(picture_of(tmp_path, RAMP, **tags), 255 - RAMP)


def test_window_of_the_standard(tmp_path):
    """PS3.3 C.11.2.1.2.1: centre 128, width 101 is 0 up to 77.5, 255 from 177.5, between linear."""
    pixels = np.array([[0, 77, 78, 127, 128, 177, 178, 255]], np.uint8)
    image = picture_of(tmp_path, pixels, WindowCenter=128, WindowWidth=101)
    assert image.tolist() == [[0, 0, 1, 126, 129, 254, 255, 255]]
    assert window(np.array([4.0, 4.6, 5.0]), 5, 1).tolist() == [0, 1, 1]
    assert window(np.array([0.0, 10, 20]), 10, 20, "LINEAR_EXACT").tolist() == [0, 0.5, 1]
    np.testing.assert_allclose(
        window(np.array([10.0, 15]), 10, 20, "SIGMOID"), [0.5, 1 / (1 + np.exp(-1))]
    )


def test_inversion_comes_after_the_window(tmp_path):
    tags = {"PhotometricInterpretation": "MONOCHROME1", "WindowCenter": 50, "WindowWidth": 101}
    image = picture_of(tmp_path, np.array([[0, 50, 99, 100, 200]], np.uint8), **tags)
    # The window is of stored values: 200 is beyond it, thus black.
    assert image.tolist() == [[254, 126, 1, 0, 0]]


def test_window_is_of_rescaled_values(tmp_path):
    pixels = np.array([[0, 1024, 1064, 4095]], np.uint16)
    image = picture_of(
        tmp_path,
        pixels,
        12,
        RescaleSlope=1,
        RescaleIntercept=-1024,
        WindowCenter=40.5,
        WindowWidth=81,
    )
    assert image.tolist() == [[0, 0, 128, 255]]


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {"RescaleSlope": 2, "RescaleIntercept": -100},
        {"WindowCenter": 5000, "WindowWidth": 10},  # would make everything black
        {"WindowCenter": 50, "WindowWidth": 0},  # forbidden by the standard
        {"WindowCenter": "", "WindowWidth": ""},
        {"WindowCenter": 50},
    ],
)
def test_deep_pixels_without_usable_window_map_their_own_range(tmp_path, tags):
    assert picture_of(tmp_path, np.array([[100, 151, 200]], np.uint16), 12, **tags).tolist() == [
        [0, 130, 255]
    ]


def test_first_of_several_windows(tmp_path):
    image = picture_of(
        tmp_path,
        np.array([[0, 1000]], np.uint16),
        12,
        WindowCenter=[500.5, 5],
        WindowWidth=[1001, 2],
    )
    assert image.tolist() == [[0, 255]]


@pytest.mark.parametrize("vr", ["US", "OW"])
def test_voi_lut_is_preferred_to_the_window(tmp_path, vr):
    table = Dataset()
    table.LUTDescriptor = [4, 10, 16]  # 16 bits stated, 11 used
    table.add_new(
        "LUTData",
        vr,
        [1000, 1100, 1300, 2000] if vr == "US" else struct.pack("<4H", 1000, 1100, 1300, 2000),
    )
    pixels = np.array([[0, 10, 11, 12, 13, 99]], np.uint16)
    image = picture_of(tmp_path, pixels, 12, VOILUTSequence=[table], WindowCenter=5, WindowWidth=10)
    assert image.tolist() == [[0, 0, 26, 76, 255, 255]]


def test_modality_lut(tmp_path):
    table = Dataset()
    table.LUTDescriptor = [3, 0, 16]
    table.LUTData = struct.pack("<3H", 0, 400, 1000)
    table.ModalityLUTType = "US"
    image = picture_of(tmp_path, np.array([[0, 1, 2]], np.uint8), ModalityLUTSequence=[table])
    assert image.tolist() == [[0, 102, 255]]


def test_signed_pixels_and_padding(tmp_path):
    pixels = np.array([[-2000, -100, 2, 100]], np.int16)
    assert picture_of(tmp_path, pixels, PixelPaddingValue=-2000).tolist() == [[0, 0, 130, 255]]
    inverse = picture_of(
        tmp_path, pixels, PixelPaddingValue=-2000, PhotometricInterpretation="MONOCHROME1"
    )
    assert inverse.tolist() == [[0, 255, 125, 0]]  # padding stays black
    wide = picture_of(tmp_path, pixels, PixelPaddingValue=-2000, PixelPaddingRangeLimit=-50)
    assert wide.tolist() == [[0, 0, 0, 255]]
    assert picture_of(tmp_path, np.full((1, 2), -5, np.int16), PixelPaddingValue=-5).tolist() == [
        [0, 0]
    ]


def test_bits_beyond_bits_stored_are_no_part_of_the_image(tmp_path):
    """Old files keep an overlay in the unused high bits."""
    pixels = np.array([[0, 2048, 4095, 0xF000]], np.uint16)
    assert picture_of(tmp_path, pixels, 12).tolist() == [[0, 128, 255, 0]]


def test_constant_image_is_black_and_one_pixel_works(tmp_path):
    assert picture_of(tmp_path, np.full((2, 3), 700, np.uint16), 12).tolist() == [
        [0, 0, 0],
        [0, 0, 0],
    ]
    assert picture_of(tmp_path, np.array([[9]], np.uint8)).tolist() == [[9]]


def test_colour_becomes_luma(tmp_path):
    pixels = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [77, 77, 77]]], np.uint8)
    assert picture_of(tmp_path, pixels).tolist() == [[76, 150, 29, 77]]
    assert picture_of(tmp_path, pixels.astype(np.uint16) * 257).tolist() == [[76, 150, 29, 77]]


def test_palette_colour(tmp_path):
    tags = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour in ("Red", "Green", "Blue"):
        tags[f"{colour}PaletteColorLookupTableDescriptor"] = [3, 0, 16]
        tags[f"{colour}PaletteColorLookupTableData"] = np.array(
            [0, 32896, 65535], np.uint16
        ).tobytes()
    assert picture_of(tmp_path, np.array([[0, 1, 2]], np.uint8), **tags).tolist() == [[0, 128, 255]]


def refusal(path):
    with pytest.raises(InputError) as caught:
        read_image(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_refusals(tmp_path):
    two = make_dataset(np.zeros((8, 4), np.uint8), Rows=4, NumberOfFrames=2)
    assert "2 frames" in refusal(save(tmp_path / "2.dcm", two))
    empty = make_dataset(RAMP)
    del empty.PixelData
    assert "no pixel data" in refusal(save(tmp_path / "none.dcm", empty))
    (tmp_path / "zero.dcm").write_bytes(b"")
    assert "empty" in refusal(tmp_path / "zero.dcm")
    (tmp_path / "text.dcm").write_text("patientId,x,y\n" * 50)
    assert "neither a DICOM" in refusal(tmp_path / "text.dcm")
    (tmp_path / "noise.dcm").write_bytes(np.random.default_rng(0).bytes(5000))
    refusal(tmp_path / "noise.dcm")
    assert "No such file" in refusal(tmp_path / "absent.dcm")
    assert "decoded" in refusal(tmp_path)  # a folder
    floats = make_dataset(RAMP)
    del floats.PixelData
    floats.FloatPixelData = np.full((16, 16), np.nan, np.float32).tobytes()
    floats.BitsAllocated = 32
    assert "not numbers" in refusal(save(tmp_path / "nan.dcm", floats))
    assert "size" in refusal(save(tmp_path / "flat.dcm", make_dataset(RAMP, Rows=0)))


@pytest.mark.parametrize("pixels", [np.zeros((20, 40), np.uint8), np.zeros((40, 40, 3), np.uint8)])
def test_refuses_a_jpeg_that_its_header_does_not_describe(tmp_path, pixels):
    jpeg_dicom(tmp_path / "a.dcm", np.zeros((40, 40), np.uint8))
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    jpeg = io.BytesIO()
    Image.fromarray(pixels).save(jpeg, "JPEG")
    dataset.PixelData = encapsulate([jpeg.getvalue()])
    dataset.save_as(tmp_path / "b.dcm")
    assert "header says (40, 40)" in refusal(tmp_path / "b.dcm")


@pytest.mark.parametrize("kind", ["native", "jpeg", "png", "jpg"])
def test_no_truncated_file_gives_a_picture(tmp_path, kind):
    """Cut anywhere: refused, or (trailing padding lost) the same picture as the whole file."""
    pixels = np.random.default_rng(1).integers(0, 256, (40, 40), np.uint8)
    whole = tmp_path / f"whole.{kind}"
    if kind == "native":
        save(whole, make_dataset(pixels))
    elif kind == "jpeg":
        jpeg_dicom(whole, pixels)
    else:
        Image.fromarray(pixels).save(whole, "PNG" if kind == "png" else "JPEG")
    content = whole.read_bytes()
    expected, _ = read_image(whole)
    refused = 0
    for length in [*range(0, len(content) - 40, 53), *range(len(content) - 40, len(content))]:
        cut = tmp_path / "cut"
        cut.write_bytes(content[:length])
        try:
            np.testing.assert_array_equal(read_image(cut)[0], expected)
        except InputError:
            refused += 1
    assert refused > (len(content) - 40) // 53


def test_file_without_meta_header(tmp_path):
    dataset = make_dataset(RAMP)
    del dataset.file_meta
    for name, implicit in (("implicit", True), ("explicit", False)):
        path = tmp_path / name
        dataset.save_as(path, implicit_vr=implicit, little_endian=True, enforce_file_format=False)
        assert path.read_bytes()[128:132] != b"DICM"
        np.testing.assert_array_equal(read_image(path)[0], RAMP)


def test_pictures(tmp_path):
    """The kind is told from the content: a PNG named .dcm is read."""
    Image.fromarray(RAMP).save(tmp_path / "gray.dcm", "PNG")
    np.testing.assert_array_equal(read_image(tmp_path / "gray.dcm")[0], RAMP)
    Image.fromarray(np.dstack([RAMP, RAMP, RAMP, np.full_like(RAMP, 255)])).save(
        tmp_path / "rgba.png"
    )
    np.testing.assert_array_equal(read_image(tmp_path / "rgba.png")[0], RAMP)
    cv2.imwrite(str(tmp_path / "deep.png"), np.array([[1000, 1510, 2000]], np.uint16))
    image, header = read_image(tmp_path / "deep.png")
    assert image.tolist() == [[0, 130, 255]]
    assert header == Header(3, 1, None, "", "")


def test_header(tmp_path):
    dataset = make_dataset(np.zeros((3, 5), np.uint8), PatientSex="F", ViewPosition="PA")
    dataset.add_new("PatientAge", "AS", "058Y")
    _, header = read_image(save(tmp_path / "a.dcm", dataset))
    assert header == Header(5, 3, 58.0, "F", "PA")
    other = make_dataset(
        np.zeros((3, 5), np.uint8),
        PatientSex="O",
        ViewPosition="LL",
        PatientAge="",
        Modality="DX",
        BodyPartExamined="chest",
    )
    _, header = read_image(save(tmp_path / "b.dcm", other))
    assert header == Header(5, 3, None, "", "LL", "DX", "CHEST")


@pytest.mark.parametrize(
    "text, years",
    [
        ("058Y", 58),
        ("58", 58),
        ("58y ", 58),
        ("6M", 0.5),
        ("012W", 12 * 7 / 365.25),
        ("100D", 100 / 365.25),
        ("000Y", 0),
        ("148", 148),
        ("", None),
        (None, None),
        ("Y", None),
        ("-5", None),
        ("5.5", None),
        ("abc", None),
        ("1234Y", None),
    ],
)
def test_age(text, years):
    assert parse_age(text) == (None if years is None else pytest.approx(years))


@given(st.text(max_size=8))
def test_age_of_anything(text):
    assert parse_age(text) is None or parse_age(text) >= 0


@given(
    st.lists(st.integers(-2000, 4000), min_size=2, max_size=30),
    st.floats(-500, 2000),
    st.floats(1, 3000),
    st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]),
)
def test_window_never_reverses_two_grays(values, centre, width, kind):
    shown = window(np.sort(values), centre, width, kind)
    assert (np.diff(shown) >= 0).all() and shown.min() >= 0 and shown.max() <= 1


@given(st.lists(st.integers(-30000, 30000), min_size=2, max_size=30, unique=True))
def test_to_uint8_uses_the_whole_range(values):
    shown = to_uint8(np.sort(values))
    assert shown[0] == 0 and shown[-1] == 255 and (np.diff(shown.astype(int)) >= 0).all()


def test_resize():
    image = np.zeros((4, 8), np.uint8)
    image[:, 4:] = 200
    assert resize(image, 2).tolist() == [[0, 200], [0, 200]]
    checks = (np.indices((64, 64)).sum(0) % 2 * 200).astype(np.uint8)
    assert (resize(checks, 16) == 100).all()  # averaged; point sampling would give 0 or 200
    assert resize(image, 9).shape == (9, 9)
    assert resize(checks, 64) is checks


def test_png_carries_its_header(tmp_path):
    path = tmp_path / "images" / "a.png"
    header = Header(1024, 900, 58.0, "F", "PA", "CR", "CHEST")
    write_png(path, RAMP, header)
    np.testing.assert_array_equal(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), RAMP)
    assert read_png_header(path, 16) == header
    assert read_png_header(path, 32) is None
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]
    content = path.read_bytes()
    for length in (0, 20, 60, len(content) - 1):
        path.write_bytes(content[:length])
        assert read_png_header(path, 16) is None
    write_png(path, RAMP)
    assert read_png_header(path, 16) is None
    assert read_png_header(tmp_path / "absent.png", 16) is None


def test_convert_keeps_what_is_there_and_gives_reasons(tmp_path):
    source = save(tmp_path / "a.dcm", make_dataset(RAMP, PatientSex="M"))
    target = tmp_path / "a.png"
    assert convert_image(source, target, 8) == (Header(16, 16, None, "M", ""), "")
    written = target.stat().st_mtime_ns
    source.unlink()
    assert convert_image(source, target, 8)[0] == Header(16, 16, None, "M", "")
    assert target.stat().st_mtime_ns == written
    header, reason = convert_image(source, tmp_path / "b.png", 8)
    assert header is None and str(source) in reason and not (tmp_path / "b.png").exists()


@needs_rsna
def test_real_rsna_images_pass_byte_identical():
    with open(RSNA / "nih_mapping.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[:25]
    for row in rows:
        path = RSNA / "stage_2_train_images" / f"{row['patientId']}.dcm"
        image, header = read_image(path)
        jpeg = next(
            pydicom.encaps.generate_frames(pydicom.dcmread(path).PixelData, number_of_frames=1)
        )
        np.testing.assert_array_equal(image, np.asarray(Image.open(io.BytesIO(jpeg))))
        facts = (float(row["age"]), row["sex"], row["view"], "CR", "CHEST")
        assert header == Header(1024, 1024, *facts)


# What each odd file must give: + bright where the stored value is high, - the reverse, RGB luma of
# the colours, or the words of the refusal. In the second place the window that applies, if any.
CT = ("+", (40, 400))
MR = ("+", (600, 1600))
CT_FILE = "syntax_ct/cornerstoneWADOIma__CTImage.dcm_"
EXPECTED = {
    CT_FILE + "BigEndianExplicitTransferSyntax_1.2.840.10008.1.2.2.dcm": CT,
    CT_FILE + "DeflatedExplicitVRLittleEndianTransferSyntax_1.2.840.10008.1.2.1.99.dcm": CT,
    CT_FILE + "JPEGLSLosslessTransferSyntax_1.2.840.10008.1.2.4.80.dcm": CT,
    CT_FILE + "JPEGProcess1TransferSyntax_1.2.840.10008.1.2.4.50.dcm": CT,
    CT_FILE + "LittleEndianExplicitTransferSyntax_1.2.840.10008.1.2.1.dcm": CT,
    "chest/torchxrayvision__1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819.dcm": (
        "+",
        None,
    ),
    "chest/torchxrayvision__Fake_MONOHR1.dcm": ("-", None),
    "chest/pydicom-data__RG1_J2KI.dcm": ("-", (15000, 30000)),
    "chest/XarpAi-Lung-Opacit__02099738-7465-4786-b71c-de8cdac477c3.dcm": ("+", None),
    "chest/XarpAi-Lung-Opacit__85444c90-e9d1-42cf-8ac4-f9968d27473d.dcm": ("+", None),
    "chest/XarpAi-Lung-Opacit__h_00a85be6-6eb0-421d-8acf-ff2dc0007e8a.dcm": ("+", None),
    "chest/orthanc-tests__Monochrome1-Jpeg.dcm": ("-", (114.516, 255.0623)),
    "pydicom_edge/pydicom__J2K_pixelrep_mismatch.dcm": ("+", (40, 100)),
    "pydicom_edge/pydicom__JPEG2000.dcm": ("+", None),
    "pydicom_edge/pydicom__MR_small_expb.dcm": MR,
    "pydicom_edge/pydicom__MR_small_implicit.dcm": MR,
    "pydicom_edge/pydicom__MR_small_jp2klossless.dcm": MR,
    "pydicom_edge/pydicom__MR_small_padded.dcm": MR,
    "pydicom_edge/pydicom__liver_1frame.dcm": ("+", None),
    "pydicom_edge/pydicom__liver_expb_1frame.dcm": ("+", None),
    "xray_other/dicom-test-files__RG3_JLSN.dcm": ("-", (550, 1024)),
    "pydicom_edge/pydicom__SC_jpeg_no_color_transform_2.dcm": ("RGB", None),
    "pydicom_edge/pydicom__SC_rgb_dcmtk_+eb+cy+n2.dcm": ("RGB", None),
    "pydicom_edge/pydicom__SC_rgb_dcmtk_+eb+cy+np.dcm": ("RGB", None),
    "pydicom_edge/pydicom__SC_rgb_dcmtk_+eb+cy+s2.dcm": ("RGB", None),
    "pydicom_edge/pydicom__SC_rgb_dcmtk_+eb+cy+s4.dcm": ("RGB", None),
    "pydicom_edge/pydicom__SC_rgb_gdcm_KY.dcm": ("RGB", None),
    "pydicom_edge/pydicom__SC_rgb_jpeg_dcmd.dcm": ("RGB", None),
    "pydicom_edge/pydicom__SC_rgb_jpeg_dcmtk.dcm": ("RGB", None),
    "pydicom_edge/pydicom__SC_rgb_jpeg_lossy_gdcm.dcm": ("RGB", None),
    "pydicom_edge/pydicom__SC_rgb_rle.dcm": ("RGB", None),
    "pydicom_edge/pydicom__SC_rgb_rle_32bit.dcm": ("RGB", None),
    "pydicom_edge/pydicom__SC_rgb_small_odd_jpeg.dcm": ("RGB", None),
    "pydicom_edge/pydicom__examples_jpeg2k.dcm": ("RGB", None),
    "pydicom_edge/pydicom__SC_rgb_rle_2frame.dcm": ("holds 2 frames", None),
    # One byte is missing from its start.
    "pydicom_edge/pydicom__no_meta.dcm": ("neither a DICOM, PNG nor JPEG", None),
    "pydicom_edge/pydicom__rtplan.dcm": ("no pixel data", None),
    "pydicom_edge/pydicom__rtplan_truncated.dcm": ("no pixel data", None),
    "malformed/orthanc-tests__Issue22-NoPixelData.dcm": ("no pixel data", None),
    "xray_other/pylibjpeg-data__RG2_JPLY.dcm": ("+", (511, 1024)),
}
# JPEG Extended of 12 bits, which pydicom does not decode; dcmtk 3.6.7 and libjpeg-turbo do.
TWELVE_BITS = ODD / "xray_other" / "pylibjpeg-data__RG2_JPLY.dcm"
TWELVE_BITS_SUM = 1_698_195_861  # of the stored values, by both


def odd_files():
    if not (ODD / "manifest.csv").is_file():
        return []
    with open(ODD / "manifest.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.skipif(not odd_files(), reason=f"no odd DICOMs at {ODD} (CXR_SHARED_DATA)")
def test_every_odd_file_has_its_expectation():
    assert sorted(row["file"] for row in odd_files()) == sorted(EXPECTED)


@pytest.mark.parametrize(
    "row",
    odd_files() or [pytest.param(None, marks=pytest.mark.skip(f"no odd DICOMs at {ODD}"))],
    ids=lambda row: row and row["file"].split("__")[-1][-40:],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_odd_file(row):
    path = ODD / row["file"]
    kind, window_values = EXPECTED[row["file"]]
    if kind not in ("+", "-", "RGB"):
        assert kind in refusal(path)
        return
    if path == TWELVE_BITS:
        return  # see below
    image, header = read_image(path)
    dataset = pydicom.dcmread(path)
    stored = dataset.pixel_array
    shape, extremes = row["pydicom_decode"].split("(")[1].split(")")
    height, width = (int(number) for number in shape.split(", ")[:2])
    assert image.dtype == np.uint8
    assert image.shape == (height, width) == (header.height, header.width)

    low, high = (int(number) for number in extremes.strip().split(".."))
    assert abs(int(stored.min()) - low) <= 1  # lossy decoders differ by 1
    assert abs(int(stored.max()) - high) <= 1
    if kind == "RGB":
        expected = luma(stored, dataset)
    else:
        expected = gray(stored, dataset, window_values, kind)
    tolerance = 3 if dataset.file_meta.TransferSyntaxUID == JPEGBaseline8Bit else 1
    assert np.abs(image - expected).max() <= tolerance
    assert image.min() < image.max()


@pytest.mark.skipif(not TWELVE_BITS.is_file(), reason=f"no odd DICOMs at {ODD} (CXR_SHARED_DATA)")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_jpeg_of_twelve_bits():
    stored = decode(open_dicom(TWELVE_BITS.read_bytes())).values
    assert stored.dtype == np.uint16
    assert (stored.min(), stored.max()) == (0, 960)
    assert stored.sum(dtype=np.int64) == TWELVE_BITS_SUM
    _, window_values = EXPECTED["xray_other/pylibjpeg-data__RG2_JPLY.dcm"]
    image, _ = read_image(TWELVE_BITS)
    expected = gray(stored, pydicom.dcmread(TWELVE_BITS), window_values, "+")
    assert np.abs(image - expected).max() <= 1


def luma(stored, dataset):
    return stored / (2.0**dataset.BitsStored - 1) * 255 @ [0.299, 0.587, 0.114]


def gray(stored, dataset, window_values, kind):
    """The answer straight from the standard's formula, or from the range of 8 bits or the image."""
    slope = float(dataset.get("RescaleSlope", 1))
    values = stored * slope + float(dataset.get("RescaleIntercept", 0))
    if window_values is not None:
        centre, width = window_values
        low = centre - 0.5 - (width - 1) / 2
        high = centre - 0.5 + (width - 1) / 2
    elif dataset.BitsStored == 8:
        low = 0
        high = 255
    else:
        low = values.min()
        high = values.max()
    shown = np.clip((values - low) / (high - low), 0, 1) * 255
    return 255 - shown if kind == "-" else shown


@pytest.mark.skipif(not odd_files(), reason=f"no odd DICOMs at {ODD} (CXR_SHARED_DATA)")
def test_same_image_in_other_syntaxes_is_the_same_picture():
    def images(pattern):
        return [read_image(path)[0] for path in sorted(ODD.glob(pattern))]

    for pattern, number in {
        "syntax_ct/*LittleEndian*": 2,
        "*/*MR_small*": 4,
        "*/*liver*": 2,
    }.items():
        first, *others = images(pattern)
        assert len(others) == number - 1
        for other in others:
            np.testing.assert_array_equal(other, first)
    (big,) = images("syntax_ct/*BigEndian*")
    np.testing.assert_array_equal(big, images("syntax_ct/*JPEGLS*")[0])
    np.testing.assert_array_equal(big, images("syntax_ct/*LittleEndianExplicit*")[0])
    (straight,) = images("chest/torchxrayvision__1.2*")
    (reverse,) = images("chest/torchxrayvision__Fake*")
    np.testing.assert_array_equal(reverse, 255 - straight)
    (eight_bits,) = images("pydicom_edge/*SC_rgb_rle.dcm")
    np.testing.assert_array_equal(eight_bits, images("pydicom_edge/*SC_rgb_rle_32bit.dcm")[0])
