"""A small synthetic copy of SIIM-FISABIO-RSNA COVID-19 in its true format, oddities included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    UID,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    RLELossless,
)

from cxr.datasets.phantom.chest import (
    LOWER_LUNG,
    UPPER_LUNG,
    Chest,
    Zone,
    draw_chest,
    draw_consolidation,
    frame_grid,
)
from cxr.datasets.phantom.dicom import save_dicom
from cxr.datasets.phantom.findings import DRAW, Scene, expose, fill_with_fluid, healthy
from cxr.datasets.phantom.folder import building, is_made, write_csv_lines

NEGATIVE, TYPICAL, INDETERMINATE, ATYPICAL = range(4)
STUDY_HEADER = (
    "id,Negative for Pneumonia,Typical Appearance,Indeterminate Appearance,Atypical Appearance"
)
# A demo needs more of the last two than the 17 and 8 % of the original.
CLASS_SHARES = (0.28, 0.34, 0.2, 0.18)
UNBOXED_SHARE = 0.03  # images of positive studies that were not labelled, as 82 in the original
BITS = (12, 14, 16)  # of a pixel, one of these in each file


@dataclass(frozen=True)
class FirstImage:
    """An image at the beginning of a training set; patients and studies are numbered."""

    patient: int
    study: int
    study_class: int
    source: int | None
    boxed: bool


# The beginning of every training set, so that a small one has all oddities: two studies of a
# patient, a copy without boxes in a study, a study of two different images, an unlabelled image, a
# copy in another patient's study.
FIRST = (
    FirstImage(0, 0, TYPICAL, None, True),
    FirstImage(0, 0, TYPICAL, 0, False),
    FirstImage(0, 1, NEGATIVE, None, False),
    FirstImage(1, 2, INDETERMINATE, None, True),
    FirstImage(1, 2, INDETERMINATE, None, True),
    FirstImage(2, 3, ATYPICAL, None, False),
    FirstImage(3, 4, TYPICAL, 0, True),
)


@dataclass(frozen=True)
class PlannedImage:
    """One image: its ids, the class of its study, and the number of the image that it copies.

    `source` is None where it is no copy; `boxed` tells whether its boxes are in the tables.
    """

    patient: str
    study: str
    image_id: str
    study_class: int
    source: int | None
    boxed: bool


@dataclass(frozen=True)
class DrawnPicture:
    """A float32 picture of 0 to 255, boxes (n, 4) as x1 y1 x2 y2, and the chest it shows."""

    image: np.ndarray
    boxes: np.ndarray
    chest: Chest


@dataclass(frozen=True)
class DeepPixels:
    """uint16 pixels of which `bits` are used, and whether bright stands for little tissue."""

    pixels: np.ndarray
    bits: int
    inverted: bool


# ------------------------------------------------------------------------------- what to draw


def hexadecimal(rng: np.random.Generator) -> str:
    """An id of 12 hexadecimal digits."""
    return rng.bytes(6).hex()


def plan(rng: np.random.Generator, count: int, oddities: bool) -> list[PlannedImage]:
    """`count` images of patients with one to three studies of one to three images."""
    images: list[PlannedImage] = []
    if oddities:
        patients = [hexadecimal(rng) for _ in range(4)]
        studies = [hexadecimal(rng) for _ in range(5)]
        for first in FIRST:
            image = PlannedImage(
                patients[first.patient],
                studies[first.study],
                hexadecimal(rng),
                first.study_class,
                first.source,
                first.boxed,
            )
            images.append(image)
    while len(images) < count:
        patient = hexadecimal(rng)
        for _ in range(rng.choice([1, 2, 3], p=[0.75, 0.17, 0.08])):
            images.extend(plan_study(rng, patient, len(images)))
    return images[:count]


def plan_study(rng: np.random.Generator, patient: str, first: int) -> list[PlannedImage]:
    """Images of a study, the first of number `first`; the others may be its copies."""
    study = hexadecimal(rng)
    study_class = int(rng.choice(4, p=CLASS_SHARES))
    boxed = study_class != NEGATIVE and rng.random() >= UNBOXED_SHARE
    images = [PlannedImage(patient, study, hexadecimal(rng), study_class, None, boxed)]
    for _ in range(rng.choice([0, 1, 2], p=[0.9, 0.08, 0.02])):
        is_copy = rng.random() < 0.5
        source = first if is_copy else None
        image = PlannedImage(
            patient, study, hexadecimal(rng), study_class, source, boxed and not is_copy
        )
        images.append(image)
    return images


# ------------------------------------------------------------------------------- pictures


def add_study_opacity(rng: np.random.Generator, scene: Scene, lung: int, zone: Zone) -> np.ndarray:
    """Draw an opacity into a zone of a lung; its box x1 y1 x2 y2 in 0..1."""
    sign = 2 * lung - 1
    opacity = draw_consolidation(rng, scene.grid, scene.lungs[lung], sign, scene.chest, zone)
    scene.density = np.maximum(scene.density, opacity.density * rng.uniform(0.7, 0.95))
    return opacity.box


def draw_study_class(rng: np.random.Generator, scene: Scene, study_class: int) -> np.ndarray:
    """Draw what a class looks like; boxes (n, 4) in 0..1.

    Typical: opacities low in both lungs. Indeterminate: one opacity, high in one lung. Atypical: an
    effusion, with a mass beside it or not. (The grading of RSNA's consensus statement of 2020,
    simplified.)
    """
    first = int(rng.integers(2))
    boxes = []
    if study_class == TYPICAL:
        has_upper = rng.random() < 0.3
        boxes.append(add_study_opacity(rng, scene, 0, LOWER_LUNG))
        boxes.append(add_study_opacity(rng, scene, 1, LOWER_LUNG))
        if has_upper:
            boxes.append(add_study_opacity(rng, scene, first, UPPER_LUNG))
    elif study_class == INDETERMINATE:
        boxes.append(add_study_opacity(rng, scene, first, UPPER_LUNG))
    elif study_class == ATYPICAL:
        # Larger than that of ChestX-Det10's phantom, since it is all there is to see.
        boxes.append(fill_with_fluid(scene, first, rng.uniform(0.22, 0.34)))
        if rng.random() < 0.5:
            boxes.append(DRAW["Mass"](rng, scene, 1 - first))
    return np.array(boxes).reshape(-1, 4)


def retake(
    rng: np.random.Generator, image: np.ndarray, boxes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The same taken from another distance and place, with uneven exposure; boxes (n, 4) in 0..1.

    Without it all drawn chests fill the frame alike, and their hashes are as close as those of
    copies.
    """
    side = len(image)
    zoom = rng.uniform(0.75, 1.2, 2)
    shift = rng.uniform(-0.1, 0.1, 2)
    tilt = rng.uniform(-0.5, 0.5, 2)
    move = 0.5 - 0.5 * zoom + shift
    matrix = np.column_stack([np.diag(zoom), move * side])
    warped = cv2.warpAffine(
        image,
        matrix,
        (side, side),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    x, y = frame_grid(side)
    light = 1 + tilt[0] * (x - 0.5) + tilt[1] * (y - 0.5)
    moved_boxes = boxes * np.tile(zoom, 2) + np.tile(move, 2)
    return np.clip(warped * light, 0, 255).astype(np.float32), moved_boxes


def draw_source(seed: Sequence[int], number: int, study_class: int, side: int) -> DrawnPicture:
    """An image (side, side) that is no copy; boxes in 0..1."""
    rng = np.random.default_rng([*seed, number])
    view = str(rng.choice(["PA", "AP"]))
    sex = str(rng.choice(["M", "F"]))
    age = int(rng.integers(20, 90))
    chest = draw_chest(rng, view, sex, age)
    scene = healthy(rng, chest, side)
    scene_boxes = draw_study_class(rng, scene, study_class)
    image, boxes = retake(rng, expose(rng, scene), scene_boxes)
    return DrawnPicture(image, np.clip(boxes, 0, 1), chest)


def draw_planned(
    seed: Sequence[int], number: int, images: Sequence[PlannedImage], side: int
) -> DrawnPicture:
    """The picture of an image of the plan, about (side, side); boxes in its pixels.

    A copy has another size or is mirrored.
    """
    planned = images[number]
    is_copy = planned.source is not None
    source = number if planned.source is None else planned.source
    rng = np.random.default_rng([*seed, number, 1])
    drawn = draw_source(seed, source, images[source].study_class, side)
    image = drawn.image
    boxes = drawn.boxes
    if is_copy and (number == 1 or rng.random() < 0.4):
        image = np.ascontiguousarray(image[:, ::-1])
        boxes = mirror_boxes(boxes)

    size_rng = np.random.default_rng([*seed, source, 2])
    width, height = (size_rng.uniform([0.95, 0.85], [1.2, 1.1]) * side).astype(int)
    scale = rng.uniform(0.75, 1.25) if is_copy else 1
    size = (round(width * scale), round(height * scale))
    picture = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    return DrawnPicture(picture, boxes * np.tile(size, 2), drawn.chest)


def mirror_boxes(boxes: np.ndarray) -> np.ndarray:
    """Boxes (n, 4) as x1 y1 x2 y2 in 0..1 of the mirrored picture."""
    return np.stack([1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]], axis=1)


