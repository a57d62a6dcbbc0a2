"""A small fake of a data set in its true on-disk format, so that everything runs without a download."""

import csv
import io
import shutil
import uuid
from pathlib import Path

import cv2
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit, SecondaryCaptureImageStorage

from cxr.datasets.phantom.chest import NORMAL, NOT_NORMAL, OPACITY, draw_chest, draw_xray
from cxr.system.disk import InputError, read_json, write_json

FRAME = 1024  # pixels on each side of every RSNA image; boxes are in these pixels
MARKER = (
    "synthetic.json"  # tells a synthetic folder from a downloaded one, and which settings made it
)
# A demo of some 100 images needs more positives than the 22.5 % of the original; the others keep their ratio.
CLASS_SHARES = {OPACITY: 0.35, NOT_NORMAL: 0.37, NORMAL: 0.28}
AP_SHARES = {
    NORMAL: 0.25,
    NOT_NORMAL: 0.45,
    OPACITY: 0.75,
}  # the sicker lie in bed and are taken from the front


def write_dicom(path, image, identifier, chest, uids=None):
    """A JPEG baseline DICOM with the tags of the original. `image` is uint8 (side, side), stored at 1024 x 1024.

    `identifier` names the patient; `uids` are those of study, series and image, else they are made of the identifier.
    """
    full = cv2.resize(image, (FRAME, FRAME), interpolation=cv2.INTER_LINEAR)
    jpeg = cv2.imencode(".jpg", full, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
    meta, data = FileMetaDataset(), Dataset()
    meta.MediaStorageSOPClassUID = data.SOPClassUID = SecondaryCaptureImageStorage
    own = uids[2] if uids else f"2.25.{uuid.UUID(identifier).int}"
    with (
        pydicom.config.disable_value_validation()
    ):  # an image of a test set has "ID_..." where a UID should be
        data.StudyInstanceUID, data.SeriesInstanceUID = (
            uids[:2] if uids else (f"{own}.1", f"{own}.2")
        )
        data.SOPInstanceUID = own
        meta.MediaStorageSOPInstanceUID = own if own[:1].isdigit() else "2.25.1"
    meta.TransferSyntaxUID = JPEGBaseline8Bit
    data.StudyDate, data.StudyTime, data.Modality, data.ConversionType = (
        "19010101",
        "000000.00",
        "CR",
        "WSD",
    )
    data.PatientName = data.PatientID = identifier
    data.PatientSex, data.ViewPosition, data.BodyPartExamined = chest.sex, chest.view, "CHEST"
    data.SeriesDescription, data.PixelSpacing = f"view: {chest.view}", [0.143, 0.143]
    with (
        pydicom.config.disable_value_validation()
    ):  # the original has "57" where the standard asks for "057Y"
        data.PatientAge = str(chest.age)
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = (
        1,
        "MONOCHROME2",
        0,
    )
    data.Rows, data.Columns, data.BitsAllocated, data.BitsStored, data.HighBit = (
        FRAME,
        FRAME,
        8,
        8,
        7,
    )
    data.LossyImageCompression, data.LossyImageCompressionMethod = "01", "ISO_10918_1"
    data.PixelData, data.file_meta = encapsulate([jpeg]), meta
    data["PixelData"].VR = "OB"
    content = io.BytesIO()  # pydicom would hide the reason if writing to the disk failed
    data.save_as(content, enforce_file_format=True)
    path.write_bytes(content.getvalue())


def draw_patients(rng, count):
    """(patient number, image number, sex, age) of `count` images; every third patient or so has several."""
    people = []
    for patient in rng.choice(30805, count, replace=False) + 1:  # the NIH set has 30,805 patients
        first = int(rng.integers(0, 20))
        sex, age = (
            str(rng.choice(["M", "F"], p=[0.57, 0.43])),
            int(np.clip(rng.normal(47, 17), 5, 90)),
        )
        people += [
            (int(patient), first + k, sex, age) for k in range(rng.choice([1, 1, 1, 1, 2, 4]))
        ]
    return people[:count]


def draw_kinds(rng, count):
    """`count` class names in the shares of CLASS_SHARES, in random order."""
    edges = np.cumsum(list(CLASS_SHARES.values()))
    return [
        list(CLASS_SHARES)[k]
        for k in rng.permutation(np.searchsorted(edges, (np.arange(count) + 0.5) / count))
    ]


def write_images(folder, seed, count, side):
    """Write `count` DICOMs. Returns for each (id, class, boxes (n, 4) in 1024 pixels, patient, image number, Chest)."""
    folder.mkdir(parents=True)
    rng, rows = np.random.default_rng(seed), []
    for number, (kind, person) in enumerate(zip(draw_kinds(rng, count), draw_patients(rng, count))):
        own = np.random.default_rng([*seed, number])
        identifier = str(uuid.UUID(bytes=own.bytes(16), version=4))
        chest = draw_chest(own, "AP" if own.random() < AP_SHARES[kind] else "PA", *person[2:])
        image, boxes = draw_xray(own, chest, kind, side)
        write_dicom(folder / f"{identifier}.dcm", image, identifier, chest)
        rows.append((identifier, kind, np.round(boxes * FRAME), *person[:2], chest))
    return rows


def write_table(path, header, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header.split(","), *rows])


