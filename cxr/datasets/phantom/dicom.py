"""DICOM files of drawn X-rays."""

from __future__ import annotations

import io
import uuid
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, JPEGBaseline8Bit, SecondaryCaptureImageStorage

from cxr.datasets.phantom.chest import Chest

NIH_SIDE = 1024  # pixels on each side of every image of the NIH set and of the sets made of it


class DicomIds(NamedTuple):
    """Unique identifiers of an image and of what it belongs to."""

    study: str
    series: str
    image: str


def ids_from_uuid(text: str) -> DicomIds:
    """Identifiers that are made of a UUID, as the standard's part 5, B.2, has it."""
    root = f"2.25.{uuid.UUID(text).int}"
    return DicomIds(f"{root}.1", f"{root}.2", root)


def enlarge_to_nih(image: np.ndarray) -> np.ndarray:
    """uint8 picture (side, side) -> the same at (1024, 1024), the size of the NIH's images."""
    return cv2.resize(image, (NIH_SIDE, NIH_SIDE), interpolation=cv2.INTER_LINEAR)


def write_jpeg_dicom(
    path: Path, image: np.ndarray, patient_id: str, chest: Chest, ids: DicomIds
) -> None:
    """A JPEG baseline DICOM with the tags of the RSNA challenge's files.

    image: uint8 (side, side), stored at 1024 x 1024 pixels.
    """
    quality = [cv2.IMWRITE_JPEG_QUALITY, 85]
    jpeg = cv2.imencode(".jpg", enlarge_to_nih(image), quality)[1].tobytes()
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.TransferSyntaxUID = JPEGBaseline8Bit

    data = pydicom.Dataset()
    data.file_meta = meta
    data.SOPClassUID = SecondaryCaptureImageStorage
    data.StudyDate = "19010101"
    data.StudyTime = "000000.00"
    data.Modality = "CR"
    data.ConversionType = "WSD"
    data.PatientName = patient_id
    data.PatientID = patient_id
    data.PatientSex = chest.sex
    data.ViewPosition = chest.view
    data.BodyPartExamined = "CHEST"
    data.SeriesDescription = f"view: {chest.view}"
    data.PixelSpacing = [0.143, 0.143]
    # An image of a test set has "ID_..." where a UID should be, and the originals have the age
    # "57" where the standard asks for "057Y".
    with pydicom.config.disable_value_validation():
        data.StudyInstanceUID = ids.study
        data.SeriesInstanceUID = ids.series
        data.SOPInstanceUID = ids.image
        meta.MediaStorageSOPInstanceUID = UID(ids.image if ids.image[:1].isdigit() else "2.25.1")
        data.PatientAge = str(chest.age)

    data.SamplesPerPixel = 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.PixelRepresentation = 0
    data.Rows = NIH_SIDE
    data.Columns = NIH_SIDE
    data.BitsAllocated = 8
    data.BitsStored = 8
    data.HighBit = 7
    data.LossyImageCompression = "01"
    data.LossyImageCompressionMethod = "ISO_10918_1"
    data.PixelData = encapsulate([jpeg])
    data["PixelData"].VR = "OB"
    save_dicom(data, path)


def save_dicom(data: pydicom.Dataset, path: Path) -> None:
    """Write a data set through memory: pydicom would hide why writing to the disk failed."""
    content = io.BytesIO()
    data.save_as(content, enforce_file_format=True)
    path.write_bytes(content.getvalue())
