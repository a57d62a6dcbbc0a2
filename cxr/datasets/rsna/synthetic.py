"""A small synthetic copy of the RSNA challenge, so that everything runs without a download."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cxr.datasets.phantom.chest import (
    NORMAL,
    NOT_NORMAL,
    OPACITY,
    Chest,
    draw_chest,
    draw_xray,
)
from cxr.datasets.phantom.dicom import NIH_SIDE, ids_from_uuid, write_jpeg_dicom
from cxr.datasets.phantom.folder import building, is_made, write_csv_lines
from cxr.datasets.phantom.patients import PatientImage, draw_patients

# A demo of some 100 images needs more positives than the 22.5 % of the original; the others keep
# their ratio.
CLASS_SHARES = {OPACITY: 0.35, NOT_NORMAL: 0.37, NORMAL: 0.28}
# The sicker lie in bed and are taken from the front.
AP_SHARES = {NORMAL: 0.25, NOT_NORMAL: 0.45, OPACITY: 0.75}


@dataclass(frozen=True)
class RsnaImage:
    """A drawn image: its id, class and boxes (n, 4) as x1 y1 x2 y2 in pixels of 1024 x 1024."""

    image_id: str
    image_class: str
    boxes: np.ndarray
    patient: PatientImage
    chest: Chest


def draw_image_classes(rng: np.random.Generator, count: int) -> list[str]:
    """`count` class names in the shares of CLASS_SHARES, in random order."""
    names = list(CLASS_SHARES)
    edges = np.cumsum(list(CLASS_SHARES.values()))
    positions = (np.arange(count) + 0.5) / count
    return [names[k] for k in rng.permutation(np.searchsorted(edges, positions))]


def write_rsna_images(folder: Path, seed: Sequence[int], count: int, side: int) -> list[RsnaImage]:
    """Write `count` DICOMs, drawn at (side, side), into a new folder."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    classes = draw_image_classes(rng, count)
    patients = draw_patients(rng, count)
    images = []
    for number, (image_class, patient) in enumerate(zip(classes, patients, strict=True)):
        image_rng = np.random.default_rng([*seed, number])
        image_id = str(uuid.UUID(bytes=image_rng.bytes(16), version=4))
        view = "AP" if image_rng.random() < AP_SHARES[image_class] else "PA"
        chest = draw_chest(image_rng, view, patient.sex, patient.age)
        xray = draw_xray(image_rng, chest, image_class, side)
        ids = ids_from_uuid(image_id)
        write_jpeg_dicom(folder / f"{image_id}.dcm", xray.image, image_id, chest, ids)
        boxes = np.round(xray.boxes * NIH_SIDE)
        images.append(RsnaImage(image_id, image_class, boxes, patient, chest))
    return images


def write_rsna_tables(folder: Path, train: Sequence[RsnaImage], test: Sequence[RsnaImage]) -> None:
    """The csv files: one line for each box, so that ids repeat in both, as in the original."""
    labels: list[list[object]] = []
    classes: list[list[object]] = []
    mapping: list[list[object]] = []
    for image in train:
        for x1, y1, x2, y2 in image.boxes.tolist():
            labels.append([image.image_id, x1, y1, x2 - x1, y2 - y1, 1])
            classes.append([image.image_id, image.image_class])
        if len(image.boxes) == 0:
            labels.append([image.image_id, "", "", "", "", 0])
            classes.append([image.image_id, image.image_class])
        patient = image.patient
        chest = image.chest
        names = [image.image_id, patient.nih_file, patient.nih_patient]
        mapping.append([*names, chest.age, chest.sex, chest.view])
    guesses = [[image.image_id, "0.5 0 0 100 100"] for image in test]

    label_header = "patientId,x,y,width,height,Target"
    mapping_header = "patientId,nih_image,nih_patient_id,age,sex,view"
    write_csv_lines(folder / "stage_2_train_labels.csv", label_header, labels)
    write_csv_lines(folder / "stage_2_detailed_class_info.csv", "patientId,class", classes)
    write_csv_lines(folder / "nih_mapping.csv", mapping_header, mapping)
    sample = folder / "stage_2_sample_submission.csv"
    write_csv_lines(sample, "patientId,PredictionString", guesses)


def write_rsna(
    folder: Path, n_train: int = 160, n_test: int = 24, seed: int = 0, side: int = 512
) -> bool:
    """Write a synthetic rsna-pneumonia-detection-challenge, drawn at `side`, of 1024 pixels.

    The folder appears whole or not at all. One that was made with the same settings is kept:
    returns False. Raises InputError if the folder holds anything else.
    """
    folder = Path(folder)
    settings = {"n_train": n_train, "n_test": n_test, "seed": seed, "side": side}
    if is_made(folder, settings):
        return False
    with building(folder, settings) as unfinished:
        train_folder = unfinished / "stage_2_train_images"
        test_folder = unfinished / "stage_2_test_images"
        train = write_rsna_images(train_folder, [seed, 0], n_train, side)
        test = write_rsna_images(test_folder, [seed, 1], n_test, side)
        write_rsna_tables(unfinished, train, test)
    return True
