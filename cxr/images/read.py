"""X-ray files to 8-bit gray pictures: DICOM, PNG, JPEG in; PNG with the header's facts out."""

import io
import json
import re
import struct
import warnings
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import pydicom
from PIL import Image
from pydicom.encaps import get_frame
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
)

from cxr.system.disk import InputError, atomic

PNG_START = 33  # bytes of a PNG before its second chunk: signature and size
PNG_FLAGS = [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
if hasattr(cv2, "IMWRITE_PNG_FILTER"):  # OpenCV 4.11; before, it takes differences to the left
    PNG_FLAGS += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]
PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
JPEG_END = b"\xff\xd9"
PICTURE_STARTS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
MOST_PIXELS = 50_000_000  # the largest X-ray detectors have 20 million; a header with more is a mistake or a trap
CHANGES_GRAY = (
    "ModalityLUTSequence",
    "RescaleSlope",
    "RescaleIntercept",
    "VOILUTSequence",
    "WindowCenter",
    "PresentationLUTShape",
)  # tags that may make the picture differ from what is stored
YEARS_PER_UNIT = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0, "": 1.0}


@dataclass(frozen=True)
class Header:
    """Facts of the original file. Age in years as the file states it: ages above 100 occur in real data (typing
    errors such as 148) and are kept, the reader of the table decides. sex M, F or "". view AP, PA or ""."""

    width: int
    height: int
    age: float | None = None
    sex: str = ""
    view: str = ""


