"""Headers as real files have them: the right picture from both readers, cxr and edge_predict.py."""

import io
import struct

import cv2
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.tag import Tag
from pydicom.uid import (
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
from test_images import SHARED, jpeg_dicom, make_dataset, save

import edge_predict
from cxr.images.deep import read_deep
from cxr.images.isolated import Reader
from cxr.images.read import read_image
from cxr.system.errors import InputError

ODD_HEADERS = SHARED / "odd-headers"
RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)


def read_by_cxr(path):
    image, _ = read_image(path)
    return image


def read_by_edge(path):
    return edge_predict.read_xray(path).picture


@pytest.fixture(params=[read_by_cxr, read_by_edge], ids=["cxr", "edge"])
def read(request):
    return request.param


def odd_files():
    if not ODD_HEADERS.is_dir():
        return []
    return [
        path for path in sorted(ODD_HEADERS.iterdir()) if path.suffix in (".dcm", ".jpg", ".png")
    ]


@pytest.mark.skipif(not odd_files(), reason=f"no odd headers at {ODD_HEADERS} (CXR_SHARED_DATA)")
@pytest.mark.parametrize("path", odd_files(), ids=lambda path: path.name)
def test_drawn_files(read, path):
    right = ODD_HEADERS / "right" / f"{path.name}.png"
    if path.name == "trailing.jpg":
        expected = np.asarray(Image.open(path).convert("L"))
    elif path.suffix == ".png":  # with and without alpha
        expected = read_by_cxr(ODD_HEADERS / "gray16_12bit.png")
    else:
        expected = np.asarray(Image.open(right))
    np.testing.assert_array_equal(read(path), expected)


def stretch(values):
    """Minimum ... maximum to 0 ... 255."""
    low = values.min()
    scale = 255 / (values.max() - low)
    return np.rint((values.astype(np.float64) - low) * scale).astype(np.uint8)


def put_raw(dataset, keyword, vr, content):
    """An element whose bytes stand in the file as they are given here."""
    content += b"\0" * (len(content) % 2)
    tag = Tag(keyword)
    dataset[tag] = RawDataElement(tag, vr, len(content), content, 0, False, True)


def written(tmp_path, dataset, **raw):
    """The file; raw: keyword = (VR, bytes)."""
    for keyword, (vr, content) in raw.items():
        put_raw(dataset, keyword, vr, content)
    return save(tmp_path / "x.dcm", dataset)


# ------------------------------------------------------------------ numbers of the header

WINDOWED = np.rint(np.clip((RAMP - 899.5) / 799 + 0.5, 0, 1) * 255).astype(np.uint8)


@pytest.mark.parametrize(
    "centre, width",
    [
        (b"900", b"800"),
        (b"900,0", b"800,00"),
        (b" 900.0 ", b"8e2\0"),
        (b"900\\5", b"800\\6"),
        (b"900,0\\5", b"800"),
        (b"+900", b"0800"),
    ],
)
def test_windows_that_are_one(read, tmp_path, centre, width):
    dataset = make_dataset(RAMP, 12)
    path = written(tmp_path, dataset, WindowCenter=("DS", centre), WindowWidth=("DS", width))
    np.testing.assert_array_equal(read(path), WINDOWED)


@pytest.mark.parametrize(
    "centre, width",
    [
        (b"", b"800"),
        (b"900", b""),
        (b"MIN", b"MAX"),
        (b"NaN", b"800"),
        (b"900", b"nan"),
        (b"inf", b"800"),
        (b"900", b"-Infinity"),
        (b"900", b"1e999"),
        (b"1,234.5", b"800"),
        (b"\\900", b"\\800"),
        (b"900", b"-800"),
        (b"900", b"0"),
    ],
)
def test_windows_that_are_none(read, tmp_path, centre, width):
    dataset = make_dataset(RAMP, 12)
    path = written(tmp_path, dataset, WindowCenter=("DS", centre), WindowWidth=("DS", width))
    np.testing.assert_array_equal(read(path), stretch(RAMP))


