"""DICOM files: one frame of pixels as it is stored."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
)

from cxr.images.header import refuse_huge
from cxr.system.errors import InputError

JPEG_END = b"\xff\xd9"
PIXEL_ELEMENTS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


def open_dicom(content: bytes) -> Dataset:
    """The parsed file, its `pixel_array` ready to be read.

    InputError where there is not one picture in it.
    """
    dataset = _parse(content)
    if dataset.file_meta.TransferSyntaxUID == JPEGBaseline8Bit:
        # Always there, so the pictures do not depend on which decoders are installed, and refuses
        # a truncated stream.
        dataset.pixel_array_options(decoding_plugin="pillow")
    return dataset


def _parse(content: bytes) -> Dataset:
    """The parsed bytes, known to hold one frame of pixels.

    Without the 'DICM' mark they must at least parse as one.
    """
    if not content:
        raise InputError("the file is empty")
    marked = content[128:132] == b"DICM"
    dataset = pydicom.dcmread(io.BytesIO(content), force=not marked)

    has_pixels = any(name in dataset for name in PIXEL_ELEMENTS)
    if not marked and not (has_pixels and "Rows" in dataset):
        raise InputError("is neither a DICOM, PNG nor JPEG file")
    if not has_pixels:
        raise InputError("holds no pixel data (or is cut off before them)")
    if int(dataset.get("NumberOfFrames") or 1) > 1:
        raise InputError(f"holds {dataset.NumberOfFrames} frames, and an X-ray has one")
    if not dataset.get("Rows") or not dataset.get("Columns"):
        raise InputError("states no image size")
    refuse_huge(dataset.Columns, dataset.Rows)

    if "TransferSyntaxUID" not in dataset.file_meta:
        # No meta header: the pixels are taken as uncompressed.
        implicit, little_endian = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little_endian else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return dataset


def read_stored_pixels(dataset: Dataset) -> np.ndarray:
    """What pydicom's pixel_array gives: (height, width) or (height, width, samples).

    The commonest kind of X-ray is decoded without pydicom's copies.
    """
    is_gray_byte = (
        dataset.get("SamplesPerPixel") == 1
        and dataset.get("BitsAllocated") == 8
        and dataset.get("PixelRepresentation") == 0
    )
    if is_gray_byte and dataset.file_meta.TransferSyntaxUID == JPEGBaseline8Bit:
        return _decode_gray_jpeg(dataset)
    return dataset.pixel_array


def _decode_gray_jpeg(dataset: Dataset) -> np.ndarray:
    """(height, width) uint8.

    OpenCV decodes to the same bits as Pillow in less time, but fills up what is cut off, which
    Pillow refuses.
    """
    jpeg = get_frame(dataset.PixelData, 0, number_of_frames=1)
    image = None
    if jpeg.rstrip(b"\0").endswith(JPEG_END):
        image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as picture:
            image = np.asarray(picture)

    stated = (dataset.Rows, dataset.Columns)
    if image.shape != stated:
        raise InputError(f"holds a JPEG of shape {image.shape}, and its header says {stated}")
    return image