def write_tables(folder, train, test):
    """The csv files: one line for each box, so that ids repeat in both label files, as in the original."""
    labels, classes, mapping = [], [], []
    for identifier, kind, boxes, patient, image, chest in train:
        corners = [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in boxes.tolist()]
        labels += [[identifier, *corner, 1] for corner in corners] or [
            [identifier, "", "", "", "", 0]
        ]
        classes += [[identifier, kind]] * max(1, len(boxes))
        nih = f"{patient:08d}"
        mapping.append(
            [identifier, f"{nih}_{image:03d}.png", nih, chest.age, chest.sex, chest.view]
        )
    write_table(folder / "stage_2_train_labels.csv", "patientId,x,y,width,height,Target", labels)
    write_table(folder / "stage_2_detailed_class_info.csv", "patientId,class", classes)
    write_table(
        folder / "nih_mapping.csv", "patientId,nih_image,nih_patient_id,age,sex,view", mapping
    )
    guesses = [[row[0], "0.5 0 0 100 100"] for row in test]
    write_table(folder / "stage_2_sample_submission.csv", "patientId,PredictionString", guesses)


def write_rsna(folder, n_train=160, n_test=24, seed=0, side=512):
    """Write a fake of rsna-pneumonia-detection-challenge into `folder`, drawn at `side` and stored at 1024 pixels.

    The folder appears whole or not at all. One that was made with the same settings is kept: returns False.
    Raises InputError if `folder` holds anything else.
    """

    def fill(building):
        train = write_images(building / "stage_2_train_images", [seed, 0], n_train, side)
        test = write_images(building / "stage_2_test_images", [seed, 1], n_test, side)
        write_tables(building, train, test)

    return write_whole(
        Path(folder), {"n_train": n_train, "n_test": n_test, "seed": seed, "side": side}, fill
    )


def write_whole(folder, settings, fill):
    """Let fill(another folder) write the files, which then become `folder`. False where it is there already."""
    if folder.exists():
        check_same(folder, settings)
        return False
    building = folder.with_name(f".{folder.name}.building")
    shutil.rmtree(building, ignore_errors=True)
    fill(building)
    write_json(building / MARKER, settings)
    building.rename(folder)
    return True


def check_same(folder, settings):
    if not (folder / MARKER).is_file():
        raise InputError(
            f"{folder} exists and is not synthetic: choose another --input for the demo, or remove it"
        )
    made = read_json(folder / MARKER)
    if made != settings:
        raise InputError(
            f"{folder} holds a synthetic set made with {made}, not {settings}: delete it to make it anew"
        )
