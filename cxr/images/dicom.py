"""DICOM files: one frame of pixels as it is stored."""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass, replace

import cv2
import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels import get_decoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from cxr.images.codestream import Codestream, find_jpeg_end, read_codestream
from cxr.images.gdcm_process import decode_with_gdcm
from cxr.images.header import MOST_PIXELS
from cxr.images.pixel_format import PixelFormat, read_pixel_format
from cxr.system.errors import InputError

META_START = 132  # bytes of preamble and mark
META_LENGTH = 12  # bytes of the first element after them, which says how long the others are
MOST_UNPACKED = 6 * MOST_PIXELS  # bytes of a deflated file: three colours of 16 bits
PIXEL_ELEMENTS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
JPEG_SYNTAXES = (JPEGBaseline8Bit, JPEGExtended12Bit)
# Which of pydicom's plug-ins decodes what: the first that is installed, so that a picture does not
# depend on which of them fails. GDCM is the last, since it may end the process. pyjpegls comes with
# highdicom.
JPEG2000_PLUGINS = ("pylibjpeg", "pillow", "gdcm")
JPEG_LS_PLUGINS = ("pyjpegls", "gdcm")
PLUGINS = {
    JPEGBaseline8Bit: ("pillow",),
    JPEGExtended12Bit: ("pillow", "gdcm"),
    JPEGLossless: ("gdcm",),
    JPEGLosslessSV1: ("gdcm",),
    JPEGLSLossless: JPEG_LS_PLUGINS,
    JPEGLSNearLossless: JPEG_LS_PLUGINS,
    JPEG2000Lossless: JPEG2000_PLUGINS,
    JPEG2000: JPEG2000_PLUGINS,
    HTJ2KLossless: ("pylibjpeg",),
    HTJ2KLosslessRPCL: ("pylibjpeg",),
    HTJ2K: ("pylibjpeg",),
    RLELossless: ("pylibjpeg", "pydicom"),
}
LOSSLESS_JPEG = (JPEGLossless, JPEGLosslessSV1)
NATIVE = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
)


@dataclass(frozen=True)
class Dicom:
    """A parsed file that holds one frame of pixels."""

    dataset: Dataset
    syntax: UID  # how the pixels are compressed
    pixels: PixelFormat
    pixel_element: str  # its keyword, one of PIXEL_ELEMENTS


@dataclass(frozen=True)
class StoredPixels:
    """Values (height, width), or (height, width, 3) in RGB, and what they mean."""

    values: np.ndarray
    format: PixelFormat


def open_dicom(content: bytes) -> Dicom:
    """InputError where there is not one picture in it."""
    if not content:
        raise InputError("the file is empty")
    is_marked = content[128:META_START] == b"DICM"
    refuse_bomb(content)
    dataset = pydicom.dcmread(io.BytesIO(content), force=not is_marked)

    pixel_elements = [name for name in PIXEL_ELEMENTS if name in dataset]
    if not is_marked and not (pixel_elements and "Rows" in dataset):
        raise InputError("is neither a DICOM, PNG nor JPEG file")
    if not pixel_elements:
        raise InputError("holds no pixel data (or is cut off before them)")
    _, little_endian = dataset.original_encoding
    pixels = read_pixel_format(dataset, bool(little_endian))
    return Dicom(dataset, read_syntax(dataset), pixels, pixel_elements[0])


def refuse_bomb(content: bytes) -> None:
    """InputError where a deflated file unpacks to more than any X-ray has.

    pydicom unpacks it at once, and few bytes may stand for any number of zeros.
    """
    start = META_START + META_LENGTH
    if DeflatedExplicitVRLittleEndian.encode() not in content[:2000]:
        return
    start += int.from_bytes(content[start - 4 : start], "little")
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflater.decompress(content[start:], MOST_UNPACKED)
    except zlib.error:  # pydicom will say so, too
        return
    if inflater.unconsumed_tail:
        raise InputError(f"unpacks to more than {MOST_UNPACKED // 10**6} MB")


def read_syntax(dataset: Dataset) -> UID:
    """The transfer syntax; without a meta header the pixels are taken as uncompressed."""
    if "TransferSyntaxUID" in dataset.file_meta:
        return UID(dataset.file_meta.TransferSyntaxUID)
    implicit, little_endian = dataset.original_encoding
    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little_endian else ExplicitVRBigEndian