@pytest.mark.parametrize(
    "slope, intercept",
    [
        (b"0", b"-1024"),
        (b"0.0", b"0"),
        (b"", b"-1024"),
        (b"2", b""),
        (b"NaN", b"0"),
        (b"a", b"b"),
        (b"inf", b"0"),
    ],
)
def test_slopes_that_are_none(read, tmp_path, slope, intercept):
    """The window is then of the stored values."""
    dataset = make_dataset(RAMP, 12, WindowCenter=900, WindowWidth=800)
    path = written(
        tmp_path, dataset, RescaleSlope=("DS", slope), RescaleIntercept=("DS", intercept)
    )
    np.testing.assert_array_equal(read(path), WINDOWED)


def test_a_slope_with_a_comma(read, tmp_path):
    dataset = make_dataset(RAMP, 12, WindowCenter=450, WindowWidth=400.5)
    path = written(tmp_path, dataset, RescaleSlope=("DS", b"0,5"), RescaleIntercept=("DS", b"0,0"))
    expected = np.rint(np.clip((RAMP / 2 - 449.5) / 399.5 + 0.5, 0, 1) * 255)
    np.testing.assert_array_equal(read(path), expected)


@pytest.mark.parametrize("missing", ["SamplesPerPixel", "PixelRepresentation", "HighBit"])
def test_what_is_missing_has_its_usual_value(read, tmp_path, missing):
    dataset = make_dataset(RAMP, 12)
    del dataset[missing]
    np.testing.assert_array_equal(read(save(tmp_path / "x.dcm", dataset)), stretch(RAMP))


def test_without_bits_stored_all_bits_are(read, tmp_path):
    dataset = make_dataset(RAMP)
    del dataset["BitsStored"]
    np.testing.assert_array_equal(read(save(tmp_path / "x.dcm", dataset)), stretch(RAMP))


@pytest.mark.parametrize(
    "tags, inverse",
    [
        ({"PhotometricInterpretation": b"monochrome1"}, True),
        ({"PhotometricInterpretation": b"MonoChrome2 "}, False),
        ({"PhotometricInterpretation": b"MONOCHROME 1"}, True),
        ({"PresentationLUTShape": b"inverse"}, True),
        ({"PresentationLUTShape": b"Identity"}, False),
    ],
)
def test_names_in_small_letters(read, tmp_path, tags, inverse):
    raw = {keyword: ("CS", content) for keyword, content in tags.items()}
    picture = read(written(tmp_path, make_dataset(RAMP, 12), **raw))
    expected = stretch(RAMP)
    np.testing.assert_array_equal(picture, 255 - expected if inverse else expected)


def test_a_function_in_small_letters(read, tmp_path):
    dataset = make_dataset(RAMP, 12, WindowCenter=2000, WindowWidth=800)
    path = written(tmp_path, dataset, VOILUTFunction=("CS", b"sigmoid"))
    expected = np.rint(255 / (1 + np.exp(-4 * (RAMP - 2000.0) / 800)))
    np.testing.assert_array_equal(read(path), expected)


@pytest.mark.parametrize("photometric", [b"", b"MONOCHROME3", b"CMYK"])
def test_unknown_kinds_of_pixels_are_refused(read, tmp_path, photometric):
    raw = {"PhotometricInterpretation": ("CS", photometric)}
    path = written(tmp_path, make_dataset(RAMP, 12), **raw)
    with pytest.raises((InputError, edge_predict.Refused)):
        read(path)


# ------------------------------------------------------------------------------- padding

SIGNED = np.array([[-2000, -100, 2, 100]], np.int16)
PADDED = [[0, 0, 130, 255]]


@pytest.mark.parametrize(
    "vr, content",
    [
        ("SS", struct.pack("<h", -2000)),
        ("US", struct.pack("<H", 63536)),
        ("US", struct.pack("<2H", 63536, 65535)),  # -2000 as one number of 32 bits
        ("SS", struct.pack("<2h", -2000, -2000)),
        ("SL", struct.pack("<l", -2000)),
        ("DS", b"-2000"),
    ],
)
def test_padding_in_the_sign_of_the_pixels(read, tmp_path, vr, content):
    path = written(tmp_path, make_dataset(SIGNED), PixelPaddingValue=(vr, content))
    assert read(path).tolist() == PADDED