# ------------------------------------------------------------------------------- files


def to_deep_pixels(rng: np.random.Generator, picture: np.ndarray) -> DeepPixels:
    """A picture of 0 to 255 with 12 to 16 bits a pixel; every third is inverted."""
    bits = int(rng.choice(BITS))
    inverted = rng.random() < 1 / 3
    highest = 2**bits - 1
    black = rng.uniform(0, 0.1) * highest
    white = rng.uniform(0.8, 1) * highest
    stored = np.round(black + (white - black) * np.clip(picture, 0, 255) / 255)
    if inverted:
        stored = highest - stored
    return DeepPixels(stored.astype(np.uint16), bits, inverted)


def write_deep_dicom(
    path: Path, picture: DrawnPicture, planned: PlannedImage, rng: np.random.Generator
) -> None:
    """A DICOM of 12 to 16 bits, every second one compressed.

    The ids are no DICOM UIDs, as in the original.
    """
    stored = to_deep_pixels(rng, picture.image)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.TransferSyntaxUID = ExplicitVRLittleEndian

    data = pydicom.Dataset()
    data.file_meta = meta
    data.SOPClassUID = DigitalXRayImageStorageForPresentation
    data.PatientID = planned.patient
    data.PatientName = planned.patient
    data.PatientSex = picture.chest.sex
    data.Modality = "DX"
    data.BodyPartExamined = "CHEST"
    data.SamplesPerPixel = 1
    data.PixelRepresentation = 0
    data.PhotometricInterpretation = "MONOCHROME1" if stored.inverted else "MONOCHROME2"
    data.Rows, data.Columns = stored.pixels.shape
    data.BitsAllocated = 16
    data.BitsStored = stored.bits
    data.HighBit = stored.bits - 1
    data.PixelData = stored.pixels.tobytes()
    data["PixelData"].VR = "OW"
    with pydicom.config.disable_value_validation():
        meta.MediaStorageSOPInstanceUID = UID(planned.image_id)
        data.SOPInstanceUID = planned.image_id
        data.StudyInstanceUID = planned.study
        data.SeriesInstanceUID = path.parent.name
        if rng.random() < 0.5:
            data.compress(RLELossless, stored.pixels, generate_instance_uid=False)
        save_dicom(data, path)