def decode(dicom: Dicom) -> StoredPixels:
    """The pixels as they are stored.

    InputError where a compressed picture says another size of itself than the header around it.
    """
    if dicom.syntax in NATIVE:
        return StoredPixels(decode_native(dicom), dicom.pixels)
    if dicom.syntax not in PLUGINS:
        raise InputError(
            f"is compressed as {dicom.syntax.name}, which is not read: decompress it first, such "
            "as with gdcmconv --raw"
        )
    frame = get_frame(dicom.dataset.PixelData, 0, number_of_frames=1)
    if dicom.syntax == RLELossless:
        cells = run_plugin(frame, dicom.syntax, dicom.pixels)
        return StoredPixels(dicom.pixels.used_bits(cells), dicom.pixels)
    stream = checked_codestream(frame, dicom.pixels)
    if dicom.syntax in JPEG_SYNTAXES:
        return decode_jpeg(frame, stream, dicom)

    cells = run_plugin(frame, dicom.syntax, dicom.pixels)
    # JPEG-LS and JPEG 2000 leave out the unused bits, unless the values stand in the upper ones.
    if dicom.syntax in LOSSLESS_JPEG or stream.precision == dicom.pixels.bits_allocated:
        cells = dicom.pixels.used_bits(cells)
    return StoredPixels(cells, dicom.pixels)


def decode_native(dicom: Dicom) -> np.ndarray:
    """What is not compressed, or deflated with the whole file."""
    options = dicom.pixels.as_options()
    options["pixel_keyword"] = dicom.pixel_element
    options["pixel_vr"] = dicom.dataset[dicom.pixel_element].VR
    content = dicom.dataset[dicom.pixel_element].value
    cells, _ = get_decoder(dicom.syntax).as_array(content, **options)
    if dicom.pixel_element != "PixelData":  # floating-point numbers
        return cells
    return dicom.pixels.used_bits(cells)


def checked_codestream(frame: bytes, pixels: PixelFormat) -> Codestream:
    """What the compressed picture says of itself, where that fits the header around it."""
    stream = read_codestream(frame)
    if stream is None:
        raise InputError("holds no JPEG or JPEG 2000 where its header says so")
    if stream.shape != pixels.shape:
        raise InputError(
            f"holds a picture of shape {stream.shape}, and its header says {pixels.shape}"
        )
    if stream.precision > pixels.bits_allocated:
        raise InputError(
            f"holds {stream.precision} bits a pixel, and its header says {pixels.bits_allocated}"
        )
    return stream


def decode_jpeg(frame: bytes, stream: Codestream, dicom: Dicom) -> StoredPixels:
    """JPEG with losses, of 8 bits (whatever the header says) or 12."""
    pixels = dicom.pixels
    if stream.precision > 8:
        if pixels.samples > 1:
            raise InputError(f"holds a JPEG of {stream.precision} bits in colour")
        cells = decode_with_gdcm(frame, JPEGExtended12Bit, pixels)
        return StoredPixels(cells, pixels)

    bits_stored = min(pixels.bits_stored, 8)
    pixels = replace(pixels, bits_allocated=8, bits_stored=bits_stored, high_bit=bits_stored - 1)
    if pixels.samples == 1 and not pixels.signed:
        return StoredPixels(decode_gray_jpeg(frame), pixels)
    return StoredPixels(run_plugin(frame, JPEGBaseline8Bit, pixels), pixels)


def decode_gray_jpeg(jpeg: bytes) -> np.ndarray:
    """(height, width) uint8.

    OpenCV decodes to the same bits as Pillow in less time, but fills up what is cut off, which
    Pillow refuses.
    """
    if find_jpeg_end(jpeg) is not None:
        image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_UNCHANGED)
        if image is not None:
            return image
    with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as picture:
        return np.asarray(picture)


def run_plugin(frame: bytes, syntax: UID, pixels: PixelFormat) -> np.ndarray:
    """Cells of a compressed frame by the first decoder of PLUGINS that is installed."""
    installed = get_decoder(syntax).available_plugins
    plugins = [name for name in PLUGINS[syntax] if name in installed]
    if not plugins:
        raise InputError(
            f"is compressed as {syntax.name}, which needs one more package (see "
            "requirements.txt): install it, or decompress the file first, such as with "
            "gdcmconv --raw"
        )
    if plugins[0] == "gdcm":
        return decode_with_gdcm(frame, syntax, pixels)
    try:
        return call_plugin(plugins[0], frame, syntax, pixels)
    except Exception:
        # pylibjpeg wants segments of RLE to end where they should, which those of some writers do
        # not; pydicom is slow and forgiving, and both are exact.
        if syntax != RLELossless or len(plugins) == 1:
            raise
        return call_plugin(plugins[1], frame, syntax, pixels)


def call_plugin(name: str, frame: bytes, syntax: UID, pixels: PixelFormat) -> np.ndarray:
    """Cells of a compressed frame by a plug-in of pydicom."""
    try:
        cells, _ = get_decoder(syntax).as_array(
            encapsulate([frame]), index=0, decoding_plugin=name, **pixels.as_options()
        )
    except (Exception, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the panic of a plug-in written in Rust
        raise ValueError(f"{name}: {error}") from None
    return cells