def test_padding_of_unsigned_pixels_written_as_signed(read, tmp_path):
    pixels = np.array([[65535, 100, 151, 200]], np.uint16)
    raw = {"PixelPaddingValue": ("SS", struct.pack("<h", -1))}
    assert read(written(tmp_path, make_dataset(pixels), **raw)).tolist() == [[0, 0, 130, 255]]


def test_a_range_of_padding_in_either_sign(read, tmp_path):
    raw = {
        "PixelPaddingValue": ("US", struct.pack("<H", 63536)),
        "PixelPaddingRangeLimit": ("US", struct.pack("<H", 65486)),  # -50
    }
    assert read(written(tmp_path, make_dataset(SIGNED), **raw)).tolist() == [[0, 0, 0, 255]]


@pytest.mark.parametrize("content", [b"", struct.pack("<f", np.nan)])
def test_padding_that_is_none(read, tmp_path, content):
    raw = {"PixelPaddingValue": ("FL", content)}
    path = written(tmp_path, make_dataset(SIGNED), **raw)
    np.testing.assert_array_equal(read(path), stretch(SIGNED))


# ------------------------------------------------------------------------- lookup tables


def curve(count, bits):
    """Entries of a table (n,) that begin slowly."""
    share = np.arange(count) / (count - 1)
    return np.rint(share**2 * (2**bits - 1)).astype(np.uint16)


def pack(entries, vr, packed):
    if packed:
        content = entries.astype(np.uint8).tobytes()
        return vr, content + b"\0" * (len(content) % 2)
    return vr, entries.astype("<u2").tobytes()


def make_table(entries, first, bits, vr="OW", packed=False, count=None):
    """An item of a sequence; count: the number of entries that it states."""
    count = len(entries) if count is None else count
    described = struct.pack("<Hh" if first < 0 else "<2H", count % 2**16, first)
    table = Dataset()
    put_raw(table, "LUTDescriptor", "US", described + struct.pack("<H", bits))
    put_raw(table, "LUTData", *pack(entries, vr, packed))
    return table


def shade_by(entries, index):
    """The picture of a VOI LUT: its own range to 0 ... 255."""
    values = entries[np.clip(index, 0, len(entries) - 1)].astype(np.float64)
    low = float(entries.min())
    return np.rint((values - low) * (255 / (entries.max() - low))).astype(np.uint8)


@pytest.mark.parametrize("vr, packed", [("US", False), ("OW", False), ("OW", True), ("OB", True)])
@pytest.mark.parametrize("count", [4096, 200, 256, 255])
def test_tables_of_eight_bits(read, tmp_path, vr, packed, count):
    entries = curve(count, 8)
    table = make_table(entries, 0, 8, vr, packed)
    path = save(tmp_path / "x.dcm", make_dataset(RAMP, 12, VOILUTSequence=[table]))
    np.testing.assert_array_equal(read(path), shade_by(entries, RAMP))


@pytest.mark.parametrize("stated", [0, 8, 10, 12, 16, 255])
@pytest.mark.parametrize("bits", [10, 12, 16])
def test_tables_of_any_stated_depth(read, tmp_path, stated, bits):
    entries = curve(4096, bits)
    table = make_table(entries, 0, stated)
    path = save(tmp_path / "x.dcm", make_dataset(RAMP, 12, VOILUTSequence=[table]))
    np.testing.assert_array_equal(read(path), shade_by(entries, RAMP))


@pytest.mark.parametrize("first", [-2048, 63488])
@pytest.mark.parametrize("keyword", ["VOILUTSequence", "ModalityLUTSequence"])
def test_the_first_value_has_the_sign_of_the_pixels(read, tmp_path, first, keyword):
    pixels = RAMP.astype(np.int16) - 2048
    entries = curve(4096, 12)
    dataset = make_dataset(pixels, 12)
    setattr(dataset, keyword, [make_table(entries, first, 12)])
    np.testing.assert_array_equal(read(save(tmp_path / "x.dcm", dataset)), shade_by(entries, RAMP))