def read_image(path):
    """Picture (height, width) uint8, bright = dense, and its Header.

    The kind of file is told from its first bytes, not its name. Raises InputError, naming the file and the reason, for
    everything that does not give one gray X-ray: no pixels, several frames, truncated, unknown compression, more than
    MOST_PIXELS.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # invalid UIDs, ages without unit: harmless, and common in public data
            return (
                _read_picture(content)
                if content.startswith(PICTURE_STARTS)
                else _read_dicom(content)
            )
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except Exception as error:  # the decoders raise anything at all on damaged bytes
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{path}: cannot be decoded ({type(error).__name__}: {reason})") from None


def _read_picture(content):
    with Image.open(io.BytesIO(content)) as picture:
        refuse_huge(*picture.size)
        deep = picture.mode.startswith(("I", "F"))
        # Modes of 8 bits go through convert: palette, alpha and colour become gray (ITU-R 601 luma).
        image = to_uint8(np.asarray(picture)) if deep else np.asarray(picture.convert("L"))
    return image, Header(image.shape[1], image.shape[0])


def refuse_huge(width, height):
    """InputError where an image states a size that no X-ray has, before anything of that size is unpacked."""
    if width * height > MOST_PIXELS:
        raise InputError(
            f"states {width} x {height} pixels, and more than {MOST_PIXELS // 10**6} million are not read"
        )


def _read_dicom(content):
    dataset = open_dicom(content)
    stored = _stored_pixels(dataset)
    image = (
        gray_from_colour(stored, dataset)
        if is_colour(dataset)
        else gray_from_monochrome(stored, dataset)
    )
    header = Header(
        image.shape[1],
        image.shape[0],
        parse_age(dataset.get("PatientAge")),
        _one_of(dataset.get("PatientSex"), ("M", "F")),
        _one_of(dataset.get("ViewPosition"), ("AP", "PA")),
    )
    return image, header


def open_dicom(content):
    """The parsed file, its `pixel_array` ready to be read. InputError where there is not one picture in it."""
    dataset = _dataset(content)
    if dataset.file_meta.TransferSyntaxUID == JPEGBaseline8Bit:
        # Always there, so the pictures do not depend on which decoders are installed, and refuses a truncated stream.
        dataset.pixel_array_options(decoding_plugin="pillow")
    return dataset


def _dataset(content):
    """The parsed bytes, known to hold one frame of pixels. Without the 'DICM' mark it must at least parse as one."""
    if not content:
        raise InputError("the file is empty")
    marked = content[128:132] == b"DICM"
    dataset = pydicom.dcmread(io.BytesIO(content), force=not marked)
    pixels = any(
        name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
    )
    if not marked and not (pixels and "Rows" in dataset):
        raise InputError("is neither a DICOM, PNG nor JPEG file")
    if not pixels:
        raise InputError("holds no pixel data (or is cut off before them)")
    if int(dataset.get("NumberOfFrames") or 1) > 1:
        raise InputError(f"holds {dataset.NumberOfFrames} frames, and an X-ray has one")
    if not dataset.get("Rows") or not dataset.get("Columns"):
        raise InputError("states no image size")
    refuse_huge(dataset.Columns, dataset.Rows)
    if (
        "TransferSyntaxUID" not in dataset.file_meta
    ):  # no meta header: the pixels are taken as uncompressed
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return dataset


def _stored_pixels(dataset):
    """What pydicom's pixel_array gives. The commonest kind of X-ray is decoded without pydicom's copies."""
    kind = [
        dataset.get(name) for name in ("SamplesPerPixel", "BitsAllocated", "PixelRepresentation")
    ]
    if dataset.file_meta.TransferSyntaxUID == JPEGBaseline8Bit and kind == [1, 8, 0]:
        return _decode_gray_jpeg(dataset)
    return dataset.pixel_array


def _decode_gray_jpeg(dataset):
    """OpenCV decodes to the same bits as Pillow in less time, but fills up what is cut off, which Pillow refuses."""
    jpeg, image = get_frame(dataset.PixelData, 0, number_of_frames=1), None
    if jpeg.rstrip(b"\0").endswith(JPEG_END):
        image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as picture:
            image = np.asarray(picture)
    if image.shape != (dataset.Rows, dataset.Columns):
        raise InputError(
            f"holds a JPEG of shape {image.shape}, and its header says {dataset.Rows, dataset.Columns}"
        )
    return image


def gray_from_colour(stored, dataset):
    """(height, width) or (height, width, 3) colour pixels, already RGB or palette indices, to uint8 gray (luma)."""
    bits = dataset.BitsStored
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        stored = apply_color_lut(stored, dataset)
        bits = 8 * stored.dtype.itemsize
    if stored.ndim != 3 or stored.shape[2] != 3:
        raise InputError(f"has pixels of shape {stored.shape}, and colour means three samples")
    return cv2.cvtColor(to_uint8(stored, 0, 2**bits - 1), cv2.COLOR_RGB2GRAY)


def gray_from_monochrome(stored, dataset):
    """Stored values (height, width) to uint8: modality LUT, VOI LUT or window, 8 bits, inversion, padding to black.

    Without a VOI LUT or window, 8 stored bits pass unchanged; other depths map their own minimum ... maximum to
    0 ... 255, because few files use all of their bits (12 used bits in 16 stored ones would be a black picture).
    The VOI LUT is preferred to the window, the first of several is taken (DICOM PS3.3 C.11.2), and one that leaves a
    single gray of a picture that has several is ignored. Inverted once where the photometric interpretation
    or the presentation LUT asks for it. Padding is left out of the minimum and maximum.
    """
    if stored.ndim != 2:
        raise InputError(f"has pixels of shape {stored.shape}, and a gray X-ray has two dimensions")
    if _is_plain(stored, dataset):
        return stored
    if not np.isfinite(stored).all():
        raise InputError("has pixel values that are not numbers")
    padding = padding_mask(stored, dataset)
    values = apply_modality_lut(stored, dataset)
    image = _voi(values, dataset)
    if image is None or (np.ptp(image) == 0 and np.ptp(stored) > 0):
        image = to_uint8(values, *_full_range(values, padding, dataset))
    inverse = (
        dataset.PhotometricInterpretation == "MONOCHROME1"
        or dataset.get("PresentationLUTShape") == "INVERSE"
    )
    image = 255 - image if inverse else image
    return np.where(padding, np.uint8(0), image) if padding.any() else image


def _is_plain(stored, dataset):
    """Whether all that follows in `gray_from_monochrome` would change nothing, as in the files of most public sets."""
    eight_bits = stored.dtype == np.uint8 and dataset.get("BitsStored") == 8
    return (
        eight_bits
        and dataset.PhotometricInterpretation == "MONOCHROME2"
        and not any(name in dataset for name in CHANGES_GRAY)
    )


def _voi(values, dataset):
    """uint8 picture after the VOI LUT or window, None where the file has neither (or an impossible width)."""
    if dataset.get("VOILUTSequence"):
        entries, first, _ = dataset.VOILUTSequence[0].LUTDescriptor
        # The range is that of the table's own entries: many files state 16 bits for a table of 12.
        table = apply_voi(np.arange(first, first + (entries or 2**16)), dataset)
        return to_uint8(apply_voi(values, dataset), table.min(), table.max())
    centre, width = (
        first_number(dataset.get("WindowCenter")),
        first_number(dataset.get("WindowWidth")),
    )
    kind = dataset.get("VOILUTFunction") or "LINEAR"
    if centre is None or width is None or width < (1 if kind == "LINEAR" else 1e-9):
        return None
    return np.rint(255 * window(values, centre, width, kind)).astype(np.uint8)


def window(values, centre, width, kind="LINEAR"):
    """Values to 0 ... 1 by the VOI LUT functions of DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3."""
    values = np.asarray(values, np.float64)
    if kind == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -50, 50)))
    if kind == "LINEAR_EXACT":
        return np.clip((values - centre) / width + 0.5, 0, 1)
    if width == 1:
        return (values > centre - 0.5).astype(np.float64)
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)


def _full_range(values, padding, dataset):
    """The values that become 0 and 255 where nothing in the file says so (see gray_from_monochrome)."""
    eight_bits = dataset.get("BitsStored") == 8 and dataset.get("PixelRepresentation") == 0
    if eight_bits and "ModalityLUTSequence" not in dataset:
        ends = apply_modality_lut(np.array([0, 255], np.uint8), dataset)
        return ends.min(), ends.max()
    real = values[~padding]
    return (real.min(), real.max()) if real.size else (0, 1)


def padding_mask(stored, dataset):
    """Mask of the pixels that are no image (PS3.3 C.7.5.1.1.2). None in 8 bits: there the value is also a true gray."""
    value, limit = dataset.get("PixelPaddingValue"), dataset.get("PixelPaddingRangeLimit")
    if value is None or dataset.get("BitsStored") == 8:
        return np.zeros(stored.shape, bool)
    low, high = sorted((value, value if limit is None else limit))
    return (stored >= low) & (stored <= high)


def to_uint8(values, low=None, high=None):
    """Map low ... high (default: minimum ... maximum) linearly to 0 ... 255, clipped; a constant image gives 0."""
    low = float(values.min() if low is None else low)
    high = float(values.max() if high is None else high)
    if values.dtype == np.uint8 and (low, high) == (0, 255):
        return values
    scale = 255 / (high - low) if high > low else 0.0
    return np.rint(np.clip((values.astype(np.float64) - low) * scale, 0, 255)).astype(np.uint8)


def parse_age(text):
    """Years as float from a DICOM age string ('058Y', '6M', '12W', '100D') or a bare number; None for anything else."""
    match = re.fullmatch(r"(\d{1,3})([DWMY]?)", str(text or "").strip().upper())
    return int(match[1]) * YEARS_PER_UNIT[match[2]] if match else None


def _one_of(text, allowed):
    text = str(text or "").strip().upper()
    return text if text in allowed else ""


def is_colour(dataset):
    return (
        int(dataset.get("SamplesPerPixel") or 1) > 1
        or dataset.get("PhotometricInterpretation") == "PALETTE COLOR"
    )


def first_number(value):
    """The first of one or several numbers of a DICOM element as float, None where it is empty."""
    value = value[0] if isinstance(value, pydicom.multival.MultiValue) and len(value) else value
    return None if value is None or str(value).strip() in ("", "[]") else float(value)


def resize(image, size):
    """(height, width) to (size, size), the aspect not kept. Area averaging when shrinking: it does not alias."""
    if image.shape == (size, size):
        return image
    grows = image.shape[0] <= size and image.shape[1] <= size
    return cv2.resize(
        image, (size, size), interpolation=cv2.INTER_LINEAR if grows else cv2.INTER_AREA
    )


def write_png(path, image, header=None):
    """Write (height, width) uint8 as gray PNG; `header`, where given, travels inside the same file (a tEXt chunk), so
    picture and facts appear together or not at all. OSError where the disk refuses.

    Run-length coding: X-rays hardly repeat themselves, so the search for repetitions takes twice the time and gains
    nothing; the black around them is where runs are. Differences to the line above alone, the quickest to undo.
    """
    content = cv2.imencode(".png", np.ascontiguousarray(image), PNG_FLAGS)[1].tobytes()
    if header is not None:
        chunk = b"tEXtheader\0" + json.dumps(asdict(header)).encode("ascii")
        chunk = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        content = content[:PNG_START] + chunk + content[PNG_START:]
    with atomic(path) as temporary:
        temporary.write_bytes(content)


def read_png_header(path, size):
    """Header inside a PNG of `write_png`, without decoding it; None unless it is whole, gray, size x size and ours."""
    try:
        with Image.open(path) as picture:
            right = picture.size == (size, size) and picture.mode == "L"
            facts = json.loads(picture.info["header"]) if right else None
        with open(path, "rb") as file:
            file.seek(-len(PNG_END), 2)
            return Header(**facts) if right and file.read() == PNG_END else None
    except (OSError, SyntaxError, KeyError, ValueError, TypeError):
        return None


def convert_image(source, target, size):
    """X-ray file `source` to the PNG `target` of size x size. (Header, "") or (None, why the source was refused).

    Does nothing where `target` is there already. OSError where the target cannot be written: that is no fault of
    the source.
    """
    header = read_png_header(target, size)
    if header is not None:
        return header, ""
    try:
        image, header = read_image(source)
    except InputError as error:
        return None, str(error)
    write_png(target, resize(image, size), header)
    return header, ""
