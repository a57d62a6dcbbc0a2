"""A small synthetic copy of SIIM-ACR Pneumothorax in its true on-disk format, oddities included."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from cxr.datasets.phantom.chest import Chest, draw_chest
from cxr.datasets.phantom.dicom import NIH_SIDE, DicomIds, write_jpeg_dicom
from cxr.datasets.phantom.findings import DRAW, collapse, expose, healthy
from cxr.datasets.phantom.folder import building, is_made, write_csv_lines
from cxr.datasets.phantom.patients import draw_patients
from cxr.geometry.masks import EMPTY, encode_runs

UID = "1.2.276.0.7230010.3.1.{}.8323329.{}.1517875{}.{}"  # level: 2 study, 3 series, 4 image
POSITIVE_SHARE = 0.4  # a demo needs more positives than the 22 % of the original
BOTH_SHARE = 0.1  # of the positives with a pneumothorax in both lungs
# What a network must not take for a pneumothorax.
OTHERS = ("Effusion", "Nodule", "Emphysema", "Fibrosis")


@dataclass(frozen=True)
class PneumothoraxImage:
    """An image's id, the run lengths of its regions, and its file's name in the NIH set."""

    image_id: str
    regions: list[str]
    nih_file: str


def draw_pneumothorax_xray(
    rng: np.random.Generator, chest: Chest, positive: bool, side: int
) -> tuple[np.ndarray, list[np.ndarray]]:
    """uint8 picture (side, side) and the masks (1024, 1024) of its regions, none if negative."""
    scene = healthy(rng, chest, side)
    first = int(rng.integers(2))
    affected: list[int] = []
    if positive:
        affected.append(first)
        if rng.random() < BOTH_SHARE:
            affected.append(1 - first)
    elif rng.random() < 0.5:
        DRAW[str(rng.choice(OTHERS))](rng, scene, first)

    masks = []
    for lung in affected:
        mask = collapse(rng, scene, lung)
        full_size = (NIH_SIDE, NIH_SIDE)
        masks.append(cv2.resize(mask, full_size, interpolation=cv2.INTER_NEAREST))
    return expose(rng, scene), masks


def write_pneumothorax_images(
    folder: Path, seed: Sequence[int], count: int, side: int, flat: bool
) -> list[PneumothoraxImage]:
    """Write `count` DICOMs, in the study/series/image tree or flat."""
    rng = np.random.default_rng(seed)
    is_positive = np.arange(count) < round(POSITIVE_SHARE * count)
    positive = rng.permutation(is_positive)
    images = []
    for number, patient in enumerate(draw_patients(rng, count)):
        image_rng = np.random.default_rng([*seed, number])
        view = str(image_rng.choice(["PA", "AP"]))
        chest = draw_chest(image_rng, view, patient.sex, patient.age)
        image, masks = draw_pneumothorax_xray(image_rng, chest, positive[number], side)
        if flat:
            ids = DicomIds("", "", f"ID_{int(image_rng.integers(16**9)):09x}")
            path = folder / f"{ids.image}.dcm"
            patient_id = ""
        else:
            ids = number_image(number, 300 + 7 * number + 9000 * seed[-1])
            path = folder / ids.study / ids.series / f"{ids.image}.dcm"
            patient_id = str(uuid.UUID(bytes=image_rng.bytes(16), version=4))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_jpeg_dicom(path, image, patient_id, chest, ids)
        regions = [encode_runs(mask) for mask in masks] or [EMPTY]
        images.append(PneumothoraxImage(ids.image, regions, patient.nih_file))
    return images


def number_image(number: int, process: int) -> DicomIds:
    """Identifiers of the n-th image in the form of the original's."""
    second = f"{number % 900:03}"
    study, series, image = (UID.format(k, process, second, 200000 + number) for k in (2, 3, 4))
    return DicomIds(study, series, image)


def write_mask_labels(folder: Path, images: Sequence[PneumothoraxImage], generation: int) -> None:
    """The labels of the first or second stage: a line for each region, blanks in the first's."""
    name = "train-rle.csv" if generation == 1 else "stage_2_train.csv"
    blank = " " if generation == 1 else ""
    lines = []
    for image in images:
        for region in image.regions:
            lines.append((image.image_id, f"{blank}{region}"))
    write_csv_lines(folder / name, f"ImageId,{blank}EncodedPixels", lines)


def write_pneumothorax(
    folder: Path,
    n_train: int = 160,
    n_test: int = 24,
    seed: int = 0,
    side: int = 512,
    generation: int = 2,
) -> bool:
    """Write a synthetic siim-acr-pneumothorax-segmentation, drawn at `side`, of 1024 pixels.

    generation: 1 or 2, the stage of the competition whose layout it has. The labels name an image
    that is not there, and one image has no annotation, as in the original. The folder appears
    whole or not at all. One that was made with the same settings is kept: returns False. Raises
    InputError if the folder holds anything else.
    """
    folder = Path(folder)
    settings = {
        "n_train": n_train,
        "n_test": n_test,
        "seed": seed,
        "side": side,
        "generation": generation,
    }
    if is_made(folder, settings):
        return False
    flat = generation == 2
    with building(folder, settings) as unfinished:
        train_folder = unfinished / "dicom-images-train"
        train = write_pneumothorax_images(train_folder, [seed, 0], n_train + 1, side, False)
        test_folder = unfinished / ("stage_2_images" if flat else "dicom-images-test")
        test = write_pneumothorax_images(test_folder, [seed, 1], n_test, side, flat)

        absent = PneumothoraxImage(UID.format(4, 9, "000", 100000), [EMPTY], "00000001_000.png")
        write_mask_labels(unfinished, [*train[:-1], absent], generation)
        mapping = [(image.image_id, image.nih_file) for image in train]
        write_csv_lines(unfinished / "nih_id.csv", "Kaggle_ID,NIH_ID", mapping)
        if flat:
            sample = [(image.image_id, EMPTY) for image in test]
            sample_path = unfinished / "stage_2_sample_submission.csv"
            write_csv_lines(sample_path, "ImageId,EncodedPixels", sample)
    return True