@pytest.mark.parametrize("first", [-1024, 64512])
def test_a_table_of_rescaled_values_below_zero(read, tmp_path, first):
    entries = curve(4096, 12)
    table = make_table(entries, first, 12)
    dataset = make_dataset(RAMP, 12, RescaleSlope=1, RescaleIntercept=-1024, VOILUTSequence=[table])
    np.testing.assert_array_equal(read(save(tmp_path / "x.dcm", dataset)), shade_by(entries, RAMP))


@pytest.mark.parametrize("first", [40000, 40000 - 2**16])
def test_a_table_of_large_unsigned_values(read, tmp_path, first):
    entries = curve(4096, 12)
    dataset = make_dataset(RAMP + np.uint16(40000), VOILUTSequence=[make_table(entries, first, 12)])
    np.testing.assert_array_equal(read(save(tmp_path / "x.dcm", dataset)), shade_by(entries, RAMP))


@pytest.mark.parametrize("bits", [8, 16])
def test_tables_with_fewer_entries_than_stated(read, tmp_path, bits):
    entries = curve(3000, bits)
    table = make_table(entries, 0, bits, count=4096)
    path = save(tmp_path / "x.dcm", make_dataset(RAMP, 12, VOILUTSequence=[table]))
    np.testing.assert_array_equal(read(path), shade_by(entries, RAMP))


def test_a_table_of_65536_entries(read, tmp_path):
    entries = curve(2**16, 16)
    table = make_table(entries, 0, 16)
    pixels = RAMP * np.uint16(16)
    path = save(tmp_path / "x.dcm", make_dataset(pixels, VOILUTSequence=[table]))
    np.testing.assert_array_equal(read(path), shade_by(entries, pixels))


def test_pixels_of_eight_bits_before_and_behind_a_table(read, tmp_path):
    """The difference to the first value must not be taken in 8 bits."""
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    entries = curve(100, 12)
    dataset = make_dataset(pixels, ModalityLUTSequence=[make_table(entries, 80, 12)])
    expected = shade_by(entries, pixels.astype(int) - 80)
    np.testing.assert_array_equal(read(save(tmp_path / "x.dcm", dataset)), expected)


def empty_table():
    table = Dataset()
    table.LUTExplanation = "Normal"
    put_raw(table, "LUTDescriptor", "US", b"")
    put_raw(table, "LUTData", "OW", b"")
    return table


@pytest.mark.parametrize(
    "items",
    [
        [],
        [Dataset()],
        [empty_table()],
        [empty_table(), Dataset()],
    ],
    ids=["no item", "empty item", "empty table", "two"],
)
@pytest.mark.parametrize("keyword", ["VOILUTSequence", "ModalityLUTSequence"])
def test_a_sequence_without_a_table_is_none(read, tmp_path, keyword, items):
    dataset = make_dataset(RAMP, 12, WindowCenter=900, WindowWidth=800)
    setattr(dataset, keyword, items)
    np.testing.assert_array_equal(read(save(tmp_path / "x.dcm", dataset)), WINDOWED)


def test_the_first_item_with_a_table(read, tmp_path):
    entries = curve(4096, 12)
    items = [empty_table(), make_table(entries, 0, 12)]
    path = save(tmp_path / "x.dcm", make_dataset(RAMP, 12, VOILUTSequence=items))
    np.testing.assert_array_equal(read(path), shade_by(entries, RAMP))


# --------------------------------------------------------------------- bits of the pixels


@pytest.mark.parametrize(
    "stored, high_bit", [(12, 15), (12, 14), (12, 12), (12, 11), (10, 13), (12, 3), (12, 99)]
)
def test_high_bits(read, tmp_path, stored, high_bit):
    """The last two are impossible: the bits are then the lower ones."""
    values = RAMP % 2**stored
    shift = high_bit + 1 - stored if stored <= high_bit < 16 else 0
    overlay = np.uint16(1) if shift else np.uint16(0)  # in the bits below
    dataset = make_dataset((values << shift) | overlay, stored, HighBit=high_bit)
    np.testing.assert_array_equal(read(save(tmp_path / "x.dcm", dataset)), stretch(values))