def write_covid_images(
    folder: Path, seed: Sequence[int], images: Sequence[PlannedImage], side: int
) -> list[np.ndarray]:
    """Write the DICOMs into the tree. Returns the boxes (n, 4) of each in its pixels, if boxed."""
    all_boxes = []
    for number, planned in enumerate(images):
        rng = np.random.default_rng([*seed, number, 3])
        picture = draw_planned(seed, number, images, side)
        path = folder / planned.study / hexadecimal(rng) / f"{planned.image_id}.dcm"
        path.parent.mkdir(parents=True)
        write_deep_dicom(path, picture, planned, rng)
        boxes = np.round(picture.boxes, 2) if planned.boxed else np.zeros((0, 4))
        all_boxes.append(boxes)
    return all_boxes


def write_covid_tables(
    folder: Path,
    train: Sequence[PlannedImage],
    boxes: Sequence[np.ndarray],
    test: Sequence[PlannedImage],
) -> None:
    """Both csv files of the training set and the sample submission."""
    classes = {image.study: image.study_class for image in train}
    study_rows = []
    for study, study_class in sorted(classes.items()):
        one_hot = np.eye(4, dtype=int)[study_class].tolist()
        study_rows.append([f"{study}_study", *one_hot])

    image_rows = []
    for image, image_boxes in zip(train, boxes, strict=True):
        box_cell, label_cell = image_cells(image_boxes)
        image_rows.append((f"{image.image_id}_image", box_cell, label_cell, image.study))

    test_studies = sorted({image.study for image in test})
    sample_rows = [(f"{study}_study", "negative 1 0 0 1 1") for study in test_studies]
    sample_rows += [(f"{image.image_id}_image", "none 1 0 0 1 1") for image in test]

    image_header = "id,boxes,label,StudyInstanceUID"
    write_csv_lines(folder / "train_study_level.csv", STUDY_HEADER, study_rows)
    write_csv_lines(folder / "train_image_level.csv", image_header, sorted(image_rows))
    write_csv_lines(folder / "sample_submission.csv", "id,PredictionString", sample_rows)


def image_cells(boxes: np.ndarray) -> tuple[str, str]:
    """The cells `boxes` and `label` of an image with boxes (n, 4) as x1 y1 x2 y2."""
    if len(boxes) == 0:
        return "", "none 1 0 0 1 1"
    entries = []
    words = []
    for x1, y1, x2, y2 in boxes.tolist():
        width = x2 - x1
        height = y2 - y1
        entries.append({"x": x1, "y": y1, "width": width, "height": height})
        # x1 + width, not x2, so that both columns agree to the last digit.
        words.append(f"opacity 1 {x1} {y1} {x1 + width} {y1 + height}")
    return str(entries), " ".join(words)


def write_covid(
    folder: Path, n_train: int = 160, n_test: int = 24, seed: int = 0, side: int = 512
) -> bool:
    """Write a synthetic siim-covid19-detection, its images about (side, side) pixels.

    The folder appears whole or not at all. One that was made with the same settings is kept:
    returns False. Raises InputError if the folder holds anything else.
    """
    folder = Path(folder)
    settings = {"n_train": n_train, "n_test": n_test, "seed": seed, "side": side}
    if is_made(folder, settings):
        return False
    with building(folder, settings) as unfinished:
        train = plan(np.random.default_rng([seed, 0]), n_train, True)
        test = plan(np.random.default_rng([seed, 1]), n_test, False)
        boxes = write_covid_images(unfinished / "train", [seed, 0], train, side)
        write_covid_images(unfinished / "test", [seed, 1], test, side)
        write_covid_tables(unfinished, train, boxes, test)
    return True