def test_high_bits_of_signed_pixels(read, tmp_path):
    values = RAMP.astype(np.int16) - 2048
    dataset = make_dataset(values << 4, 12, HighBit=15, WindowCenter=-1000, WindowWidth=801)
    expected = np.rint(np.clip((values + 1000.5) / 800 + 0.5, 0, 1) * 255)
    np.testing.assert_array_equal(read(save(tmp_path / "x.dcm", dataset)), expected)


@pytest.mark.parametrize("surplus", [b"\x05" + bytes(6), b"\xfb\x07"])
def test_rle_with_bytes_behind_its_segment(read, tmp_path, surplus):
    """More values than pixels, by a run or as they are, as some writers leave behind the last."""
    dataset = make_dataset(RAMP.astype(np.uint8))
    dataset.compress(RLELossless)
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    dataset.PixelData = encapsulate([frame + surplus])
    picture = read(save(tmp_path / "x.dcm", dataset))
    np.testing.assert_array_equal(picture, RAMP.astype(np.uint8))


def test_high_bits_in_rle(read, tmp_path):
    dataset = make_dataset(RAMP << 4, 12, HighBit=15)
    dataset.compress(RLELossless)
    np.testing.assert_array_equal(read(save(tmp_path / "x.dcm", dataset)), stretch(RAMP))


@pytest.fixture(scope="module")
def reader():
    """A process in which GDCM may be called."""
    reader = Reader(seconds=60)
    yield reader
    reader.close()


def compress_by_gdcm(source, target, syntax):
    import gdcm

    reader = gdcm.ImageReader()
    reader.SetFileName(str(source))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(syntax)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(target))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()


@pytest.mark.parametrize(
    "syntax", [JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless]
)
@pytest.mark.parametrize(
    "pixels, bits, tags",
    [
        (RAMP.astype(np.uint8), 8, {}),
        (RAMP, 12, {}),
        (RAMP.astype(np.int16) - 2048, 16, {"PixelPaddingValue": -2048}),
        (RAMP * np.uint16(16), 16, {"PhotometricInterpretation": "MONOCHROME1"}),
        (np.dstack([RAMP, RAMP // 2, RAMP // 3]).astype(np.uint8), 8, {}),
    ],
    ids=["8", "12", "signed", "16", "colour"],
)
def test_compressed_without_loss_is_the_same_picture(reader, tmp_path, syntax, pixels, bits, tags):
    pytest.importorskip("gdcm")
    source = save(tmp_path / "x.dcm", make_dataset(pixels, bits, **tags))
    compress_by_gdcm(source, tmp_path / "y.dcm", syntax)
    picture = reader.read(tmp_path / "y.dcm", [8]).shown
    np.testing.assert_array_equal(picture, read_by_cxr(source))


def test_high_bits_in_a_lossless_jpeg(tmp_path):
    """GDCM cuts off what is above the stored bits, unless it is told that there is nothing."""
    pytest.importorskip("gdcm")
    source = save(tmp_path / "x.dcm", make_dataset(RAMP << 4, 16))
    compress_by_gdcm(source, tmp_path / "y.dcm", JPEGLosslessSV1)
    dataset = pydicom.dcmread(tmp_path / "y.dcm")
    dataset.BitsStored = 12
    np.testing.assert_array_equal(read_by_cxr(save(tmp_path / "z.dcm", dataset)), stretch(RAMP))


SMOOTH = cv2.GaussianBlur(
    np.random.default_rng(0).integers(0, 256, (40, 56), dtype=np.uint8), (0, 0), 3
)


@pytest.mark.parametrize("allocated, stored", [(8, 8), (16, 8), (16, 12), (16, 16)])
def test_a_jpeg_of_eight_bits_whatever_its_header_says(read, tmp_path, allocated, stored):
    path, decoded = jpeg_dicom(tmp_path / "x.dcm", SMOOTH)
    dataset = pydicom.dcmread(path)
    dataset.BitsAllocated = allocated
    dataset.BitsStored = stored
    dataset.HighBit = stored - 1
    np.testing.assert_array_equal(read(save(path, dataset)), decoded)


# -------------------------------------------------------------------- bytes behind the end

TAILS = [b"\0" * 200, b"\xff" * 3, b"after the end", b"\xff\xd9", bytes(range(256))]


@pytest.mark.parametrize("tail", TAILS, ids=["zeros", "fill", "words", "end", "all"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_jpegs_with_bytes_behind_their_end(read, tmp_path, tail, options):
    buffer = io.BytesIO()
    Image.fromarray(SMOOTH).save(buffer, "JPEG", quality=90, **options)
    decoded = np.asarray(Image.open(buffer))
    content = buffer.getvalue() + tail
    (tmp_path / "x.jpg").write_bytes(content)
    np.testing.assert_array_equal(read(tmp_path / "x.jpg"), decoded)

    dataset = make_dataset(SMOOTH)
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.PixelData = encapsulate([content])
    dataset["PixelData"].is_undefined_length = True
    np.testing.assert_array_equal(read(save(tmp_path / "x.dcm", dataset)), decoded)


@pytest.mark.parametrize("tail", TAILS, ids=["zeros", "fill", "words", "end", "all"])
def test_pngs_with_bytes_behind_their_end(read, tmp_path, tail):
    buffer = io.BytesIO()
    Image.fromarray(SMOOTH).save(buffer, "PNG")
    (tmp_path / "x.png").write_bytes(buffer.getvalue() + tail)
    np.testing.assert_array_equal(read(tmp_path / "x.png"), SMOOTH)


@pytest.mark.parametrize("ending", ["PNG", "JPEG"])
def test_pictures_that_are_cut_off_stay_refused(read, tmp_path, ending):
    buffer = io.BytesIO()
    Image.fromarray(SMOOTH).save(buffer, ending)
    content = buffer.getvalue()
    for length in (30, len(content) // 2, len(content) - 60):
        (tmp_path / "x").write_bytes(content[:length])
        with pytest.raises((InputError, edge_predict.Refused)):
            read(tmp_path / "x")


# ------------------------------------------------------------------- pictures of all kinds

UPRIGHT = {
    1: lambda picture: picture,
    2: np.fliplr,
    3: lambda picture: np.rot90(picture, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda picture: np.rot90(picture, -1),
    7: lambda picture: np.rot90(picture, 2).T,
    8: np.rot90,
    9: lambda picture: picture,  # there is no such orientation
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("mode, ending", [("L", "jpg"), ("RGB", "jpg"), ("L", "png")])
def test_orientation_in_exif(read, tmp_path, orientation, mode, ending):
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / f"x.{ending}"
    Image.fromarray(SMOOTH).convert(mode).save(path, exif=exif, quality=95)
    as_stored = np.asarray(Image.open(path).convert("L"))
    np.testing.assert_array_equal(read(path), UPRIGHT[orientation](as_stored))


@pytest.mark.parametrize(
    "exif, orientation",
    [
        (b"II*\0" + struct.pack("<LHHHLHH", 8, 1, 274, 3, 1, 6, 0), 6),
        (b"MM\0*" + struct.pack(">LHHHLHH", 8, 1, 274, 3, 1, 6, 0), 6),
        (b"II*\0" + struct.pack("<LHHHLL", 8, 1, 274, 4, 1, 6), 6),  # as a long number
        (b"II*\0" + struct.pack("<LHHHLHHHHLHH", 8, 2, 271, 3, 1, 8, 0, 274, 3, 1, 6, 0), 6),
        (b"II*\0" + struct.pack("<LHHHLHH", 8, 1, 274, 2, 1, 6, 0), 1),  # as text
        (b"II*\0" + struct.pack("<LHHHLHH", 2**31, 1, 274, 3, 1, 6, 0), 1),  # beyond the end
        (b"II*\0" + struct.pack("<LH", 8, 65535), 1),
        (b"words", 1),
    ],
)
def test_exif_of_other_writers(read, tmp_path, exif, orientation):
    path = tmp_path / "x.jpg"
    Image.fromarray(SMOOTH).save(path, exif=b"Exif\0\0" + exif)
    buffer = io.BytesIO()
    Image.fromarray(SMOOTH).save(buffer, "JPEG")
    as_stored = np.asarray(Image.open(buffer))
    np.testing.assert_array_equal(read(path), UPRIGHT[orientation](as_stored))


def test_a_jpeg_inside_a_dicom_is_upright_already(read, tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    buffer = io.BytesIO()
    Image.fromarray(SMOOTH).save(buffer, "JPEG", exif=exif)
    dataset = make_dataset(SMOOTH)
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.PixelData = encapsulate([buffer.getvalue()])
    dataset["PixelData"].is_undefined_length = True
    decoded = np.asarray(Image.open(buffer))
    np.testing.assert_array_equal(read(save(tmp_path / "x.dcm", dataset)), decoded)


def test_deep_pngs_with_colour_and_alpha_are_as_their_gray_twins(read, tmp_path):
    opaque = np.full_like(RAMP, 65535)
    twins = {
        "gray": RAMP,
        "rgb": np.dstack([RAMP] * 3),
        "rgba": np.dstack([RAMP, RAMP, RAMP, opaque]),
    }
    for name, pixels in twins.items():
        path = tmp_path / f"{name}.png"
        cv2.imwrite(str(path), pixels)
        np.testing.assert_array_equal(read(path), stretch(RAMP), err_msg=name)


def test_deep_colours_become_luma(read, tmp_path):
    blue_green_red = np.zeros((1, 4, 3), np.uint16)
    blue_green_red[0, 1] = (0, 0, 40000)
    blue_green_red[0, 2] = (0, 40000, 0)
    blue_green_red[0, 3] = (40000, 40000, 40000)
    cv2.imwrite(str(tmp_path / "x.png"), blue_green_red)
    assert read(tmp_path / "x.png").tolist() == [[0, 76, 150, 255]]


# ----------------------------------------------------------------------- the page's values


@pytest.mark.parametrize(
    "photometric, shape, inverse",
    [
        ("MONOCHROME2", "IDENTITY", False),
        ("MONOCHROME2", "INVERSE", True),
        ("MONOCHROME2", "inverse", True),
        ("monochrome1", "IDENTITY", True),
        ("MONOCHROME1", "INVERSE", True),
    ],
)
def test_the_page_inverts_as_the_picture(tmp_path, photometric, shape, inverse):
    dataset = make_dataset(RAMP, 12)
    raw = {
        "PhotometricInterpretation": ("CS", photometric.encode()),
        "PresentationLUTShape": ("CS", shape.encode()),
    }
    path = written(tmp_path, dataset, **raw)
    assert read_deep(path, 1000).inverse == inverse
    picture = read_by_cxr(path)
    assert picture[0, 0] == (255 if inverse else 0)


@pytest.mark.parametrize(
    "centre, width", [(b"NaN", b"NaN"), (b"MIN", b"MAX"), (b"900", b""), (b"90000", b"10")]
)
def test_the_page_has_a_window_of_numbers(tmp_path, centre, width):
    """The last one would show a single gray, and the picture does without it."""
    dataset = make_dataset(RAMP, 12)
    path = written(tmp_path, dataset, WindowCenter=("DS", centre), WindowWidth=("DS", width))
    deep = read_deep(path, 1000)
    assert (deep.centre, deep.width) == (2047.5, 4095)


def test_the_page_takes_a_window_with_commas(tmp_path):
    dataset = make_dataset(RAMP, 12)
    path = written(
        tmp_path, dataset, WindowCenter=("DS", b"900,5"), WindowWidth=("DS", b"800,0\\3")
    )
    deep = read_deep(path, 1000)
    assert (deep.centre, deep.width) == (900.5, 800)
